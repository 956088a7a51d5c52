"""The reports of `sample` and `eval`: they describe samples and scores and do not change them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import nanochat
from nanochat.commands.copies import marked, report_copies
from nanochat.config.options import SampleConfig, TrainConfig
from nanochat.data.dataset import load_dataset, read_text
from nanochat.output.terminal import Terminal


@pytest.fixture(params=["scalar", "tensor"])
def mode(request) -> str:
    return request.param


@pytest.fixture
def run(folder, tiny):
    def train(**options):
        given = {"out": "run", "steps": 3, "num_samples": 0, "threads": 1, **options}
        return nanochat.train(TrainConfig(**tiny("mini-gpt", **given)))

    return train


def record_of(cli, *words):
    return json.loads(cli("sample", "run", "--json", "--max-new-tokens=12", *words).out)


# -------------------------------------------------------------------------------------- explaining


@pytest.mark.parametrize("order", [0, 3])
def test_an_explained_sample_is_the_sample_and_has_a_row_per_token(run, cli, mode, order):
    run(mode=mode, ngram_order=order)
    words = ["--num-samples=3", "--prompt=an"]
    plain, record = record_of(cli, *words), record_of(cli, *words, "--explain")
    assert record["samples"] == plain["samples"]
    for text, tokens in zip(record["samples"], record["explanations"], strict=True):
        assert text == "an" + "".join(each["text"] for each in tokens)
        for each in tokens:
            likeliest = {other["text"]: other["probability"] for other in each["likeliest"]}
            assert likeliest.get(each["text"], each["probability"]) == each["probability"]
            assert (each["counts"] is None) == (order == 0)
    model = nanochat.load("run")
    first = record["explanations"][0][0]
    expected = dict(model.next_tokens("an", k=100))
    assert first["probability"] == pytest.approx(expected[first["text"]], rel=1e-6)


def test_the_table_has_at_most_80_columns_and_a_row_per_token(run, cli):
    run(ngram_order=3)
    out = cli("sample", "run", "--explain", "--seed=4").out
    text, empty, header, *rows, _ = out.split("\n")[:-1]
    assert empty == ""
    assert header.split() == [
        "token", "prob", "network", "counts", "share", "order", "likeliest"
    ]  # fmt: skip
    assert max(map(len, rows)) <= 80
    names = [row.split("  ")[0] for row in rows]
    ended = names[-1] == "(end)"
    assert "".join(name.strip("'") for name in names[: len(names) - ended]) == text


def test_a_token_that_a_terminal_would_obey_is_escaped(folder, tiny, cli):
    Path("odd.txt").write_text("a\x1bb\tc'd é\n" * 30)
    nanochat.train(TrainConfig(**tiny(data="odd.txt", documents="file", out="run", num_samples=0)))
    rows = cli("sample", "run", "--explain", "--temperature=9").out.split("likeliest")[1]
    assert not {"\x1b", "\t"} & set(rows)
    assert "'\\t'" in rows
    assert "'\\x1b'" in rows


# ------------------------------------------------------------------------------------------- copies


def test_the_texts_are_the_same_and_every_span_is_at_its_place(run, cli, mode):
    run(mode=mode, ngram_order=4)
    words = ["--num-samples=5"]
    plain, record = record_of(cli, *words), record_of(cli, *words, "--report-copies=2")
    assert record["samples"] == plain["samples"]
    names = Path("names.txt").read_text().split()
    assert any(report["spans"] for report in record["copies"])
    for text, report in zip(record["samples"], record["copies"], strict=True):
        covered = set()
        for span in report["spans"]:
            assert span["text"] == text[span["first"] : span["first"] + span["length"]]
            assert span["text"] in names[span["document"] - 1]
            assert span["line"] == 1
            covered |= set(range(span["first"], span["first"] + span["length"]))
        assert (report["tokens"], report["copied"]) == (len(text), len(covered))
        assert report["longest"] == max((s["length"] for s in report["spans"]), default=0)


def test_marks_lines_and_a_summary_are_written(run, cli):
    run(ngram_order=4)
    words = ["sample", "run", "--num-samples=5", "--max-new-tokens=12"]
    plain = cli(*words).out
    out = cli(*words, "--report-copies=2").out
    assert out.replace("[[", "").replace("]]", "").startswith(plain)
    assert max(map(len, out.splitlines())) <= 80
    record = record_of(cli, "--num-samples=5", "--report-copies=2")["copies"]
    copied, tokens = (sum(report[name] for report in record) for name in ("copied", "tokens"))
    spans = sum(len(report["spans"]) for report in record)
    longest = max(report["longest"] for report in record)
    whole = sum(report["whole_document"] is not None for report in record)
    assert out.splitlines()[-2:] == [
        f"copied: {copied} of {tokens} tokens ({100 * copied / tokens:.1f} %) in {spans} spans of at"
        f" least 2; longest {longest}",
        f"samples that equal a training document: {whole} of 5",
    ]
    assert len(out.splitlines()) == len(plain.splitlines()) + spans + 2


def reports(config, texts, least):
    source, dataset = read_text(config), load_dataset(config)
    tokens = [dataset.tokenizer.encode(text).tolist() for text in texts]
    return report_copies(texts, tokens, least, source, dataset)


def test_the_line_of_a_single_document_is_that_of_the_file(folder):
    lines = [f"line {i} has the number {i * i}" for i in range(1, 300)]
    Path("one.txt").write_text("\n".join(lines))
    config = TrainConfig(data="one.txt", documents="file", mode="scalar")
    (report,) = reports(config, ["hh 37 has the number 1369\nline 38 ha"], 10)
    (span,) = report.spans
    assert (span.document, span.line) == (1, 37)
    assert marked(report) == "hh[[ 37 has the number 1369\nline 38 ha]]"


def test_documents_are_numbered_in_the_order_of_the_text_and_lines_within_them(folder):
    pieces = [f"title {i}\nbody {i * 7919}\nend {i}" for i in range(60)]
    Path("many.txt").write_text("\n%\n".join(pieces))
    config = TrainConfig(data="many.txt", separator=r"\n%\n", mode="scalar", tokenizer="bpe",
                         vocab_size=270)  # fmt: skip
    train = set(read_text(config).split.train)
    inside = next(i for i in range(20, 60) if pieces[i] in train)
    found = reports(config, [f"body {inside * 7919}\nend {inside}", pieces[inside]], 5)
    assert [(s.document, s.line) for s in found[0].spans] == [(inside + 1, 2)]
    assert [report.whole_document for report in found] == [None, inside + 1]


def test_characters_of_several_tokens_are_marked_whole(folder):
    Path("e.txt").write_text("ééé zażółć gęślą jaźń " * 30)
    config = TrainConfig(data="e.txt", documents="file", mode="scalar", tokenizer="byte")
    (report,) = reports(config, ["x zażółć y"], 6)
    assert marked(report) == "x[[ zażółć ]]y"
    assert report.spans[0].text == " zażółć "
    assert report.tokens == len("x zażółć y".encode())


def test_what_follows_a_stop_text_is_not_part_of_the_report(folder):
    config = TrainConfig(data="names.txt", documents="line", mode="scalar")
    source, dataset = read_text(config), load_dataset(config)
    tokens = dataset.tokenizer.encode("annabob").tolist()
    (report,) = report_copies(["anna"], [tokens], 3, source, dataset)
    assert (report.tokens, marked(report)) == (4, "[[anna]]")


def test_the_style_corpus_is_named_as_the_place(folder, tiny, cli):
    from nanochat.data.style import style_documents

    line = style_documents()[2]
    config = TrainConfig(data="names.txt", documents="line", mode="scalar", style="futuristic")
    (report,) = reports(config, [line], 10)
    (span,) = report.spans
    assert (span.document, span.line, report.whole_document) == (None, 3, None)


def test_a_text_that_is_gone_or_changed_is_one_line(run, refused):
    run()
    words = ["sample", "run", "--report-copies=3"]
    Path("names.txt").write_text("anna\nbob\n")
    assert refused(*words, code=1) == (
        "the text names.txt differs from that of run/checkpoints/step-000003; restore it, or leave"
        " out --report-copies"
    )
    Path("names.txt").unlink()
    assert "names.txt" in refused(*words)


def test_counted_bigrams_report_copies_and_explain_too(run, cli):
    run()
    words = ["sample", "run", "--from-counts", "--num-samples=4", "--json"]
    plain = json.loads(cli(*words).out)
    record = json.loads(cli(*words, "--report-copies=2", "--explain").out)
    assert record["samples"] == plain["samples"]
    assert len(record["copies"]) == len(record["explanations"]) == 4


# --------------------------------------------------------------------------------- the network alone


def test_the_network_is_sampled_without_its_counts_and_without_their_file(run, cli, mode):
    run(mode=mode, ngram_order=3)
    mixed = nanochat.sample(SampleConfig(run="run", num_samples=8))
    (path,) = Path("run/counts").glob("ngram-*")
    path.unlink()
    shown = cli("sample", "run", "--network-only", "--num-samples=8", "--max-new-tokens=8")
    assert shown.code == 0
    assert "from the network alone, without its counts" in shown.err
    assert shown.out.split("\n")[:-1] != mixed
    record = record_of(cli, "--network-only", "--explain")
    for each in record["explanations"][0]:
        assert each["network"] == each["probability"]
        assert each["counts"] is None


def test_counts_alone_and_the_network_alone_exclude_each_other(folder, refused):
    assert refused("sample", "--from-counts", "--network-only") == (
        "from_counts samples from counts alone and network_only from the network alone; leave one"
        " out"
    )


def test_rules_separate_samples_of_lines_also_with_marks(folder, tiny, monkeypatch, capsys):
    Path("one.txt").write_text("ab\nac\n" * 40)
    nanochat.train(TrainConfig(**tiny(data="one.txt", documents="file", out="run", num_samples=0)))
    monkeypatch.setattr(Terminal, "is_for_people", True)
    for options in ({}, {"report_copies": 2}):
        config = SampleConfig(run="run", num_samples=2, max_new_tokens=6, **options)
        nanochat.sample(config, terminal=Terminal(quiet=True))
        out = capsys.readouterr().out
        assert out.startswith("--- sample 1 ---\n")
        assert out.count("--- sample ") == 2
