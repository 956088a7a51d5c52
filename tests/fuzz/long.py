"""The long form: inputs that are drawn by coverage, with atheris in Python and libFuzzer in C++.

    PYTHONPATH=tests python -m fuzz.long [--seconds 600] [--libfuzzer BUILD/tests/cpp/fuzz] [NAME …]

Each target runs in its own process, for --seconds in C++ and the same for each group of readers in
Python. An input that breaks a claim is written to the working folder, and the exit status is 1.
Otherwise, if all targets ran, the executions are added to bench/results/faults/reliability.json.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

# Readers that share the code under test share the time of a group.
GROUPS = {
    "records": ("config.json", "tokenizer.json", "data.json", "trainer.json", "manifest.json"),
    "tensors": ("weights.safetensors", "optimizer.safetensors", "counts"),
    "runs": ("metrics.jsonl", "result.json", "environment.json", "config.toml", "best", "lock", "sources"),
    "text": ("text", "tokenizer"),
    "config": ("config",),
    "arguments": ("arguments",),
}  # fmt: skip
CORPUS = Path(__file__).parent.parent / "cpp" / "fuzz" / "corpus"
LIMITS = ("-timeout=30", "-rss_limit_mb=3072", "-print_final_stats=1", "-verbosity=1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="targets, by default all")
    parser.add_argument("--seconds", type=int, default=600, help="per group and C++ target")
    parser.add_argument("--libfuzzer", type=Path, help="folder of the C++ targets")
    # In the process of one reader:
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        _fuzz(given.only, given.seconds, given.folder)
    counts: dict[str, dict[str, int]] = {}
    failed = []
    for group, names in GROUPS.items():
        for name in names:
            if given.names and name not in given.names:
                continue
            seconds = -(-given.seconds // len(names))
            command = [sys.executable, "-m", "fuzz.long", f"--only={name}", f"--seconds={seconds}"]
            with tempfile.TemporaryDirectory() as folder:
                done = _executions(name, [*command, f"--folder={folder}"])
            failed += [name] if done is None else []
            counts.setdefault(f"test_fuzz_readers[{group}]", {"inputs": 0})["inputs"] += done or 0
    for binary in sorted(given.libfuzzer.glob("fuzz_*")) if given.libfuzzer else ():
        name = binary.name.removeprefix("fuzz_")
        if not binary.is_file() or (given.names and name not in given.names):
            continue
        with tempfile.TemporaryDirectory() as found:
            command = [
                str(binary), found, str(CORPUS / name), f"-max_total_time={given.seconds}", "-max_len=1024",
                f"-artifact_prefix=crash-{name}-", *LIMITS,
            ]  # fmt: skip
            done = _executions(name, command)
        failed += [name] if done is None else []
        counts[f"test_fuzz_kernels[{name}]"] = {"inputs": done or 0}
    if failed:
        sys.exit(f"failed: {' '.join(failed)}")
    if not given.names:
        from faults.record import write_trials

        for experiment, tried in counts.items():
            write_trials(experiment, tried)


def _executions(name: str, command: Sequence[str]) -> int | None:
    """Run one target; return its executions, or None if an input broke a claim."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    found = re.search(r"stat::number_of_executed_units: +(\d+)", done.stderr)
    if done.returncode != 0 or found is None:
        print(f"{name}: FAILED with {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-6000:]}")
        return None
    print(f"{name}: {int(found[1]):,} inputs", flush=True)
    return int(found[1])


def _fuzz(name: str, seconds: int, folder: Path) -> None:
    """Fuzz one reader in this process, which libFuzzer ends."""
    import random

    import atheris

    with atheris.instrument_imports(include=["nanochat"]):
        from fuzz.mutations import mutated
        from fuzz.targets import Workplace
    prefix = Path.cwd() / f"crash-{name}-"
    workplace = Workplace(folder)
    target = workplace.targets[name]
    corpus = folder / "corpus"
    corpus.mkdir()
    kept = sorted((Path(__file__).parent / "kept" / name).glob("*"))
    for i, content in enumerate([*target.seeds, *(path.read_bytes() for path in kept)]):
        (corpus / str(i)).write_bytes(content)

    def one_input(content: bytes) -> None:
        found = workplace.complaint(target, content)
        if found is not None:
            raise AssertionError(found)

    def changed(content: bytes, most: int, seed: int) -> bytes:
        draw = random.Random(seed)
        if draw.random() < 0.4:
            return bytes(atheris.Mutate(content, most))
        return mutated(draw, content or draw.choice(target.seeds))[:most]

    most = 4 * max(map(len, target.seeds)) + 1000
    options = (f"-max_total_time={seconds}", f"-max_len={most}", f"-artifact_prefix={prefix}")
    words = [sys.argv[0], str(corpus), *options, *LIMITS]
    atheris.Setup(words, one_input, custom_mutator=changed)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
