"""README and documentation: every example of a page runs and prints what the page shows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from doc_blocks import Example, checked_by, examples, matches, run_page, unexplained
from nonempty import nonempty

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# Pages and how many examples each has at least.
PAGES = {
    "../README.md": 10,
    "index.md": 4,
    "your-text.md": 8,
    "chat.md": 5,
    "python.md": 7,
    "inspect.md": 6,
    "change-the-model.md": 10,
    "export.md": 7,
    "two-engines.md": 3,
    "ops.md": 4,
    "compiler.md": 1,
    "reliability.md": 3,
}

PAGE = """
```python
print(1 + 1)
```

```text
2
```

<!-- output depends on the machine -->
```console
$ nanochat info
nanochat: …
$ ls
not run
$ nanochat eval \\
  --json
```

```sh
nanochat never
```
"""


def test_examples_are_found_with_their_outputs() -> None:
    assert examples(PAGE) == [
        Example("python", "print(1 + 1)\n", "2\n", False, 2),
        Example("console", "nanochat info", "nanochat: …\n", True, 12),
        Example("console", "nanochat eval   --json", "", True, 16),
    ]


@pytest.mark.parametrize(
    ("shown", "printed", "equal"),
    [
        ("a\nb\n", "a \nb", True),
        ("a\n…\nd", "a\nb\nc\nd", True),
        ("loss=…", "loss=2.5", True),
        ("loss=2.5", "loss=2.6", False),
        ("loss=2.5", "loss=2x5", False),
        ("a\n", "a\nb\n", False),
    ],
)
def test_an_ellipsis_matches_any_text_and_nothing_else_does(
    shown: str, printed: str, equal: bool
) -> None:
    assert matches(shown, printed) is equal


@pytest.mark.parametrize(
    "page",
    [
        "```python\nraise SystemExit\n```\n",
        "```python\nprint(3)\n```\n```text\n2\n```\n",
        "```console\n$ nanochat nonsense\n```\n",
        "<!-- output depends on the machine -->\n```python\nx = 1\n```\n",
    ],
    ids=["fails", "prints something else", "exits with 2", "prints nothing"],
)
def test_a_wrong_example_is_noticed(page: str, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(page, encoding="utf-8")
    with pytest.raises((AssertionError, SystemExit)):
        run_page(path, tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the text that the pages call my.txt, and the files of docs/examples."""
    for example in (DOCS / "examples").glob("*.py"):
        shutil.copy(example, tmp_path)
    lines = (f"The {i}th line says {i * i} and the next one says more.\n" for i in range(200))
    (tmp_path / "my.txt").write_text("".join(lines), encoding="utf-8")
    return tmp_path


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")
@pytest.mark.parametrize("name", PAGES)
def test_every_example_of_the_page_runs(name: str, folder: Path) -> None:
    assert run_page(DOCS / name, folder) >= PAGES[name]


def test_the_page_about_model_files_shows_the_files_of_the_examples() -> None:
    """They are the files that tests/test_own_models.py trains."""
    page = (DOCS / "change-the-model.md").read_text(encoding="utf-8")
    for example in nonempty((DOCS / "examples").glob("*.py")):
        assert f"```python\n{example.read_text(encoding='utf-8')}```\n" in page, example.name
        assert f"`{example.name}`" in page


EVERY_PAGE = [
    *sorted(DOCS.glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md",
    ROOT / "bench" / "README.md",
]  # fmt: skip


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_the_page_is_run_or_says_why_not(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert unexplained(text) == []
    test = checked_by(text)
    if test is not None:
        assert f'"{page.name}"' in (ROOT / test).read_text(encoding="utf-8")
    elif examples(text):
        assert page in [(DOCS / name).resolve() for name in PAGES]


@pytest.mark.parametrize(
    ("page", "lines"),
    [
        ("```sh\nls\n```\n", [1]),
        ("<!-- not run: it is slow -->\n```sh\nls\n```\n", []),
        ("<!-- not run: it is slow -->\n```sh\nls\n```\n```sh\nls\n```\n", [5]),
        ("```python\nprint(1)\n```\n\n```text\n1\n```\n", []),
        ("```python\nprint(1)\n```\nand\n```text\n1\n```\n", [5]),
    ],
)
def test_a_block_without_a_reason_is_noticed(page: str, lines: list[int]) -> None:
    assert unexplained(page) == lines


def test_every_test_file_that_a_page_names_exists() -> None:
    import re

    named = [
        (page.name, name)
        for page in DOCS.glob("*.md")
        for name in re.findall(r"`(tests/[\w/]+\.py)`", page.read_text(encoding="utf-8"))
    ]
    for page, name in nonempty(named):
        assert (ROOT / name).is_file(), f"{page} names {name}"
