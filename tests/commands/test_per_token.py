"""`nanochat eval --per-token`: each token's loss, against the logits and against the result."""

from __future__ import annotations

import csv
import json
import math
import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nanochat
from nanochat.config.options import EvalConfig, SampleConfig
from nanochat.data.batches import IGNORE, evaluation_batches, evaluation_pairs
from nanochat.data.documents import encode_documents, token_stream
from nanochat.data.tokenizer import ByteTokenizer, build_tokenizer
from nanochat.errors import OutputError
from nanochat.output.token_table import COLUMNS, TokenTable
from nanochat.runs.load import load_trained, read_checkpoint

NAMES = ["abba", "deb", "fran", "ed", "carlaadaeffaanna"]


def rows_of(path: str | Path) -> list[dict]:
    """The rows of either kind of file, by Python's own readers."""
    with open(path, encoding="utf-8", newline="") as file:
        if str(path).lower().endswith(".csv"):
            kinds = dict.fromkeys(COLUMNS, int) | {"piece": str, "nats": float}
            return [{k: kinds[k](v) for k, v in row.items()} for row in csv.DictReader(file)]
        rows = [json.loads(line) for line in file]
        return [{**row, "nats": float(row["nats"])} for row in rows]


def by_logits(run, document: str) -> list[tuple[int, float]]:
    """(token, nats) of a document and its end, from a decoder that slides over nothing."""
    checkpoint, config, _ = read_checkpoint(str(run))
    model = load_trained(SampleConfig(), checkpoint, config)
    ids, found = [*model.tokenizer.encode(document).tolist(), 0], []
    for first in range(0, len(ids), config.block_size):  # disjoint windows of the context
        part = ids[first : first + config.block_size]
        decoder = model.engine.open_decoder([[0 if first == 0 else ids[first - 1]]])
        for place, target in enumerate(part):
            logits = decoder.logits[0].astype(np.float64)
            found.append(
                (
                    target,
                    np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target],
                )
            )
            if place + 1 < len(part):
                decoder.advance([target])
    return found


@pytest.fixture
def text(folder) -> str:
    Path("other.txt").write_text("\n".join(NAMES))
    return "other.txt"


def evaluate(run, path, **options):
    given = {"checkpoint": str(run), "data": "other.txt", "documents": "line", **options}
    return nanochat.evaluate(EvalConfig(per_token=path, **given))


# ------------------------------------------------------------------------------------- the figures


@pytest.mark.parametrize("path", ["tokens.jsonl", "tokens.csv"])
def test_every_token_has_the_loss_of_its_logits_in_the_order_of_the_text(trained, text, path):
    evaluate(trained.path, path, batch_size=2)
    rows = rows_of(path)
    expected = [
        (d, *pair) for d, name in enumerate(NAMES) for pair in by_logits(trained.path, name)
    ]
    assert [(r["document"], r["token"]) for r in rows] == [e[:2] for e in expected]
    assert [r["nats"] for r in rows] == pytest.approx([e[2] for e in expected], rel=1e-9)
    assert [r["index"] for r in rows] == list(range(len(expected)))


@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_the_rows_add_up_to_the_result(trained, text, mode):
    result = evaluate(trained.path, "tokens.csv", mode=mode, dtype="float64", threads=1)
    rows = rows_of("tokens.csv")
    assert len(rows) == result.targets
    assert math.fsum(r["nats"] for r in rows) == pytest.approx(
        result.loss * result.targets, rel=1e-12
    )
    assert sum(r["bytes"] for r in rows) == result.bytes == len("".join(NAMES))
    nats = math.fsum(r["nats"] for r in rows if r["bytes"])
    assert nats / math.log(2) / result.bytes == pytest.approx(result.bpb, rel=1e-12)


