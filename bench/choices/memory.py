"""Peak memory of `nanochat train` on large texts, relative to the size of the text.

    python -m bench.choices.memory [--megabytes 1000] [--folder FOLDER] [CASE …]

Writes an English-like text of ASCII into FOLDER once: as one file, as a thousand files, compressed
with gzip, as JSON lines, as a JSON list, and as CSV. The form `wide` is one file in which one line
in twenty has one of 1,900 Chinese characters: its character ids need 16 bits. Each case trains for
two steps in a process that does nothing else, whose largest resident memory the kernel reports.
`process_mb` is that of the same command on one megabyte: the interpreter, torch and the model.
Memory does not depend on the load of the machine, so one run per case is enough. Each case is
recorded when it is done, with the size of its text; `seconds` tell only how long the bench takes.
"""

from __future__ import annotations

import csv
import gzip
import json
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from bench.command import command_parser, nanochat_command
from bench.machine import read_result, write_result

_RECORD = "choices/memory"
_MB = 1_000_000
_PIECE = 4 * _MB  # bytes that are written at a time
_FILES = 1000  # a file that validates is evaluated as a whole, so it must be small
_WORDS = 50_000
_LINE_WORDS = 11  # about 70 bytes per line
_WIDE, _FIRST_WIDE = 1_900, 0x4E00  # Chinese characters, and the first of them
_WIDE_LINE = 20  # lines from one of them to the next


@dataclass(frozen=True, slots=True)
class Case:
    """The form of the text, and the options of the command."""

    form: str  # file, files, gz, jsonl, json, csv or wide
    tokenizer: str  # char, byte or bpe
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return "-".join([self.form, self.tokenizer, *(o.strip("-") for o in self.options)])


_NO_COUNTING = "--no-baseline"
_TOKENIZERS = ("char", "byte", "bpe")
CASES = (
    *(Case(form, kind, (_NO_COUNTING,))
      for form in ("file", "files", "gz", "jsonl") for kind in _TOKENIZERS),
    Case("csv", "char", (_NO_COUNTING,)),
    Case("json", "char", (_NO_COUNTING,)),
    *(Case("file", kind, ("--documents", "line", _NO_COUNTING)) for kind in _TOKENIZERS),
    *(Case("file", kind) for kind in _TOKENIZERS),
    Case("file", "char", ("--documents", "line")),
    Case("file", "char", ("--documents", "line", "--deduplicate", _NO_COUNTING)),
    Case("wide", "char", (_NO_COUNTING,)),
    Case("wide", "char"),
    Case("wide", "char", ("--documents", "line", _NO_COUNTING)),
    Case("wide", "char", ("--documents", "line", "--deduplicate", _NO_COUNTING)),
)  # fmt: skip


# ----------------------------------------------------------------------------------- the texts


