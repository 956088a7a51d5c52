"""The tables and the picture of docs/race.md, written from the records of the races.

    python -m bench.race.pages [--check]

A table lies between `<!-- race: RECORD SIDE | RECORD SIDE | … -->`, which names its rows, and
`<!-- end -->`. The name of a record without a side means all of its sides that finished. --check
writes nothing, and exits with status 1 if the page or its picture differs from the records.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from bench.command import ROOT, command_parser
from bench.machine import RESULTS

PAGE, PICTURE = ROOT / "docs" / "race.md", ROOT / "docs" / "race.png"
TABLE = re.compile(r"(<!-- race: (.*?) -->\n).*?(?=<!-- end -->)", re.DOTALL)
HEAD = (
    "| | parameters | counts | context | whole process | its steps alone | nats per byte |"
    " times faster |\n"
    "|---|---|---|---|---|---|---|---|\n"
)
PEERS = {"nanogpt": "nanoGPT", "nanochat": "karpathy/nanochat", "eemicrogpt": "eemicrogpt"}
LEVEL = 0.01  # of the one-sided test that a mean score is below its peer's
# Options of our entries that serve only the race; the tables leave them out.
SILENT = {"--eval-tokens", "--eval-every", "--num-samples"}


@cache
def record(name: str) -> Any:
    return json.loads((RESULTS / "race" / f"{name}.json").read_text())


def rows(names: str) -> str:
    """Return the table for the words of its marker. Raises SystemExit for an unknown side."""
    lines = []
    for name in names.split("|"):
        file, _, wanted = name.strip().partition(" ")
        found = record(file)
        sides = {side["name"]: side for side in found["sides"]}
        summary = {row["side"]: row for row in found["summary"] if "score" in row}
        if not any(sides[side]["kind"] != "ours" for side in summary):  # no peer to compare with
            for each in summary.values():
                each.pop("times_faster", None)
                each.pop("p_below_reference", None)
        chosen = [wanted] if wanted else list(summary)
        for side in chosen:
            if side not in summary:
                raise SystemExit(f"{file}: no side {side!r} finished; these did: {list(summary)}")
            lines.append(row(summary[side], sides[side]))
    return HEAD + "".join(lines)


def row(summary: Mapping[str, Any], side: Mapping[str, Any]) -> str:
    faster = summary.get("times_faster") if side["kind"] == "ours" else None
    beaten = side["kind"] != "ours" or summary.get("p_below_reference", 0.0) < LEVEL
    ratio = f"{faster['ratio']:.1f} ({faster['low']:.1f}–{faster['high']:.1f})" if faster else ""
    cells = (
        label(side),
        f"{summary['parameters']:,}",
        f"{summary['count_entries']:,}" if summary.get("count_entries") else "",
        str(summary["context"]),
        f"{summary['seconds']:.1f} s ± {summary['seconds_sd']:.1f}",
        f"{summary['steps_seconds']:.1f} s",
        f"{summary['score']:.3f} ± {summary['score_sd']:.3f}" + ("" if beaten else ", not below"),
        ratio,
    )
    return f"| {' | '.join(cells)} |\n"


def label(side: Mapping[str, Any]) -> str:
    """Return the names of a peer and its entry, or the options of `nanochat train`."""
    kind, _, entry = side["name"].partition(" ")
    if side["kind"] != "ours":
        return f"{PEERS[kind]}, {entry}"
    return f"`{shlex.join(shown(side['arguments']))}`"


def shown(arguments: Sequence[str]) -> list[str]:
    """Return the options without those that serve only the race.

    >>> shown(["--preset", "nano", "--eval-tokens", "8192", "--steps", "130"])
    ['--preset', 'nano', '--steps', '130']
    """
    pairs = zip(arguments[::2], arguments[1::2], strict=True)
    return [word for pair in pairs if pair[0] not in SILENT for word in pair]


def written(page: str) -> str:
    return TABLE.sub(lambda found: found[1] + rows(found[2]), page)


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--check", action="store_true", help="compare without writing")
    check = parser.parse_args().check
    old, picture = PAGE.read_text(encoding="utf-8"), RESULTS / "race" / "counts.png"
    new = written(old)
    if check:
        if new != old or PICTURE.read_bytes() != picture.read_bytes():
            sys.exit(f"{PAGE.name} differs from its records; run python -m bench.race.pages")
        return
    PAGE.write_text(new, encoding="utf-8")
    shutil.copyfile(picture, PICTURE)


if __name__ == "__main__":
    main()
