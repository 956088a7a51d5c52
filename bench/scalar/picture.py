"""Draw docs/default-run.svg: the terminal after `nanochat train`, with no options.

    python -m bench.scalar.picture

The command runs in an empty folder. Lines wider than the picture end in an ellipsis.
"""

from __future__ import annotations

import re
import subprocess
import tempfile

from rich.console import Console
from rich.text import Text

from bench.command import ROOT, command_parser, environment_without_root, nanochat_command

PICTURE = ROOT / "docs" / "default-run.svg"
WIDTH = 104  # columns


def main() -> None:
    command_parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [nanochat_command(), "train"], cwd=folder, env=environment_without_root(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True,
        )  # fmt: skip
    PICTURE.write_text(terminal_svg("nanochat train", done.stdout), encoding="utf-8")
    print(PICTURE)


def terminal_svg(command: str, output: str) -> str:
    """Return an SVG of a terminal with the command and its output, without web fonts."""
    with open("/dev/null", "w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        console.print(Text(f"$ {command}", style="bold green"), no_wrap=True)
        for line in output.splitlines():
            console.print(Text(line), no_wrap=True, overflow="ellipsis")
    svg = console.export_svg(title=command)
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


if __name__ == "__main__":
    main()
