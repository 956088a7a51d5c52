"""The effect of each option of the nano preset: ablations on a part of the training bytes.

    python -m bench.choices.recipe --text FILE [FILE …] [--notebook NOTEBOOK] [--steps 300]
                                   [--seeds 3] [--bytes N]

FILE is split 90/10 as `nanochat train` splits it, and its last part is reserved: tuning never sees
the bytes that score the race. The first part, or its first N bytes, is split again for these runs.
Each row of the table changes one option, or one option and those that it needs, and is trained by
`nanochat.ablate` with the same seeds on each text. An effect is the mean over texts and seeds of
the difference from the first row. The model's options were measured around Muon, the learning rates
around both optimizers, and n-grams around the resulting recipe. Writes
results/choices/recipe-NOTEBOOK.json and prints a table of docs/recipe.md. --rows N limits the run
to the first N rows and writes nothing.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nanochat
from bench.command import command_parser
from bench.machine import write_result
from bench.race.statistics import paired_difference
from nanochat.config.options import merged_config
from nanochat.config.unsupported import without_effect

# As many parameters in wider blocks.
NO_NGRAMS = {"hash_embed_rows": 0, "n_layer": 3, "n_embd": 144}
MUON = {
    **NO_NGRAMS,
    "optimizer": "muon", "matrix_lr": 0.02, "lr": 0.01, "head_lr": 0.005, "muon_momentum": 0.9,
    "beta2": 0.95, "weight_decay": 0.0,
}  # fmt: skip

# The name of a change, and its options: several where one option needs the others.
Changes = Sequence[tuple[str, Mapping[str, Any]]]
MODEL: Changes = (
    ("no embeddings of the past", {"prev_token_tables": 0}),
    ("prev_token_tables 1", {"prev_token_tables": 1}),
    ("prev_token_tables 2", {"prev_token_tables": 2}),
    ("prev_token_tables 4", {"prev_token_tables": 4}),
    ("4 layers of 128", {"n_layer": 4, "n_embd": 128}),
    ("2 layers of 176", {"n_layer": 2, "n_embd": 176}),
    ("6 heads", {"n_head": 6}),
    ("output projections not zero", {"zero_init": False}),
    ("ReLU", {"activation": "relu"}),
    ("learned positions", {"positions": "learned"}),
    ("no QK norm", {"qk_norm": False}),
    ("no norm of the embedding", {"input_rmsnorm": False}),
    ("norm before the head", {"output_rmsnorm": True}),
    ("tied head", {"tie_lm_head": True}),
    ("soft-cap 15", {"logit_softcap": 15.0}),
    ("init_std 0.04", {"init_std": 0.04}),
    ("init_std 0.16", {"init_std": 0.16}),
)  # fmt: skip
MUON_RATES: Changes = (
    ("AdamW for all, rate 0.003", {"optimizer": "adamw", "matrix_lr": 0.003, "lr": 0.003,
                                   "head_lr": 0.003}),
    ("AdamW for all, rate 0.006", {"optimizer": "adamw", "matrix_lr": 0.006, "lr": 0.006,
                                   "head_lr": 0.006}),
    ("matrix_lr 0.01", {"matrix_lr": 0.01}),
    ("matrix_lr 0.03", {"matrix_lr": 0.03}),
    ("lr 0.005", {"lr": 0.005}),
    ("lr 0.02", {"lr": 0.02}),
    ("head_lr 0.0025", {"head_lr": 0.0025}),
    ("head_lr 0.01", {"head_lr": 0.01}),
    ("Muon's momentum 0.85", {"muon_momentum": 0.85}),
    ("Muon's momentum 0.95", {"muon_momentum": 0.95}),
    ("linear warmdown over all", {"lr_schedule": "linear"}),
    ("linear warmdown over the last half", {"lr_schedule": "linear", "warmdown_ratio": 0.5}),
    ("weight decay 0.1", {"weight_decay": 0.1}),
    ("batch 8, as many tokens", {"batch_size": 8, "steps": 1.5}),
    ("batch 24, as many tokens", {"batch_size": 24, "steps": 0.5}),
    ("float32", {"dtype": "float32"}),
)  # fmt: skip
ADAMW_RATES: Changes = (
    ("Muon for the matrices", MUON),
    ("lr 0.003", {"lr": 0.003}),
    ("lr 0.006", {"lr": 0.006}),
    ("lr 0.01 of the embeddings", {"lr": 0.01, "matrix_lr": 0.004, "head_lr": 0.004}),
    ("head_lr 0.008", {"head_lr": 0.008}),
    ("beta1 0.9", {"beta1": 0.9}),
    ("beta2 0.98", {"beta2": 0.98}),
    ("no weight decay", {"weight_decay": 0.0}),
    ("weight decay 0.5", {"weight_decay": 0.5}),
    ("dropout 0.05", {"dropout": 0.05}),
    ("no embeddings of the past", {"prev_token_tables": 0}),
    ("float32", {"dtype": "float32"}),
)  # fmt: skip
NGRAMS: Changes = (
    ("no n-grams, 3 layers of 144", NO_NGRAMS),
    ("no n-grams, the same blocks", {"hash_embed_rows": 0}),
    ("1,024 rows, 3 layers of 128", {"hash_embed_rows": 1024, "n_layer": 3, "n_embd": 128}),
    ("2,560 rows, 2 layers of 128", {"hash_embed_rows": 2560, "n_embd": 128}),
    ("6,400 rows, 1 layer of 96", {"hash_embed_rows": 6400, "n_layer": 1}),
    ("9,216 rows, 2 layers of 64", {"hash_embed_rows": 9216, "n_embd": 64}),
    ("n-grams of 2 tokens", {"hash_embed_longest": 2}),
    ("n-grams of 2 and 3 tokens", {"hash_embed_longest": 3}),
    ("n-grams of 2 to 6 tokens", {"hash_embed_longest": 6}),
    ("no embeddings of the past", {"prev_token_tables": 0}),
    ("lr 0.003", {"lr": 0.003}),
    ("lr 0.008", {"lr": 0.008}),
    ("beta1 0.7", {"beta1": 0.7}),
    ("beta1 0.9", {"beta1": 0.9}),
    ("no weight decay", {"weight_decay": 0.0}),
    ("weight decay 0.5", {"weight_decay": 0.5}),
    ("batch 6, as many tokens", {"batch_size": 6, "steps": 2.0}),
    ("batch 4, as many tokens", {"batch_size": 4, "steps": 3.0}),
    ("batch 24, as many tokens", {"batch_size": 24, "steps": 0.5}),
)  # fmt: skip
BPE = {"preset": "small", "lr": 0.004}
BPE_CHANGES: Changes = (
    ("characters", {"tokenizer": "char", "block_size": 256, "prev_token_tables": 3}),
    ("512 pieces", {"vocab_size": 512}),
    ("2048 pieces", {"vocab_size": 2048}),
    ("4,096 rows of n-grams of 2, 2 layers of 128",
     {"hash_embed_rows": 4096, "hash_embed_longest": 2, "n_layer": 2, "n_embd": 128}),
    ("4,096 rows of n-grams of 2 and 3, 2 layers of 128",
     {"hash_embed_rows": 4096, "hash_embed_longest": 3, "n_layer": 2, "n_embd": 128}),
    ("no embeddings of the past", {"prev_token_tables": 0}),
    ("prev_token_tables 3", {"prev_token_tables": 3}),
    ("no weight decay", {"weight_decay": 0.0}),
    ("weight decay 0.3", {"weight_decay": 0.3}),
    ("lr 0.002", {"lr": 0.002}),
    ("lr 0.006", {"lr": 0.006}),
)  # fmt: skip
ORDER_7 = {"ngram_order": 7}
COUNTS: Changes = (
    ("the network alone", {"ngram_order": 0}),
    ("counts of order 4", {"ngram_order": 4}),
    ("counts of order 13", {"ngram_order": 13}),
    ("no hashed n-grams", {"hash_embed_rows": 0}),
    ("no embeddings of the past", {"hash_embed_rows": 0, "prev_token_tables": 0}),
    ("the share of the counts as trained", {"ngram_share": "1,0"}),
    ("dropout 0.1", {"dropout": 0.1}),
)  # fmt: skip
# The steps of a row take as long as those of the base, by their measured time.
ORDER_5 = {"ngram_order": 5}
PIECE_COUNTS: Changes = (
    ("the network alone", {"ngram_order": 0}),
    ("counts of order 4", {"ngram_order": 4}),
    ("counts of order 7", {"ngram_order": 7}),
    ("3 layers of 144, 0.6 times the steps", {"n_embd": 144, "steps": 0.6}),
    ("2 layers of 96, 1.35 times the steps", {"n_layer": 2, "steps": 1.35}),
    ("batch 3, 1.7 times the steps", {"batch_size": 3, "steps": 1.7}),
    ("512 pieces", {"vocab_size": 512}),
    ("2048 pieces", {"vocab_size": 2048}),
    ("no embeddings of the past", {"prev_token_tables": 0}),
    ("lr 0.008", {"lr": 0.008}),
    ("the share of the counts as trained", {"ngram_share": "1,0"}),
    ("dropout 0.1", {"dropout": 0.1}),
)  # fmt: skip
FOUR = {"n_head": 4}  # of the presets before the notebook "heads"
HEADS: Changes = tuple((f"{n} heads", {"n_head": n}) for n in (1, 2, 4, 6))
NOTEBOOKS: Mapping[str, tuple[Mapping[str, Any], Changes]] = {
    "muon": ({**FOUR, **MUON}, (("the recipe", {}), *MODEL, *MUON_RATES)),
    "adamw": ({**FOUR, **NO_NGRAMS}, (("the recipe", {}), *ADAMW_RATES)),
    "ngrams": (FOUR, (("the preset", {}), *NGRAMS)),
    "pieces": ({**FOUR, **BPE}, (("the preset", {}), *BPE_CHANGES)),
    "heads": ({}, (("the preset", {}), *HEADS)),
    "pieces-heads": (BPE, (("the preset", {}), *HEADS)),
    "counts": (ORDER_7, (("the preset with counts of order 7", {}), *COUNTS)),
    "pieces-counts": (
        {**BPE, **ORDER_5},
        (("the preset with counts of order 5", {}), *PIECE_COUNTS),
    ),
}


def training_part(text: Path, part: Path, most: int | None) -> str:
    """Write the first nine tenths of the bytes, the training part of a run on the whole text, or
    the first `most` bytes of them, in whole characters."""
    data = text.read_bytes()
    kept = data[: len(data) * 9 // 10][:most]
    part.write_text(kept.decode("utf-8", errors="ignore"), encoding="utf-8")
    return str(part)


def changed(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a changed base, without those of the base that have no effect then."""
    left_out = without_effect(merged_config(base, change)) - change.keys()
    return {n: value for n, value in {**base, **change}.items() if n not in left_out}


