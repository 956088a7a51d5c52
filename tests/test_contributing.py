"""CONTRIBUTING.md: the table from question to file, and every path that it names."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from nonempty import nonempty

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
# What must be in a file for it to be the answer to the question.
ANSWERS = {
    "Where is option X declared?": "class TrainConfig",
    "Where is the learning-rate schedule?": "def lr_multiplier",
    "What is saved in a checkpoint?": "def save_checkpoint",
    "How is attention computed?": "scaled_dot_product_attention",
    "Which pass finds matrix products?": "matrix–vector products",
    "Where is the training loop?": "def train",
    "What must an engine offer?": "class Engine(Protocol)",
    "How is a text split into training and validation?": "def split_documents",
    "Which model does `--preset auto` choose?": "def choices_for",
    "What does `--time-budget` choose?": "def fit_to_budget",
    "What does `--documents auto` decide?": "def decide",
    "What does `nanochat.load` do?": "def load",
    "What can a loaded model do in Python?": "class LanguageModel",
    "What does the model look like without nanochat?": "class GPT",
    "What does `nanochat.train` return, and what does it tell `on_evaluation`?": "class Evaluation",
    "What does a run write for TensorBoard?": "class EventLog",
    "What is in a file of `eval --per-token`?": "class TokenTable",
    "Where are caches, and what happens without one?": "NCLAB_CACHE",
    "When does a run with a time budget end?": "class Deadline",
    "How is the counting baseline chosen?": "def count_baseline",
}


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def questions() -> dict[str, list[str]]:
    """The paths that answer each question."""
    rows = re.findall(r"^\| (.+?\?) \| (.+) \|$", section("Where is it?"), re.MULTILINE)
    return {question: re.findall(r"`([^`]+)`", answer) for question, answer in rows}


@pytest.mark.parametrize("question", questions())
def test_the_answer_to_each_question_is_a_file(question):
    paths = questions()[question]
    assert paths
    for path in paths:
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("question", ANSWERS)
def test_the_file_holds_the_answer(question):
    path = ROOT / questions()[question][0]
    assert ANSWERS[question] in path.read_text(encoding="utf-8")


def test_every_room_of_the_layout_exists_and_every_package_has_one():
    first_cells = re.findall(r"^\| (`.+?) \|", section("Layout"), re.MULTILINE)
    rooms = {path for cell in first_cells for path in re.findall(r"`([^`]+)`", cell)}
    for room in rooms:
        assert (ROOT / room).exists(), room
    packages = {f"nanochat/{p.parent.name}/" for p in (ROOT / "nanochat").glob("*/__init__.py")}
    assert packages <= rooms


def test_every_dependency_has_a_line():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = re.findall(
        r"^\| ([^|]+?) \|", section("Dependencies, and what each saves"), re.MULTILINE
    )
    words = set(re.findall(r"[a-z0-9-]+", " ".join(listed)))
    extras = [each for extra in project["optional-dependencies"].values() for each in extra]
    for requirement in nonempty([*project["dependencies"], *extras]):
        name = re.split(r"[^A-Za-z0-9-]", requirement)[0]
        assert name in words, name
