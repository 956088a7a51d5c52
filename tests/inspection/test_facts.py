"""What the page of inspect shows besides the arrays: what matters, what is likeliest, merges, maps."""

from __future__ import annotations

import numpy as np
import pytest
from inspection.conftest import RUNS, TRACED
from nonempty import nonempty

import nanochat
from nanochat.config.options import VIEWS
from nanochat.data.bpe import learn
from nanochat.inspection import facts as facts_module
from nanochat.inspection import importance as importance_module
from nanochat.inspection.comparison import compared
from nanochat.inspection.embeddings import nearest, plane
from nanochat.inspection.facts import facts, likeliest
from nanochat.inspection.importance import MOST_WORK, importance
from nanochat.inspection.merges import merge_steps


@pytest.mark.parametrize("mode", ["scalar", "tensor"])
@pytest.mark.parametrize("name", RUNS)
def test_the_change_without_a_part_is_that_of_the_engine(name, mode, trained):
    options = {"dtype": "float64"} if mode == "tensor" else {}
    trace = trained(name, mode=mode, **options).trace(TRACED)
    found = importance(trace)
    parts = {"head": found.heads, "neuron": found.neurons, "position": found.positions}
    changes = [
        (part, index if part != "position" else index[0], change)
        for part, each in parts.items()
        for index, change in np.ndenumerate(each)
    ]
    for part, index, change in nonempty(changes[::4]):
        without = trace.ablate(**{part: index})
        assert without.mean - trace.mean == pytest.approx(change, rel=1e-9, abs=1e-12)


def test_without_neurons_the_other_changes_stay(trained):
    trace = trained("rope").trace(TRACED)
    whole, part = importance(trace), importance(trace, neurons=False)
    assert np.array_equal(whole.heads, part.heads)
    assert np.array_equal(whole.positions, part.positions)
    assert part.neurons.size == 0


@pytest.mark.parametrize("name", ["microgpt", "counts"])
def test_the_likeliest_tokens_are_those_of_the_model(name, trained):
    model = trained(name)
    rows = likeliest(model.trace(TRACED), 3)
    for length in range(len(TRACED) + 1):
        expected = model.next_tokens(TRACED[:length], k=3)
        shown = [(model.tokenizer.token_text(e["token"]), e["probability"]) for e in rows[length]]
        assert [text for text, _ in shown] == [text for text, _ in expected]
        np.testing.assert_allclose([p for _, p in shown], [p for _, p in expected], rtol=1e-5)


@pytest.mark.parametrize("text", ["banana bandana", "ünïcode  naïve\n\n123456", "a", "  "])
def test_the_last_merge_of_each_word_gives_the_tokens_of_the_text(text):
    tokenizer = learn(["banana bandana ünïcode naïve banana 123 123"] * 3, 280)
    words = merge_steps(tokenizer, text)
    assert "".join(word["word"] for word in words) == text
    assert [t for word in words for t in word["steps"][-1]] == tokenizer.encode(text).tolist()
    for word in nonempty(words):
        lengths = [len(step) for step in word["steps"]]
        assert lengths == list(range(len(word["word"].encode()), lengths[-1] - 1, -1))


def test_the_plane_keeps_distances_of_points_on_a_plane():
    random = np.random.default_rng(0)
    points = random.normal(size=(7, 2)) @ random.normal(size=(2, 5))
    flat = plane(points)
    for one in range(7):
        for other in range(7):
            distance = np.linalg.norm(points[one] - points[other])
            assert np.linalg.norm(flat[one] - flat[other]) == pytest.approx(distance, abs=1e-12)


def test_the_nearest_rows_point_the_same_way():
    rows = np.array([[1.0, 0.0], [2.0, 0.1], [0.0, 3.0], [-1.0, 0.0], [0.0, 0.0]])
    found = nearest(rows, 2)
    assert [index for index, _ in found[0]] == [1, 2]
    assert found[0][0][1] == pytest.approx(2 / np.hypot(2.0, 0.1))
    assert [cosine for _, cosine in found[4]] == [0.0, 0.0]


def test_a_comparison_finds_the_first_array_that_differs(trained):
    trace = trained("rope").trace(TRACED)
    changed = trace["layer1.attn.v"].copy()
    changed[2, 1] += 0.5
    comparison = compared(trace, trace.patch({"layer1.attn.v": changed}))
    first = comparison.first
    assert first is not None
    assert (first.name, first.index) == ("layer1.attn.v", (2, 1))
    assert first.largest == pytest.approx(0.5)
    assert compared(trace, trace).first is None
    other = compared(trace, trained("microgpt").trace(TRACED))
    assert any(each.largest is None for each in other.differences)
    assert isinstance(trace, nanochat.Trace)


