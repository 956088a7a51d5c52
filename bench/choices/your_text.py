"""Five real texts, from a file to a model: the figures of README.md and docs/your-text.md.

    python -m bench.choices.your_text FOLDER [--time-budget 60s] [--texts NAME …] [--pages]

FOLDER is that of `python -m bench.choices.text_sources`. For each text, `nanochat train FILE
--time-budget …` runs as a whole process, with the seed and all options left at their defaults, and
`nanochat train FILE --steps 0` draws the sample before training. Writes
results/choices/your_text.json and the tables between the markers of both pages. --pages only writes
the tables.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.choices.text_sources import TEXTS, Text, collect
from bench.command import ROOT, command_parser, environment_without_root, nanochat_command
from bench.machine import read_result, write_result

RECORD = "choices/your_text"
SHOWN = ("kjv", "fortunes-de", "quotations", "tang", "words-en")
FIGURES = ("val_bpb", "baseline_bpb", "steps", "best_step", "params")
SAMPLE = 120  # characters of a sample that the pages show
SAMPLING = ("--num-samples=1", "--max-new-tokens=80")
README = (ROOT / "README.md", "<!-- five texts -->")
GUIDE = (ROOT / "docs" / "your-text.md", "<!-- five texts with samples -->")
END = "<!-- end of the five texts -->"


def measure(text: Text, folder: Path, time_budget: str) -> dict[str, Any]:
    train, _ = collect(text, folder)
    with tempfile.TemporaryDirectory() as name:
        file = shutil.copy(train, Path(name) / f"{text.name}.txt")
        began = time.perf_counter()
        after = _nanochat(name, file, f"--time-budget={time_budget}", *SAMPLING, "--out=run")
        clock_s = time.perf_counter() - began
        result = json.loads((Path(name) / "run" / "result.json").read_text())
        before = _nanochat(name, "--config=run/config.toml", "--steps=0", "--no-baseline")
    choice, facts = next(
        line.split(": ", 1) for line in after.stderr.splitlines() if line.startswith("preset ")
    )
    return {
        "text": text.name, "kind": text.kind, "package": text.package, "facts": facts,
        "choice": choice, "time_budget": time_budget, "clock_s": clock_s,
        "before": sample(before.stdout), "after": sample(after.stdout),
        **{name: result[name] for name in FIGURES},
    }  # fmt: skip


def _nanochat(folder: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [nanochat_command(), "train", *map(str, words)]
    environment = environment_without_root()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done


def sample(output: str) -> str:
    """Return the only sample that `nanochat train` printed, on one line."""
    _, _, rest = output.partition("sample 1")
    body = rest.partition("\n")[2] if rest.startswith(" ---") else rest.removeprefix(": ")
    kept = re.split(r"^(?:mode=|run: )", body, flags=re.MULTILINE)[0]
    shown = re.sub(r"\x1b\[[0-9;]*m|[^\S ]+", " ", kept)
    return re.sub(" +", " ", shown).strip()


def short_table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| text | size | bits per byte | counting |", "|---|---|---|---|"]
    for row in rows:
        size = row["facts"].partition(" of ")[0]
        lines.append(
            f"| {row['kind']} (`{row['package'].split()[-1]}`) | {size} | {row['val_bpb']:.2f}"
            f" | {row['baseline_bpb']:.2f} |"
        )
    return "\n".join(lines)


def long_table(rows: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for row in rows:
        text = row["text"]
        parts.append(
            f"**{row['kind']}**, Debian package `{row['package'].split()[-1]}`. {row['facts']}.\n\n"
            f"- command: `nanochat train {text}.txt --time-budget {row['time_budget']}`\n"
            f"- choice: {row['choice']}\n"
            f"- result: {row['val_bpb']:.3f} bits per byte, counting {row['baseline_bpb']:.3f};"
            f" step {row['best_step']:,} of {row['steps']:,} was the best; {row['clock_s']:.1f} s\n"
            f"- before training: {_code(row['before'])}\n"
            f"- after: {_code(row['after'])}\n"
        )
    return "\n".join(parts)


def _code(text: str) -> str:
    """Return the start of a sample as code in Markdown."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text)
    cut = text if len(text) <= SAMPLE else text[:SAMPLE].rstrip() + " …"
    longest = max(map(len, re.findall("`+", cut)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {cut} {fence}" if longest else f"`{cut}`"


def fill(page: Path, begin: str, table: str) -> None:
    """Write a table between the markers of a page."""
    content = page.read_text(encoding="utf-8")
    head, found, rest = content.partition(begin)
    _, closed, tail = rest.partition(END)
    if not (found and closed):
        raise SystemExit(f"{page} must have the lines {begin} and {END}")
    page.write_text(f"{head}{begin}\n\n{table.strip()}\n\n{END}{tail}", encoding="utf-8")


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--time-budget", default="60s")
    parser.add_argument("--texts", nargs="+", default=SHOWN, choices=SHOWN)
    parser.add_argument("--pages", action="store_true", help="only write the tables")
    options = parser.parse_args()
    if not options.pages:
        texts = {text.name: text for text in TEXTS}
        measured = {row["text"]: row for row in read_result(RECORD).get("texts", [])}
        for name in options.texts:
            row = measure(texts[name], options.folder.resolve(), options.time_budget)
            measured[name] = row
            print(json.dumps(row, ensure_ascii=False), flush=True)
        rows = [measured[name] for name in SHOWN if name in measured]
        print(write_result(RECORD, {"texts": rows}))
    rows = read_result(RECORD)["texts"]
    fill(*README, short_table(rows))
    fill(*GUIDE, long_table(rows))


if __name__ == "__main__":
    main()
