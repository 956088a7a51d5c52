"""Fixtures for every test: a working folder, a clean environment, a tiny corpus and model.

A scalar step of the tiny model takes well under a millisecond, a whole run a few.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings

# Several processes test on the same cores. By default, torch's idle threads spin there and take most
# of the processor from the others; passive ones sleep. OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# compile() checks the program after every pass (csrc/scalar/program/graph/verify.hpp).
os.environ.setdefault("NCLAB_VERIFY", "1")

ROOT = Path(__file__).resolve().parent.parent

TEXT = "anna\nbob\ncarl\ndora\nemma\nfred\nada\nbea\ncleo\ndan\nella\nfay\n"

TINY: dict[str, dict[str, Any]] = {
    "bigram": {"model_kind": "bigram", "n_embd": 4},
    "mini-gpt": {
        "preset": "microgpt", "n_head": 2, "n_embd": 4,
    },
}  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="the long and property tests only, in full"
    )
    parser.addoption(
        "--browser", action="store_true", help="also the tests that need Chromium and playwright"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the tests in a browser, which a fresh machine lacks, unless they are asked for."""
    tests = Path(__file__).parent
    is_browser = collection_path in (tests / "browser", tests / "serving" / "test_page.py")
    return True if is_browser and not config.getoption("--browser") else None


def pytest_configure(config: pytest.Config) -> None:
    """Set the number of examples of the property tests that do not name one."""
    # Without a deadline: how long an example takes depends on what else the machine does.
    settings.register_profile("gate", max_examples=100, deadline=None)
    settings.register_profile("long", max_examples=300, deadline=None)
    settings.load_profile("long" if config.getoption("--long") else "gate")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long tests or, with --long, all that the gate runs in the same form."""
    with_long = config.getoption("--long")
    chosen, others = [], []
    for item in items:
        is_long = item.get_closest_marker("long") is not None
        is_property = getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
        selected = is_long or is_property if with_long else not is_long
        (chosen if selected else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = chosen


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the options and the process group of the surrounding environment out of the tests.

    NCLAB_KERNELS stays: it selects the build of the kernels under test. So does NCLAB_VERIFY.
    """
    for name in list(os.environ):
        ours = name.startswith("NCLAB_") and name not in ("NCLAB_KERNELS", "NCLAB_VERIFY")
        if ours or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)
    # Help and errors are compared as text.
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder that holds only `names.txt`, twelve names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


@pytest.fixture
def tiny() -> Callable[..., dict[str, Any]]:
    """Options of a tiny scalar run on `names.txt`; keywords override them."""
    return tiny_options


def tiny_options(model_kind: str = "bigram", **changes: Any) -> dict[str, Any]:
    options = {
        "mode": "scalar", "data": "names.txt", "documents": "line", "block_size": 8,
        "batch_size": 2, "steps": 6, "eval_every": 2, "lr": 0.02, "num_samples": 2,
        "max_new_tokens": 8, **TINY[model_kind],
    }  # fmt: skip
    if not changes.get("num_samples", 2):
        del options["max_new_tokens"]  # of samples
    return {**options, **changes}


@pytest.fixture
def flags() -> Callable[..., list[str]]:
    """Options as command-line words."""
    return as_flags


def as_flags(**options: Any) -> list[str]:
    words = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else "--no-" + flag[2:])
        else:
            words.append(f"{flag}={value}")
    return words


class Output(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Output]:
    """`nanochat WORDS…` in this process; no exception may leave it."""
    from nanochat.cli import main

    def run(*words: str) -> Output:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Output(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(cli: Callable[..., Output]) -> Callable[..., str]:
    """The message of a command that must fail: one line on stderr, nothing on stdout."""

    def run(*words: str, code: int = 2) -> str:
        result = cli(*words)
        assert result.out == ""
        lines = result.err.splitlines()
        assert len(lines) == 1, result.err
        assert lines[0].startswith("error: ")
        assert result.code == code, result.err
        return lines[0].removeprefix("error: ")

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for the tests that `--browser` adds."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "these tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Another Python: `python("-m", "nanochat", …)`."""

    def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, words)],
            capture_output=True, text=True, encoding="utf-8", timeout=300, **options,
        )  # fmt: skip

    return run


class TinyRun(NamedTuple):
    """A finished run that tests read and never write to."""

    path: Path
    corpus: Path
    options: dict[str, Any]
    metrics: dict[str, Any]


@pytest.fixture(scope="session", params=["bigram", "mini-gpt"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return train_tiny(request.param, tmp_path_factory.mktemp(f"trained-{request.param}"))


@pytest.fixture(scope="session")
def trained_gpt(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return train_tiny("mini-gpt", tmp_path_factory.mktemp("trained"))


def train_tiny(model_kind: str, folder: Path) -> TinyRun:
    import nanochat

    corpus = folder / "names.txt"
    corpus.write_text(TEXT, encoding="utf-8")
    options = tiny_options(
        model_kind,
        data=str(corpus),
        steps=40,
        out=str(folder / "run"),
        eval_every=20,
        checkpoint_every=20,
    )
    result = nanochat.train(nanochat.TrainConfig(**options))
    return TinyRun(result.run, corpus, options, dict(result.metrics))


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make the next runs of this process see a signal once `step` of their steps are done."""
    from nanochat.commands import train as module
    from nanochat.training import blocks

    start = blocks.Blocks.start

    def set_step(step: int) -> None:
        # The loop looks for a signal once per block, and during evaluations.
        monkeypatch.setattr(blocks, "LARGEST_BLOCK", 1)
        begun = 0

        def counted(self: blocks.Blocks, *arguments: Any, **options: Any) -> blocks.Block:
            nonlocal begun
            begun += 1
            return start(self, *arguments, **options)

        @contextmanager
        def stop_requested() -> Iterator[Callable[[], bool]]:
            nonlocal begun
            begun = 0
            yield lambda: begun >= step

        monkeypatch.setattr(blocks.Blocks, "start", counted)
        monkeypatch.setattr(module, "stop_requested", stop_requested)

    return set_step


@pytest.fixture
def records() -> Callable[[Path], list[dict[str, Any]]]:
    """The lines of a run's metrics.jsonl, each of them strict JSON."""

    def read(run: Path) -> list[dict[str, Any]]:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line, parse_constant=refuse) for line in lines]

    return read
