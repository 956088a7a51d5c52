"""nanochat inspect: what it prints, the page it writes, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import nanochat
from nanochat import InspectConfig


@pytest.fixture
def run(folder, tiny):
    """A finished run of a small transformer with counts, in runs/mixed."""
    options = tiny(model_kind="mini-gpt", out="runs/mixed", num_samples=0, ngram_order=3)
    nanochat.train(nanochat.TrainConfig(**options))
    return "runs/mixed"


def test_the_first_view_has_a_row_per_target(run, cli):
    result = cli("inspect", run, "--text", "anna")
    assert result.code == 0
    model = nanochat.load(run)
    loss = model.loss("anna")
    rows = [line.split() for line in result.out.splitlines()[1:-1]]
    assert [row[1] for row in rows] == ["'a'", "'n'", "'n'", "'a'", "(end)"]
    assert [float(row[2]) for row in rows] == pytest.approx(loss.nats.tolist(), abs=0.0005)
    assert [float(row[3]) for row in rows] == pytest.approx(np.exp(-loss.nats).tolist(), abs=0.005)
    (first, probability), *_ = model.next_tokens("", k=1)
    assert f"{first!r} {probability:.2f}" in result.out.splitlines()[1]
    assert result.out.splitlines()[-1] == f"mean {loss.mean:.4f} nats per token"
    assert max(map(len, result.out.splitlines())) <= 80
    assert result.err.splitlines()[-1] == "page: runs/mixed/inspect.html"


@pytest.mark.parametrize("view", [v for v in nanochat.config.options.VIEWS if v != "compare"])
def test_each_view_prints_the_text_within_80_columns(view, run, cli):
    result = cli("inspect", run, "--text", "emma", "--view", view)
    assert result.code == 0
    lines = result.out.splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= 80


def test_views_may_be_listed_and_repeated(run, cli):
    both = cli("inspect", run, "--text", "emma", "--view", "lens,loss", "--view", "lens").out
    alone = [cli("inspect", run, "--text", "emma", "--view", view).out for view in ("lens", "loss")]
    assert both == "\n".join(alone)


def test_a_comparison_names_the_first_array_that_differs(run, cli):
    options = ["inspect", run, "--text", "emma", "--view", "compare"]
    same = cli(*options, "--against", run).out
    assert same.splitlines()[-1] == "every number is equal"
    other = cli(*options, "--against-dtype", "float32").out
    assert other.splitlines()[-1] == "first to differ: embed.token"
    row = next(line for line in other.splitlines() if line.startswith("logits"))
    here, there = map(float, row.split()[-2:])
    assert abs(here - there) == pytest.approx(float(row.split()[1]), rel=0.1)


def test_without_a_text_the_model_writes_one(run, cli):
    first, second = (cli("inspect", run) for _ in range(2))
    assert first.code == 0
    assert first.out == second.out
    assert first.err.splitlines()[0] == "no --text, so this is a text that the model wrote"


def test_the_record_has_the_numbers_of_the_trace(run, cli):
    record = json.loads(cli("inspect", run, "--text", "anna", "--json").out)
    trace = nanochat.load(run).trace("anna")
    assert record["losses"] == trace["losses"].tolist()
    assert record["shapes"]["layer0.attn.weights"] == [2, 5, 5]
    assert record["lens"]["losses"] == trace.logit_lens().losses.tolist()
    network = record["likeliest"][0][0]
    assert trace["probabilities"][0, network["token"]] == network["network"]
    assert len(record["likeliest"]) == 5


def test_the_page_is_written_where_out_says_and_replaced(run, cli, folder):
    assert cli("inspect", run, "--text", "anna", "--out", "page.html").code == 0
    first = (folder / "page.html").read_text(encoding="utf-8")
    assert cli("inspect", run, "--text", "emma", "--out", "page.html").code == 0
    second = (folder / "page.html").read_text(encoding="utf-8")
    assert first != second
    assert not (folder / run / "inspect.html").exists()


def test_a_large_page_leaves_single_numbers_out_and_says_so(run, cli):
    record = json.loads(cli("inspect", run, "--text", "anna", "--json", "--max-numbers", "10").out)
    reason = record["left_out"]["forward"]
    assert re.fullmatch(
        r"the model has [\d,]+ numbers on this text, and max_numbers is 10; give a shorter text or"
        r" --max-numbers", reason,
    )  # fmt: skip
    assert record["importance"]["neurons"] is None
    assert len(record["importance"]["heads"][0]) == 2


def test_python_returns_the_trace_and_the_page(run):
    result = nanochat.inspect(InspectConfig(run=run, text="anna", against=run))
    assert result.page.is_file()
    assert result.comparison is not None
    assert result.comparison.first is None
    assert result.trace.mean == pytest.approx(nanochat.load(run).loss("anna").mean, rel=1e-6)


REFUSED = [
    (("--text", ""), 2, "text must have at least one character"),
    (("--text", "an9a"), 2, "'9'"),
    (("--text", "x" * 100_000), 2, "'x'"),
    (("--text", "a" * 100_000), 2, "text must have at most 7 tokens"),
    (("--view", "los"), 2, "view must be one of loss, forward,"),
    (("--view", "compare"), 2, "view compare needs something to compare with; give --against,"),
    (("--text", "anna", "--against-numerics", "fast", "--against-mode", "tensor"), 2,
     "against_numerics needs a run of mode scalar, got mode tensor; leave it out"),
    (("--text", "anna", "--out", "."), 1, "out . is not a file; name a file"),
    (("--text", "anna", "--out", "no/page.html"), 1, "no/page.html"),
    (("--text", "anna", "--against", "nowhere"), 1, "no run nowhere"),
    (("--text", "anna", "--max-numbers", "-1"), 2, "max_numbers must be"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "code", "message"), REFUSED, ids=[m[:30] for *_, m in REFUSED])
def test_what_cannot_be_inspected_is_one_clear_line(words, code, message, run, cli):
    result = cli("inspect", run, *words)
    assert message in result.err
    error = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert len(error[0]) < 400
    assert result.code == code


def test_counts_alone_have_no_numbers_to_inspect(folder, tiny, cli):
    options = tiny(out="runs/counts", num_samples=0)
    counts = {k: v for k, v in options.items() if k in ("data", "documents", "out")}
    nanochat.train(nanochat.TrainConfig(model_kind="ngram", num_samples=0, **counts))
    result = cli("inspect", "runs/counts", "--text", "anna")
    assert "inspect needs a model with a network" in result.err
    assert result.code == 2


def test_attention_beyond_max_numbers_is_left_out_with_the_figures(run, cli):
    result = cli("inspect", run, "--text", "anna", "--max-numbers", "50", "--json")
    left_out = json.loads(result.out)["left_out"]
    arrays = [array for name, array in nanochat.load(run).trace("anna").items() if ".attn." in name]
    assert left_out["attention"] == (
        f"attention has {sum(array.size for array in arrays)} numbers on this text, and max_numbers"
        " is 50; give a shorter text or --max-numbers"
    )


@pytest.mark.parametrize("numerics", ["fast", "exact"])
@pytest.mark.parametrize("order", [0, 3])
def test_the_trace_is_compared_with_the_program_that_trains(folder, tiny, cli, numerics, order):
    """Exact numerics give the same bits; fast ones add in another order, and are within rounding of
    the losses of `nanochat eval`, which come from the program too."""
    options = tiny(model_kind="mini-gpt", out="runs/here", num_samples=0, ngram_order=order)
    nanochat.train(nanochat.TrainConfig(**options))
    given = {"run": "runs/here", "text": "anna", "against_numerics": numerics}
    result = nanochat.inspect(InspectConfig(**given))
    rows = {each.name: each for each in result.comparison.differences}
    weights = nanochat.load("runs/here").weights
    gradients = set() if order else {f"gradient of {name}" for name in weights}
    assert rows.keys() == {"logits", "losses"} | gradients
    for name, each in rows.items():
        assert each.largest <= (0.0 if numerics == "exact" and order == 0 else 1e-12), name
    if numerics == "fast":
        assert any(each.largest > 0 for each in rows.values())
    printed = cli(
        "inspect",
        "runs/here",
        "--text",
        "anna",
        "--view",
        "compare",
        "--against-numerics",
        numerics,
    )
    assert printed.out.splitlines()[1].startswith("logits")


@pytest.fixture
def talk(folder, tiny):
    lines = "".join(f"User: Hi {i}\nAssistant: hm {i}\n\n" for i in range(12))
    Path("chat.txt").write_text(lines)
    options = {**tiny("mini-gpt", data="chat.txt", block_size=24, num_samples=0, out="talk")}
    del options["documents"]
    return nanochat.train(nanochat.TrainConfig(**options))


def test_a_text_with_the_roles_is_a_conversation_of_a_run_on_some(talk):
    model = nanochat.load("talk")
    tokenizer = model.tokenizer
    user, assistant, end = map(tokenizer.special, ("user", "assistant", "end"))
    trace = model.trace("User: Hi 1\nAssistant: hm")
    expected = [
        0, user, *tokenizer.encode("Hi 1"), end, assistant, *tokenizer.encode("hm"), end, 0,
    ]  # fmt: skip
    assert [*trace.tokens.tolist(), int(trace.targets[-1])] == expected
    assert model.trace("Hi 1").tokens.tolist() == [0, *tokenizer.encode("Hi 1")]


def test_without_a_text_a_model_of_conversations_replies_to_a_greeting(talk, cli, folder):
    result = cli("inspect", "talk", "--json")
    assert result.code == 0, result.err
    trace = nanochat.inspect(nanochat.InspectConfig(run="talk")).trace
    assert trace.source.startswith("User: Hi\nAssistant: ")
    Path("plain.txt").write_text("User: ab\nAssistant: ba\n\n" * 12)
    options = {"data": "plain.txt", "out": "plain", "mode": "scalar", "steps": 1, "num_samples": 0}
    nanochat.train(nanochat.TrainConfig(**options))
    refused = cli("inspect", "plain")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("error: text must be given; use --text: message: ")