def test_the_file_changes_nothing_in_the_result_and_may_be_of_the_runs_own_text(trained, folder):
    plain = nanochat.evaluate(EvalConfig(checkpoint=str(trained.path)))
    told = nanochat.evaluate(EvalConfig(checkpoint=str(trained.path), per_token="own.jsonl"))
    assert told == plain
    assert len(rows_of("own.jsonl")) == plain.targets


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe"])
def test_the_offsets_are_those_of_the_bytes_that_a_piece_covers(folder, tiny, tokenizer):
    text = 'añ€😀 aña, "aña"\naña aña\n' * 4
    Path("names.txt").write_text(text, encoding="utf-8")
    options = {"vocab_size": 270} if tokenizer == "bpe" else {}
    options = tiny(steps=1, out="run", documents="file", tokenizer=tokenizer, **options)
    nanochat.train(options)
    result = evaluate("run", "tokens.jsonl", data="names.txt", documents="file")
    rows, raw = rows_of("tokens.jsonl"), text.encode()
    assert result.bytes == len(raw)
    assert [r["start"] for r in rows] == [0, *(r["end"] for r in rows[:-1])]
    assert rows[-1]["end"] == len(raw)
    for row in rows:
        assert row["bytes"] == row["end"] - row["start"]
        piece = raw[row["start"] : row["end"]].decode("utf-8", "backslashreplace")
        assert row["piece"] == piece
    assert [row["piece"] for row in rows] == list(nanochat.load("run").loss(text).pieces)


def test_models_of_different_tokenizers_cover_the_same_bytes(folder, tiny):
    for tokenizer in ("char", "byte"):
        nanochat.train(tiny(steps=2, out=tokenizer, tokenizer=tokenizer))
        evaluate(tokenizer, f"{tokenizer}.csv", data="names.txt")
    char, byte = rows_of("char.csv"), rows_of("byte.csv")
    assert [(r["document"], r["start"], r["end"]) for r in char] == [
        (r["document"], r["start"], r["end"]) for r in byte
    ]  # all characters of the names are one byte


texts = st.lists(st.text(max_size=12).filter(lambda t: "\0" not in t), min_size=1, max_size=6)


@settings(deadline=None, max_examples=50)
@given(texts, st.sampled_from(["char", "byte"]), st.sampled_from([".csv", ".jsonl"]), st.data())
def test_every_text_is_read_back_by_the_usual_readers(
    tmp_path_factory, documents, kind, suffix, data
):
    tokenizer = build_tokenizer(kind, documents)
    tokens = encode_documents(tokenizer, documents)
    figures = st.floats(0, 100) | st.sampled_from([math.nan, math.inf, 5e-324])
    nats = np.array(data.draw(st.lists(figures, min_size=tokens.pairs, max_size=tokens.pairs)))
    path = tmp_path_factory.mktemp("table") / f"t{suffix}"
    with closing(TokenTable(str(path))) as table:
        table.write(tokens, tokenizer, nats)
    rows, raw = rows_of(path), "".join(documents).encode()
    assert np.array_equal([r["nats"] for r in rows], nats, equal_nan=True)
    assert [r["token"] for r in rows] == token_stream(tokens)[1:].tolist()
    assert b"".join(raw[r["start"] : r["end"]] for r in rows) == raw
    assert "".join(r["piece"] for r in rows) == (
        "".join(documents)
        if kind == "char"
        else "".join(bytes([b]).decode("utf-8", "backslashreplace") for b in raw)
    )
    ends = [index for index, r in enumerate(rows) if r["token"] == 0]
    assert [rows[i]["document"] for i in ends] == list(range(len(documents)))


@settings(deadline=None, max_examples=50)
@given(texts, st.integers(1, 5), st.integers(1, 9))
def test_the_pairs_of_the_batches_are_those_of_their_targets(documents, batch_size, block_size):
    tokens = encode_documents(ByteTokenizer(), documents)
    stream, shape = token_stream(tokens), {"batch_size": batch_size, "block_size": block_size}
    seen = []
    for batch, pairs in zip(
        evaluation_batches(tokens, **shape), evaluation_pairs(tokens, **shape), strict=True
    ):
        counted = batch.targets != IGNORE
        assert np.array_equal(stream[pairs + 1], batch.targets[counted])
        assert np.array_equal(stream[pairs], batch.inputs[counted])
        seen += pairs.tolist()
    assert sorted(seen) == list(range(tokens.pairs))


