"""The long form: inputs that are drawn by coverage, with atheris in Python and libFuzzer in C++.

    PYTHONPATH=tests python -m fuzz.long READER SECONDS     # one reader of targets.py
    BUILD/tests/cpp/fuzz/fuzz_rows NEW_CORPUS tests/cpp/fuzz/corpus/rows     # one C++ target

`pytest --long tests/fuzz` runs all of them. An input that breaks a claim is written to the working
folder, as crash-TARGET-….
"""

from __future__ import annotations

import random
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
HERE = Path(__file__).parent
CORPUS = HERE.parent / "cpp" / "fuzz" / "corpus"
LIMITS = ("-timeout=30", "-rss_limit_mb=3072", "-print_final_stats=1")


def reader_inputs(name: str, seconds: int) -> int:
    """Fuzz a reader in another process; return the executions. Raises AssertionError."""
    return _executions([sys.executable, "-m", "fuzz.long", name, str(seconds)])


def kernel_inputs(name: str, seconds: int, binaries: Path) -> int:
    """Fuzz a C++ target; return the executions. Raises AssertionError."""
    options = (f"-max_total_time={seconds}", "-max_len=1024", f"-artifact_prefix=crash-{name}-")
    with tempfile.TemporaryDirectory() as found:
        words = [str(binaries / f"fuzz_{name}"), found, str(CORPUS / name), *options, *LIMITS]
        return _executions(words)


def _executions(command: Sequence[str]) -> int:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    found = re.search(r"stat::number_of_executed_units: +(\d+)", done.stderr)
    assert done.returncode == 0 and found is not None, done.stdout[-3000:] + done.stderr[-6000:]
    return int(found[1])


def _fuzz(name: str, seconds: int, folder: Path) -> None:
    """Fuzz one reader in this process, which libFuzzer ends."""
    import atheris

    # atheris cannot instrument what the loaders of an editable install load; the path has it too.
    sys.meta_path[:] = [each for each in sys.meta_path if "Redirecting" not in type(each).__name__]
    with atheris.instrument_imports(include=["nanochat"]):
        from fuzz.mutations import mutated
        from fuzz.targets import Workplace
    prefix = Path.cwd() / f"crash-{name}-"
    workplace = Workplace(folder)
    target = workplace.targets[name]
    corpus = folder / "corpus"
    corpus.mkdir()
    kept = sorted((HERE / "kept" / name).glob("*"))
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
    if len(sys.argv) == 4:
        _fuzz(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    with tempfile.TemporaryDirectory() as place:  # in another process, because libFuzzer ends it
        again = [sys.executable, "-m", "fuzz.long", *sys.argv[1:3], place]
        sys.exit(subprocess.run(again).returncode)