def _drawn(megabytes: int) -> Iterator[str]:
    """Yield lines of words with the frequencies of a language, about `_PIECE` bytes at a time."""
    draw = np.random.default_rng(20)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    lengths = draw.integers(2, 10, _WORDS)
    words = np.array(["".join(draw.choice(letters, n)) for n in lengths], object)
    rates = 1 / np.arange(10, _WORDS + 10)
    steps = np.cumsum(rates / rates.sum())
    for done in range(0, megabytes * _MB, _PIECE):
        size = min(_PIECE, megabytes * _MB - done)
        drawn = words[np.searchsorted(steps, draw.random(size // 5))].tolist()
        lines = (drawn[i : i + _LINE_WORDS] for i in range(0, len(drawn), _LINE_WORDS))
        text = "".join(" ".join(line).capitalize() + ".\n" for line in lines)
        yield text[: size - 1] + "\n"


def _pieces(folder: Path, form: str, megabytes: int) -> Iterator[str]:
    """Yield the text of the plain file, or draw it for that file."""
    if form == "file":
        yield from _drawn(megabytes)
        return
    written = 0  # lines with a Chinese character
    with open(text_in(folder, "file", megabytes)) as file:
        while lines := file.readlines(_PIECE):
            for line in range(0, len(lines) if form == "wide" else 0, _WIDE_LINE):
                lines[line] = chr(_FIRST_WIDE + written % _WIDE) + lines[line]
                written += 1
            yield "".join(lines)


def text_in(folder: Path, form: str, megabytes: int) -> Path:
    """Return the text in one form, written if it is not there."""
    suffix = f".{form}" if form in ("gz", "jsonl", "json", "csv") else ""
    path = folder / f"{form}-{megabytes}{suffix}"
    if path.exists():
        return path
    temporary, pieces = folder / f".{path.name}", _pieces(folder, form, megabytes)
    if form == "files":
        temporary.mkdir()
        written = 0
        for piece in pieces:
            parts = max(_FILES * len(piece) // (megabytes * _MB), 1)
            for part in range(parts):
                text = piece[len(piece) * part // parts : len(piece) * (part + 1) // parts]
                (temporary / f"{written:04}.txt").write_text(text)
                written += 1
    elif form == "gz":
        with gzip.open(temporary, "wt", compresslevel=1) as file:
            file.writelines(pieces)
    else:
        with open(temporary, "w", newline="") as file:
            _write(file, form, pieces)
    temporary.rename(path)
    return path


def _write(file: TextIO, form: str, pieces: Iterator[str]) -> None:
    if form == "csv":
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
    separator = "["  # of the items of a JSON list
    for piece in pieces:
        if form in ("file", "wide"):
            file.write(piece)
            continue
        lines = piece.splitlines()
        for first in range(0, len(lines), 10):
            record = "\n".join(lines[first : first + 10])
            if form == "csv":
                writer.writerow([first, record])
            elif form == "json":
                file.write(separator + json.dumps({"text": record}))
                separator = ", "
            else:
                file.write(json.dumps({"text": record}) + "\n")
    if form == "json":
        file.write("]\n")


# ------------------------------------------------------------------------------- the measurement


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def peak_bytes(case: Case, path: Path) -> tuple[int, float]:
    """Return the largest resident memory of a run on a text, and its seconds.

    A small part validates: a run ends with an evaluation of all of it, which takes no memory but
    minutes. Both parts are kept in the same form.
    """
    with tempfile.TemporaryDirectory() as out, open(os.devnull, "w") as nowhere:
        command = [
            nanochat_command(), "train", str(path), "--tokenizer", case.tokenizer, *case.options,
            "--steps", "2", "--val-fraction", "0.001", "--num-samples", "1",
            "--max-new-tokens", "4", "--out", str(Path(out) / "run"),
        ]  # fmt: skip
        begun = time.perf_counter()
        child = subprocess.Popen(command, stdout=nowhere, cwd=out)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begun
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{case.name} must succeed, got exit code {child.returncode}")
    return usage.ru_maxrss * 1024, seconds


def measured(case: Case, folder: Path, megabytes: int) -> dict[str, object]:
    """Return the record of a case."""
    # In another process: a child's peak counts the memory of the process that starts it.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        path, small, plain = pool.starmap(
            text_in,
            [(folder, case.form, megabytes), (folder, case.form, 1), (folder, "file", megabytes)],
        )
    # The text that a gzip file holds; records are the size of their file.
    size = _size(plain if case.form == "gz" else path)
    process, _ = peak_bytes(case, small)
    peak, seconds = peak_bytes(case, path)
    return {
        "case": case.name,
        "text_mb": round(size / _MB),
        "peak_mb": round(peak / _MB),
        "process_mb": round(process / _MB),
        "ratio": round(peak / size, 2),
        "ratio_without_process": round((peak - process) / size, 2),
        "seconds": round(seconds),
    }


def _record(row: dict[str, object]) -> None:
    """Write a case into the record, next to the others."""
    rows = {each["case"]: each for each in read_result(_RECORD).get("cases", [])}
    rows[row["case"]] = row
    ordered = [rows[case.name] for case in CASES if case.name in rows]
    write_result(_RECORD, {"cases": ordered})


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names; default: all")
    parser.add_argument("--megabytes", type=int, default=1000, help="of the text (1000)")
    parser.add_argument("--folder", type=Path, help="of the texts; default: a temporary one")
    options = parser.parse_args()
    chosen = [case for case in CASES if not options.cases or case.name in options.cases]
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        for case in chosen:
            row = measured(case, folder, options.megabytes)
            print(*(f"{name} {value}" for name, value in row.items()), sep="  ", flush=True)
            _record(row)


if __name__ == "__main__":
    main()