def test_what_would_take_long_is_left_out_with_the_reason(trained, monkeypatch):
    trace = trained("rope").trace(TRACED)
    shown = {"run": "runs/x", "step": 1, "arrays": False}
    whole = facts(trace, **shown)
    assert whole["left_out"] == {}
    layers, heads = np.shape(whole["importance"]["heads"])
    tokens = len(trace.tokens)
    passes = {
        "heads": layers * heads,
        "positions": tokens,
        "neurons": np.size(whole["importance"]["neurons"]),
    }
    assert passes["heads"] < passes["positions"] < passes["neurons"]
    for allowed, missing in (("positions", {"neurons"}), ("heads", {"neurons", "positions"})):
        count = passes[allowed]
        monkeypatch.setattr(importance_module, "is_quick", lambda _, n, most=count: n <= most)
        monkeypatch.setattr(facts_module, "is_quick", lambda _, n, most=count: n <= most)
        found = facts(trace, **shown)
        assert found["left_out"] == {
            kind: f"{passes[kind]:,} passes over {tokens} tokens would take long; give a shorter text"
            for kind in missing
        }
        for kind, change in found["importance"].items():
            assert change == (None if kind in missing else whole["importance"][kind])
    monkeypatch.setattr(importance_module, "is_quick", lambda _, n: False)
    monkeypatch.setattr(facts_module, "is_quick", lambda _, n: False)
    found = facts(trace, **shown)
    assert found["importance"] is None
    assert found["left_out"]["importance"] == (
        f"{passes['heads']} passes over {tokens} tokens, one per head, would take long; give a"
        " shorter text"
    )


def test_the_work_of_a_pass_grows_with_model_and_text(trained):
    trace = trained("rope").trace(TRACED)
    config, length = trace.config, len(trace.tokens)
    layer = length * config.n_embd * (12 * config.n_embd + 2 * length)
    head = length * config.n_embd * trace.tokenizer.vocab_size
    most = int(MOST_WORK // (config.n_layer * layer + head))
    assert importance_module.is_quick(trace, most)
    assert not importance_module.is_quick(trace, most + 1)


def test_without_attention_the_page_has_none_of_its_arrays(trained):
    trace = trained("rope").trace(TRACED)
    few = facts(trace, run="runs/x", step=1, arrays=False, attention=False)
    assert few["arrays"] == {}
    more = facts(trace, run="runs/x", step=1, arrays=False)["arrays"]
    assert more.keys() == {name for name in trace if ".attn." in name}


@pytest.mark.parametrize(
    ("mode", "dtype", "start"),
    [
        ("scalar", "float64", "bit-identical to the scalar engine's exact numerics in float64: one"
         " operation per number, in the order of microgpt. Training with fast numerics adds in"
         " another order"),
        ("scalar", "float32", "bit-identical to the scalar engine's exact numerics in float32: one"
         " operation per number, in the order of microgpt. Training with fast numerics adds in"
         " another order"),
        ("tensor", "float32", "those of the plain torch model in float32, with torch's gradients. A"
         " training step may add in another order"),
    ],
)  # fmt: skip
def test_the_page_says_which_pass_its_numbers_are_of(trained, mode, dtype, start):
    trace = trained("rope", mode=mode, dtype=dtype).trace(TRACED)
    first, *_ = facts(trace, run="runs/x", step=1, arrays=False)["sources"]
    assert first == (
        f"Activations, losses and gradients are {start}, so its numbers may differ by rounding. A"
        " parameter history has the numbers of the training."
    )


def test_views_have_one_order_and_one_title_each(trained):
    found = facts(trained("rope").trace(TRACED), run="runs/x", step=1, arrays=False)
    assert tuple(found["views"]) == VIEWS
    assert found["views"]["parameter"] == {"title": "Parameter history", "lead": ""}
    assert len({view["title"] for view in found["views"].values()}) == len(VIEWS)


def test_each_array_and_weight_has_words_and_a_section(trained):
    trace = trained("rope").trace(TRACED)
    about = facts(trace, run="runs/x", step=1, arrays=False)["about"]
    assert list(about) == [*trace, *trace.weights]
    assert all(words["about"] for words in about.values())
    assert about["layer1.attn.q_rotated"] == {
        "about": "Queries, turned by their position", "group": "Layer 1: attention",
    }  # fmt: skip
    assert about["layer0.mlp_fc1"] == {"about": "Weight matrix", "group": "Weights"}
    assert (about["embed.token"]["group"], about["losses"]["group"]) == ("Embedding", "Output")
