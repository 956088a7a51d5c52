"""The documentation: every example of a page runs and prints what the page shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_blocks import Example, examples, matches, run_page

DOCS = Path(__file__).resolve().parent.parent / "docs"
# Pages and how many examples each has at least.
PAGES = {
    "index.md": 4,
    "your-text.md": 8,
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


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")
@pytest.mark.parametrize("name", PAGES)
def test_every_example_of_the_page_runs(name: str, tmp_path: Path) -> None:
    assert run_page(DOCS / name, tmp_path) >= PAGES[name]


def test_every_test_file_that_a_page_names_exists() -> None:
    import re

    for page in DOCS.glob("*.md"):
        for name in re.findall(r"`(tests/[\w/]+\.py)`", page.read_text(encoding="utf-8")):
            assert (DOCS.parent / name).is_file(), f"{page.name} names {name}"
