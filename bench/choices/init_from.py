"""Whether `--init-from` pays: a model of a long text, fine-tuned on a little of another.

    python -m bench.choices.init_from --long FILE --short FILE [--seeds 3]

FILE is plain UTF-8 text: --long is the text of the source, such as a King James Bible; --short is
another text, of which the first --bytes are trained on and the next --bytes are scored. Nothing is
chosen by the scored bytes. For each seed a source is trained on the long text; then two runs of the
same number of steps train on the short text, one from the source with `--init-from`, one from
initial weights with the model that `--preset auto` chooses for the short text. All models read
bytes, so they know every text and are scored in bits per byte. Writes
results/choices/init_from.json. --check takes a few steps, to see that it runs, and writes nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nanochat
from bench.command import command_parser
from bench.machine import write_result
from bench.race.statistics import paired_difference

SIDES = ("source", "alone", "tuned")
FIRST_SEED = 1337


def two_parts(text: Path, size: int, folder: Path) -> tuple[Path, Path]:
    """Write the first `size` bytes of a text and the `size` bytes after them, as two files."""
    data = text.read_bytes()
    if len(data) < 2 * size:
        raise SystemExit(f"--short must have {2 * size:,} bytes or more, got {len(data):,}")
    paths = []
    for name, start in (("train.txt", 0), ("scored.txt", size)):
        part = data[start : start + size].decode("utf-8", "ignore")  # a cut character is dropped
        (folder / name).write_text(part, encoding="utf-8")
        paths.append(folder / name)
    return paths[0], paths[1]


def one_seed(
    long: Path, short: Path, scored: Path, base: dict[str, Any], steps: tuple[int, int], out: Path
) -> dict[str, float]:
    """Train the three runs of a seed; return the bits per byte of each on the scored text."""
    source_steps, short_steps = steps
    source = {**base, "data": str(long), "steps": source_steps}
    alone = {**base, "data": str(short), "steps": short_steps}
    del alone["preset"]
    tuned = {name: value for name, value in alone.items() if name not in ("tokenizer", "mode")}
    tuned["init_from"] = str(out / "source")
    found = {}
    for side, options in zip(SIDES, (source, alone, tuned), strict=True):
        nanochat.train(nanochat.TrainConfig(**options, out=str(out / side)))
        score = nanochat.evaluate(
            nanochat.EvalConfig(run=str(out / side), data=str(scored), documents="file")
        )
        assert score.bpb is not None
        found[side] = score.bpb
    return found


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--long", type=Path, required=True)
    parser.add_argument("--short", type=Path, required=True)
    parser.add_argument("--bytes", type=int, default=50_000, help="of the short text")
    parser.add_argument("--preset", default="nano", help="of the source")
    parser.add_argument("--source-steps", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=600, help="on the short text")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--check", action="store_true", help="a few steps; writes nothing")
    options = parser.parse_args()
    steps = (3, 2) if options.check else (options.source_steps, options.steps)
    seeds = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        short, scored = two_parts(options.short, options.bytes, folder)
        for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
            base = {
                "preset": options.preset, "mode": "tensor", "tokenizer": "byte", "seed": seed,
                "documents": "file", "num_samples": 0,
            }  # fmt: skip
            out = folder / str(seed)
            seeds.append({"seed": seed, **one_seed(options.long, short, scored, base, steps, out)})
            print("  ".join(f"{key} {value:.6g}" for key, value in seeds[-1].items()), flush=True)
    mean, half = paired_difference([s["tuned"] for s in seeds], [s["alone"] for s in seeds])
    print(f"tuned − alone: {mean:+.4f} ± {half:.4f} bits per byte")
    record = {
        "long": "/".join(options.long.parts[-2:]),
        "short": "/".join(options.short.parts[-2:]), "bytes": options.bytes,
        "preset": options.preset, "source_steps": steps[0], "steps": steps[1],
        "unit": "bits per byte of text that chose nothing", "seeds": seeds,
        "tuned_minus_alone": {"mean": mean, "half_of_95_percent_interval": half},
    }  # fmt: skip
    if not options.check:
        print(write_result("choices/init_from", record))


if __name__ == "__main__":
    main()
