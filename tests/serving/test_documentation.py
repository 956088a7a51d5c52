"""The page about the server, "serve.md": its commands and programs run against a real server."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from doc_blocks import _FENCE, _check, examples, matches
from serving.server import WAIT_S

from nanochat.commands.serve import client_line

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serve.md"


def sessions(text: str) -> list[tuple[str, str]]:
    """The commands of the page's blocks without a language, each with its output."""
    found: list[tuple[str, str]] = []
    shells = [fence[2] for fence in _FENCE.finditer(text) if not fence[1]]
    for block in shells:
        for line in block.splitlines(keepends=True):
            if line.startswith("$ "):
                found.append((line[2:].strip(), ""))
            else:
                found[-1] = found[-1][0], found[-1][1] + line
    return found


@pytest.mark.usefixtures("folder")
def test_every_example_of_the_page_prints_what_the_page_shows(start, cli):
    text = PAGE.read_text(encoding="utf-8")
    (train, trained), (serve, served), *requests = sessions(text)
    result = cli(*train.split()[1:])
    assert (result.code, matches(trained, result.out)) == (0, True)
    assert serve == "nanochat serve names"
    server = start(Path("names"))
    (checkpoint,) = Path("runs/names/checkpoints").glob("step-*")
    url = "http://127.0.0.1:8000"
    assert matches(served, f"serving {checkpoint} at {url}\n{client_line(url, has_key=False)}\n")
    assert len(requests) == 4
    for command, output in requests:
        assert command.startswith(f"curl -s {url}/")
        done = subprocess.run(
            ["bash", "-c", command.replace(url, server.url).replace("curl", "curl --noproxy '*'")],
            capture_output=True, text=True, timeout=WAIT_S,
        )  # fmt: skip
        assert matches(output, done.stdout), done.stdout
    programs = [example for example in examples(text) if example.language == "python"]
    assert len(programs) == 2
    for program in programs:
        assert url in program.code
        _check(program._replace(code=program.code.replace(url, server.url)), PAGE.name)
