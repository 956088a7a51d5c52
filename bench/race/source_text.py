"""The second text of the race, on which no preset was tuned: Python's standard library.

    python -m bench.race.source_text FILE

Writes whole ASCII modules, sorted by the hashes of their names, until the file has as many bytes as
Shakespeare's text.
"""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path

from bench.command import command_parser

SIZE = 1_115_394  # of tinyshakespeare
LEFT_OUT = {"site-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}


def modules() -> list[bytes]:
    library = Path(sysconfig.get_paths()["stdlib"])
    names = [
        path.relative_to(library) for path in library.rglob("*.py")
        if not LEFT_OUT & set(path.relative_to(library).parts)
    ]  # fmt: skip
    names.sort(key=lambda name: hashlib.sha256(name.as_posix().encode()).digest())
    sources = ((library / name).read_bytes() for name in names)
    return [source for source in sources if source.isascii()]


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("file", type=Path)
    parser.parse_args().file.write_bytes(b"\n\n".join(modules())[:SIZE])


if __name__ == "__main__":
    main()