def test_many_rows_are_written_in_parts(tmp_path, monkeypatch):
    documents = ["anna", "bob", ""] * 5
    tokens = encode_documents(ByteTokenizer(), documents)
    nats = np.arange(tokens.pairs) / 7
    for name, rows in (("whole.csv", 1 << 16), ("parts.csv", 4)):
        monkeypatch.setattr("nanochat.output.token_table._ROWS", rows)
        with closing(TokenTable(str(tmp_path / name))) as table:
            table.write(tokens, ByteTokenizer(), nats)
    assert (tmp_path / "whole.csv").read_bytes() == (tmp_path / "parts.csv").read_bytes()


# -------------------------------------------------------------------------------------- the refusals


@pytest.mark.parametrize("path", ["tokens.txt", "tokens", "/dev/null", "csv"])
def test_a_file_of_another_kind_is_refused(trained, refused, path):
    message = refused("eval", str(trained.path), f"--per-token={path}")
    assert message == f"per_token must be a file that ends in .jsonl or .csv, got {path}"


def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    trained, refused, folder, monkeypatch
):
    monkeypatch.setattr("nanochat.commands.evaluate.read_checkpoint", None)  # the work
    Path("d.csv").mkdir()
    os.mkfifo("f.csv")
    for path, reason in (
        ("no/t.csv", "No such file or directory"), ("names.txt/t.csv", "Not a directory"),
        ("d.csv", "it is not a regular file"), ("f.csv", "it is not a regular file"),
        (f"{'x' * 300}.csv", "File name too long"),
    ):  # fmt: skip
        message = refused("eval", str(trained.path), f"--per-token={path}", code=1)
        assert message == (
            f"per_token must be a file that can be written, got {path}: {reason}; choose another file"
        )


def test_a_failed_evaluation_leaves_the_old_file_and_no_other(trained, refused, folder):
    Path("t.csv").write_text("old")
    before = sorted(os.listdir())
    refused("eval", str(trained.path), "--per-token=t.csv", "--data=no.txt")
    assert Path("t.csv").read_text() == "old"
    assert sorted(os.listdir()) == before


def test_a_disk_that_fills_up_is_one_line_and_leaves_the_old_file(
    trained, text, refused, monkeypatch
):
    Path("t.csv").write_text("old")
    before = sorted(os.listdir())

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    message = refused("eval", str(trained.path), "--data=other.txt", "--documents=line",
                      "--per-token=t.csv", "--quiet", code=1)  # fmt: skip
    assert "got t.csv: No space left on device; choose another file" in message
    assert Path("t.csv").read_text() == "old"
    assert sorted(os.listdir()) == before


def test_a_link_stays_a_link_and_its_file_is_replaced(trained, text):
    Path("real").mkdir()
    Path("real/t.csv").write_text("old")
    Path("link.csv").symlink_to("real/t.csv")
    evaluate(trained.path, "link.csv")
    assert Path("link.csv").is_symlink()
    assert len(rows_of("real/t.csv")) > 0


def test_the_command_names_the_file_and_json_stays_one_object(trained, text, cli):
    words = ["eval", str(trained.path), "--data=other.txt", "--documents=line"]
    result = cli(*words, "--per-token=t.jsonl", "--json")
    record = json.loads(result.out)
    assert "t.jsonl" in result.err
    assert record["targets"] == len(rows_of("t.jsonl"))


def test_an_error_of_the_table_is_an_output_error(tmp_path):
    with pytest.raises(OutputError):
        TokenTable(str(tmp_path / "no" / "t.csv"))
