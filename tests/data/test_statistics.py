"""`--documents auto`: the decision for each kind of text, made by rules of this file."""

from __future__ import annotations

import random
import sysconfig
from functools import cache
from pathlib import Path

import pytest
from nonempty import nonempty

from nanochat.data import statistics
from nanochat.data.statistics import decide

SYLLABLES = [
    "ba",
    "ke",
    "lo",
    "mi",
    "nu",
    "ra",
    "se",
    "ti",
    "vo",
    "zu",
    "pha",
    "stre",
    "gli",
    "dorn",
    "cra",
    "wel",
]


def word(rng, syllables=(1, 4)):
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(*syllables)))


def sentence(rng, vocabulary, words=(6, 14)):
    chosen = [rng.choice(vocabulary) for _ in range(rng.randint(*words))]
    return " ".join(chosen).capitalize() + "."


@cache
def many_words():
    rng = random.Random(0)
    return sorted({word(rng, (2, 5)) for _ in range(20_000)})


def vocabulary(rng, size):
    return rng.sample(many_words(), size)


def quotes(seed, count, shared):
    """Pieces that have only common words and words of their own."""
    rng = random.Random(seed)
    common = vocabulary(rng, shared)
    everything = many_words()
    return [
        "\n".join(sentence(rng, [*common, *rng.sample(everything, 40)]) for _ in range(2))
        for _ in range(count)
    ]


def novel(seed, count):
    """Paragraphs whose people and things stay for a while: each scene has words of its own."""
    rng = random.Random(seed)
    common, everything = vocabulary(rng, 300), many_words()
    paragraphs = []
    while len(paragraphs) < count:
        scene = rng.sample(everything, 60)
        for _ in range(rng.randint(5, 12)):
            lines = [sentence(rng, common + scene * 3) for _ in range(rng.randint(2, 5))]
            paragraphs.append("\n".join(lines))
    return paragraphs[:count]


def kind(text):
    return decide(memoryview(text.encode())).kind


def test_word_lists_and_names_are_lines():
    rng = random.Random(1)
    words = sorted({word(rng) for _ in range(2000)})
    assert kind("\n".join(words)) == "line"
    assert kind("\r\n".join(words) + "\r\n") == "line"
    people = {f"{word(rng).title()} {word(rng).title()}" for _ in range(500)}
    assert kind("\n".join(sorted(people))) == "line"
    assert kind("\n".join(chr(0x4E00 + i) + chr(0x4F00 + 7 * i) for i in range(300))) == "line"


def test_a_list_of_numbers_whose_order_matters_is_no_list_of_words():
    rng = random.Random(2)
    assert kind("\n".join(f"{rng.gauss(0, 1):.4f}" for _ in range(1000))) == "file"
    assert kind("\n".join(f"{i},{rng.random():.3f}" for i in range(1000))) == "file"


def test_sentences_and_verses_one_per_line_are_no_list():
    rng = random.Random(3)
    common = vocabulary(rng, 2000)
    assert kind("\n".join(sentence(rng, common) for _ in range(500))) == "file"
    verses = [" ".join(rng.choice(common) for _ in range(6)) for _ in range(400)]
    assert kind("\n".join(verses)) == "file"


def test_independent_pieces_between_blank_lines_are_paragraphs():
    assert kind("\n\n".join(quotes(4, 400, 200))) == "paragraph"
    assert kind("\n\n".join(sorted(quotes(5, 40, 200)))) == "paragraph"  # by their order alone


def test_a_novel_is_one_document_although_blank_lines_divide_it():
    for seed in (6, 7, 8):
        for count in (30, 150, 1000):
            assert kind("\n\n".join(novel(seed, count))) == "file"


def test_plays_markdown_and_indented_text_are_files():
    pieces = quotes(9, 300, 200)
    assert kind("\n\n".join(f"Speaker {i % 7}:\n{p}" for i, p in enumerate(pieces))) == "file"
    marked = [f"# Part {i}" if i % 10 == 0 else piece for i, piece in enumerate(pieces)]
    assert kind("\n\n".join(marked)) == "file"
    assert kind("\n\n".join("    " + piece.replace("\n", "\n    ") for piece in pieces)) == "file"


def test_long_pieces_are_a_file():
    pieces = ["\n".join(quotes(i, 30, 100)) for i in range(120)]
    assert kind("\n\n".join(pieces)) == "file"


@pytest.mark.parametrize("separator", ["%", "<|endoftext|>"])
def test_lines_of_a_separator_are_found(separator):
    text = f"\n{separator}\n".join(quotes(10, 50, 200))
    found = decide(memoryview(text.encode()))
    assert (found.kind, found.separator) == ("separator", separator)
    assert found.reason == f"pieces between lines of {separator}"
    assert kind(text.replace("\n", "\r\n")) == "separator"
    assert kind(text.replace("\n", "  \n")) == "separator"


def test_comments_of_tex_are_no_separators():
    lines = ["%", "% a comment", r"\section{A}", "Some text, 100% of it.", "%", "% more", "text."]
    assert kind("\n".join(lines * 20)) == "file"


@pytest.mark.parametrize(
    "text", ["", "x", "\n", "one\ntwo\nthree", "%\n%\n%\n", "\ufeff", "é" * 50]
)
def test_a_text_too_small_to_judge_is_a_file(text):
    assert kind(text) == "file"


def test_the_decision_is_made_from_the_start_of_a_text_at_a_line(monkeypatch):
    monkeypatch.setattr(statistics, "SAMPLE", 1000)
    rng = random.Random(11)
    words = sorted({word(rng) for _ in range(500)})
    start = "\n".join(words)
    assert len(start) > 1200
    assert (
        kind(start + "\nA long sentence follows, and another one, and a third.\n" * 500) == "line"
    )
    assert kind("é" * 3000) == "file"  # never cut inside a character


def test_code_of_the_standard_library_is_a_file():
    folder = Path(sysconfig.get_path("stdlib"))
    names = ("ast.py", "argparse.py", "random.py", "LICENSE.txt", "pydoc_data/topics.py")
    # The license is not everywhere.
    for path in nonempty(folder / name for name in names if (folder / name).exists()):
        assert decide(memoryview(path.read_bytes())).kind == "file", path


def test_the_names_of_the_package_are_lines():
    from nanochat.data.registry import embedded_text

    assert decide(memoryview(embedded_text("names.txt"))).kind == "line"


def test_passwords_are_a_list_and_measurements_are_not():
    rng = random.Random(5)
    passwords = [f"{word(rng, (2, 3))[:5]}{rng.randrange(1000, 100_000)}" for _ in range(300)]
    assert decide(memoryview("\n".join(passwords).encode())).kind == "line"
    numbers = [f"{rng.gauss(20, 3):.4f}" for _ in range(300)]
    assert decide(memoryview("\n".join(numbers).encode())).kind == "file"
