"""widest.py FROM TO: copy FROM's compilation database, keeping one command per source file.

A source of several instruction sets keeps the command of the widest vectors (NCLAB_SIMD_BYTES).
"""

import json
import re
import sys
from pathlib import Path


def vector_bytes(command: str) -> int:
    found = re.search(r"-DNCLAB_SIMD_BYTES=(\d+)", command)
    return int(found[1]) if found else 0


source, target = map(Path, sys.argv[1:])
commands = json.loads((source / "compile_commands.json").read_text())
widest = {each["file"]: each for each in sorted(commands, key=lambda c: vector_bytes(c["command"]))}
target.mkdir()
(target / "compile_commands.json").write_text(json.dumps(list(widest.values())))
