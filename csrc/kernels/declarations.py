"""Compiles the declarations of abi.h for cffi: python declarations.py abi.h OUTPUT

Parsing the header would take a tenth of a second in every process that uses torch's engine. The
first line of the output names the header by its SHA-256.
"""

import contextlib
import hashlib
import os
import sys
import tempfile

import cffi


def main() -> None:
    with open(sys.argv[1], "rb") as file:
        header = file.read()
    declarations = cffi.FFI()
    declarations.cdef(header.decode())
    declarations.set_source("nck_abi", None)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        path = os.path.join(folder, "nck_abi.py")
        declarations.emit_python_code(path)
        with open(path) as file:
            code = file.read()
    with open(sys.argv[2], "w") as file:
        file.write(f"# {hashlib.sha256(header).hexdigest()}\n{code}")


main()
