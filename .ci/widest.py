"""widest.py FROM TO: the compilation database of FROM with one command a source, the last.

CMakeLists.txt names a source's instruction sets from the narrowest to the widest.
"""

import json
import sys
from pathlib import Path

every, widest = map(Path, sys.argv[1:])
last = {each["file"]: each for each in json.loads((every / "compile_commands.json").read_text())}
widest.mkdir()
(widest / "compile_commands.json").write_text(json.dumps(list(last.values())))