def losses(
    change: Mapping[str, Any], base: Mapping[str, Any], seeds: int, out: Path
) -> tuple[list[float], float]:
    """Return the validation losses of a change (nats per byte, per seed) and ms per step."""
    steps = round(base["steps"] * change.get("steps", 1))
    options = changed(base, {**change, "steps": steps})
    del options["steps"]
    config = nanochat.AblateConfig(vary=(f"steps={steps}",), seeds=seeds, jobs=2, out=str(out))
    result = nanochat.ablate(config, {**options, "threads": 1})
    rates = [float(run["steps_per_sec"]) for run in result.runs]
    return [float(run["val_bpb"]) * math.log(2) for run in result.runs], 1e3 / statistics.median(
        rates
    )


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--text", type=Path, required=True, nargs="+")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bytes", type=int, help="of each training part; all without it")
    parser.add_argument("--notebook", default="adamw", choices=NOTEBOOKS)
    parser.add_argument("--rows", type=int, help="only the first ones; writes nothing")
    options = parser.parse_args()
    around, changes = NOTEBOOKS[options.notebook]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        texts = [
            training_part(text, Path(folder) / f"{index}.txt", options.bytes)
            for index, text in enumerate(options.text)
        ]
        for number, (name, change) in enumerate(changes[: options.rows]):
            found: list[float] = []
            step_ms = []
            for index, text in enumerate(texts):
                base = {
                    "preset": "nano", "data": text, "mode": "tensor", "steps": options.steps,
                    "num_samples": 0, **around,
                }  # fmt: skip
                out = Path(folder) / f"{number}-{index}"
                of_text, ms = losses(change, base, options.seeds, out)
                found += of_text
                step_ms.append(ms)
            effect, interval = paired_difference(found, rows[0]["losses"] if rows else found)
            rows.append(
                {
                    "change": name,
                    "options": dict(change),
                    "losses": found,
                    "step_ms": statistics.median(step_ms),
                    "mean": statistics.mean(found),
                    "effect": effect,
                    "interval": interval,
                }
            )
            print(table_row(rows[-1]), flush=True)
    record = {
        "texts": [text.name if text.stem != "train" else text.parent.name for text in options.text],
        "bytes": options.bytes, "steps": options.steps, "seeds": options.seeds, "changes": rows,
    }  # fmt: skip
    if options.rows is None:
        print(write_result(f"choices/recipe-{options.notebook}", record))


def table_row(row: Mapping[str, Any]) -> str:
    effect = f"{row['effect']:+.4f} ± {row['interval']:.4f}"
    return f"| {row['change']} | {row['mean']:.4f} | {effect} | {row['step_ms']:.1f} |"


if __name__ == "__main__":
    main()
