"""nanochat.read_documents: the documents that a run trains on and validates with."""

from __future__ import annotations

from pathlib import Path

import pytest

import nanochat
from nanochat.errors import ConfigError, CorpusError


def test_the_documents_of_a_text_are_those_of_its_run(folder, tiny):
    Path("two.txt").write_text("x\n\ny z\n\nend\n", encoding="utf-8")
    assert nanochat.read_documents("two.txt", documents="paragraph") == ["x", "y z", "end"]
    names = nanochat.read_documents(Path("names.txt"), documents="line")
    assert names == Path("names.txt").read_text(encoding="utf-8").split()
    run = nanochat.train(tiny(val_fraction=0, num_samples=0))
    whole = nanochat.evaluate({"run": run.folder, "data": "names.txt"})
    assert whole.targets == sum(len(name) + 1 for name in names)


def test_several_sources_are_read_in_order(folder):
    Path("b.txt").write_text("b\n", encoding="utf-8")
    Path("a.txt").write_text("a\n", encoding="utf-8")
    found = nanochat.read_documents(["b.txt", Path("a.txt")], documents="line")
    assert found == ["b", "a"]


REFUSED = [
    ({"data": "missing.txt"}, CorpusError),
    ({"data": "names.txt", "documents": "word"}, ConfigError),
    ({"data": "names.txt", "documents": "line", "separator": "%"}, ConfigError),
    ({"data": "names.txt", "separator": "%"}, CorpusError),
]


@pytest.mark.parametrize(("arguments", "error"), REFUSED, ids=str)
def test_it_refuses_what_train_refuses_with_the_same_message(arguments, error, folder, tiny):
    with pytest.raises(error) as of_read:
        nanochat.read_documents(**arguments)
    with pytest.raises(error) as of_train:
        nanochat.train({**tiny(documents="auto"), **arguments})
    assert str(of_read.value) == str(of_train.value)
