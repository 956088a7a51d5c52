"""A checkout without compiled files runs with those of the installed package, or says what to do."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nanochat

COMPILED = shutil.ignore_patterns("*.so", "*.dylib", "*.pyd", "*.a", "nck_abi.h", "__pycache__")
USE_COMPILED = """
from nanochat import Value
from nanochat.ops import library  # loads the kernels
import nanochat
print((Value(2.0) * 3).data, nanochat.__file__)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The package as a checkout holds it: no compiled files."""
    sources = Path(nanochat.__file__).parent
    shutil.copytree(sources, tmp_path / "checkout" / "nanochat", ignore=COMPILED)
    return tmp_path / "checkout"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder in which the package is installed, with its compiled files."""
    sources = Path(nanochat.__file__).parent
    shutil.copytree(
        sources, tmp_path / "site" / "nanochat", ignore=shutil.ignore_patterns("__pycache__")
    )
    compiled = importlib.util.find_spec("nanochat._scalar").origin
    for path in Path(compiled).parent.iterdir():  # elsewhere in an editable install
        if path.suffix in (".so", ".dylib", ".h"):
            shutil.copy(path, tmp_path / "site" / "nanochat")
    return tmp_path / "site"


def run(words: list[str], cwd: Path, *folders: Path, dependencies: bool = True, **environment: str):
    """Python in `cwd`, with these folders on its path and no installed nanochat before them."""
    paths = [*map(str, folders)]
    if dependencies:
        paths += [path for path in sys.path if Path(path, "numpy").is_dir()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
    return subprocess.run(
        [sys.executable, "-B", "-S", *words], cwd=cwd, env=environment, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip


def test_equal_sources_run_with_the_installed_compiled_files_and_print_nothing(checkout, site):
    done = run(["-c", USE_COMPILED], checkout, site)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"6.0 {checkout / 'nanochat' / '__init__.py'}\n"


def test_different_sources_run_from_the_checkout_and_one_line_names_both_folders(checkout, site):
    with open(checkout / "nanochat" / "philox.py", "a") as file:
        file.write("\nCHANGED = 7\n")
    (checkout / "nanochat" / "system" / "new.py").write_text("")
    (site / "nanochat" / "__pycache__").mkdir()
    (site / "nanochat" / "__pycache__" / "old.pyc").write_bytes(b"")
    code = USE_COMPILED + "from nanochat.philox import CHANGED\nprint(CHANGED)"
    done = run(["-c", code], checkout, site)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "7"
    assert done.stderr == (
        f"note: running the Python files of {checkout / 'nanochat'}, which differ from the installed"
        f" ones (philox.py and 1 more), with the compiled files of {site / 'nanochat'}\n"
    )


def test_a_file_that_only_the_installed_package_has_is_a_difference(checkout, site):
    (checkout / "nanochat" / "philox.py").unlink()
    done = run(["-c", "import nanochat"], checkout, site)
    assert " (philox.py), with the compiled files of " in done.stderr


def test_of_several_processes_only_the_first_prints_the_note(checkout, site):
    (checkout / "nanochat" / "philox.py").unlink()
    assert run(["-c", "import nanochat"], checkout, site, RANK="1").stderr == ""
    (checkout / "main.py").write_text(
        "import multiprocessing, importlib\n"
        "def work():\n"
        "    import nanochat\n"
        "if __name__ == '__main__':\n"
        "    process = multiprocessing.get_context('spawn').Process(target=work)\n"
        "    process.start()\n"
        "    process.join()\n"
        "    raise SystemExit(process.exitcode)\n"
    )
    done = run(["main.py"], checkout, site)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_of_a_checkout_is_that_of_the_installed_package(checkout, site):
    done = run(["-m", "nanochat", "info"], checkout, site)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"loaded from {site / 'nanochat' / '_scalar'}." in done.stdout


def test_where_nothing_is_installed_the_command_is_one_error_line(checkout):
    done = run(["-m", "nanochat", "info"], checkout, dependencies=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: nanochat is not installed for this Python, and {checkout / 'nanochat'} has no"
        f" compiled files; run `pip install .` in {checkout}\n"
    )


def test_where_nothing_is_installed_the_import_raises_import_error(checkout):
    code = "try: import nanochat\nexcept ImportError as error: print(error)"
    done = run(["-c", code], checkout, dependencies=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nanochat is not installed for this Python, and ")


def test_another_checkout_on_the_path_is_not_taken_for_the_installed_package(checkout, tmp_path):
    shutil.copytree(checkout / "nanochat", tmp_path / "other" / "nanochat")
    done = run(["-m", "nanochat", "info"], checkout, tmp_path / "other", dependencies=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: nanochat is not installed for this Python")


def test_an_installed_package_with_compiled_files_never_looks_for_others(site):
    done = run(
        ["-c", f"import sys\n{USE_COMPILED}\nassert 'nanochat.system.checkout' not in sys.modules"],
        site.parent, site,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
