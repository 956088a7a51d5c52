"""A trace holds the numbers of the model: values, gradients, and what follows from a change."""

from __future__ import annotations

import re

import numpy as np
import pytest
from inspection.conftest import RUNS, TENSOR_RUNS, TRACED
from inspection.formulas import computed
from nonempty import nonempty
from oracles.plain_gpt import document_loss
from oracles.plain_value import PlainValue

import nanochat
from nanochat.errors import PromptTooLong
from nanochat.inspection.graph import operations
from nanochat.scalar import trace as scalar_trace
from nanochat.scalar.replay import recorded_nodes

ENGINES = [
    *((name, {"mode": "scalar"}) for name in RUNS),
    *((name, {"mode": "tensor", "dtype": "float64"}) for name in (*RUNS, *TENSOR_RUNS)),
]
EVERY_RUN = pytest.mark.parametrize(
    ("name", "options"), ENGINES, ids=[f"{name}-{options['mode']}" for name, options in ENGINES]
)


def test_a_scalar_trace_has_the_bits_of_microgpt(trained):
    model = trained("microgpt")
    trace = model.trace(TRACED)
    plain = {
        name: [[PlainValue(number) for number in row] for row in array.tolist()]
        for name, array in model.weights.items()
    }
    loss = document_loss(plain, trace.tokens.tolist(), trace.targets.tolist())
    loss.backward()
    assert loss.data == (1 / len(trace.tokens)) * sum(trace["losses"].tolist())
    for name, rows in plain.items():
        gradients = np.array([[value.grad for value in row] for row in rows])
        assert np.array_equal(trace.weight_gradients[name], gradients), name


@EVERY_RUN
def test_each_array_follows_from_its_operands_by_the_formula(name, options, trained):
    trace = trained(name, **options).trace(TRACED)
    found = operations(trace.config, trace)
    assert sorted(each.name for each in found) == sorted(trace)
    weights = {name: array.astype(np.float64) for name, array in trace.weights.items()}
    formulas = [each for each in found if each.kind != "tables"]
    assert len(formulas) >= 4
    for each in formulas:
        expected = computed(each, trace, weights)
        np.testing.assert_allclose(trace[each.name], expected, rtol=1e-12, atol=1e-14)


@EVERY_RUN
def test_a_gradient_is_the_slope_of_the_loss(name, options, trained):
    trace = trained(name, **options).trace(TRACED)
    random = np.random.default_rng(1)
    for array in nonempty(trace):
        seen = np.argwhere(np.isfinite(trace[array]) & (trace[array] != 0))
        for index in nonempty(map(tuple, random.choice(seen, 3).tolist())):
            step = 1e-6 * max(1.0, abs(trace[array][index]))
            losses = []
            for change in (step, -step):
                patch = np.full(trace[array].shape, np.nan)
                patch[index] = trace[array][index] + change
                losses.append(trace.patch({array: patch}).mean)
            slope = (losses[0] - losses[1]) / (2 * step)
            assert trace.gradients[array][index] == pytest.approx(slope, rel=1e-4, abs=1e-8), array


@pytest.mark.parametrize("name", RUNS)
def test_both_engines_have_the_same_names_and_numbers(name, trained):
    scalar = trained(name, mode="scalar").trace(TRACED)
    tensor = trained(name, mode="tensor", dtype="float64").trace(TRACED)
    assert sorted(scalar) == sorted(tensor)
    for array in scalar:
        np.testing.assert_allclose(scalar[array], tensor[array], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(
            scalar.gradients[array], tensor.gradients[array], rtol=1e-9, atol=1e-12, err_msg=array
        )
    for weight, gradient in scalar.weight_gradients.items():
        np.testing.assert_allclose(
            gradient, tensor.weight_gradients[weight], rtol=1e-9, atol=1e-12, err_msg=weight
        )


@EVERY_RUN
def test_the_losses_are_those_of_the_model(name, options, trained):
    model = trained(name, **options)
    trace, loss = model.trace(TRACED), model.loss(TRACED)
    np.testing.assert_allclose(trace["losses"], loss.nats, rtol=1e-6)
    assert trace.pieces == list(loss.pieces)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tensor_trace_is_the_float64_one_up_to_rounding(dtype, trained):
    exact = trained("rope", mode="tensor", dtype="float64").trace(TRACED)
    rounded = trained("rope", mode="tensor", dtype=dtype).trace(TRACED)
    relative = {"float32": 1e-5, "bfloat16": 0.05}[dtype]
    for array in nonempty(exact):
        seen = np.isfinite(exact[array])
        largest = np.abs(exact[array][seen]).max()
        difference = np.abs(exact[array][seen] - rounded[array][seen]).max()
        assert difference < relative * largest, array


@EVERY_RUN
def test_a_patch_of_the_same_numbers_changes_nothing(name, options, trained):
    trace = trained(name, **options).trace(TRACED)
    for array in nonempty(trace):
        patched = trace.patch({array: trace[array]})
        assert np.array_equal(patched["losses"], trace["losses"]), array


def test_a_patch_replaces_numbers_and_what_follows_from_them(trained):
    one, other = (trained("microgpt").trace(text) for text in ("anna", "emma"))
    patched = one.patch({"layer0.mlp.residual": other["layer0.mlp.residual"]})
    assert np.array_equal(patched["logits"], other["logits"])
    assert np.array_equal(patched["layer0.mlp.out"], one["layer0.mlp.out"])


def test_a_later_patch_keeps_an_earlier_one(trained):
    trace = trained("rope").trace(TRACED)
    both = trace.ablate(head=(0, 1)).ablate(neuron=(1, 2))
    assert not both["layer0.attn.mixed"].reshape(5, -1, trace.config.head_dim)[:, 1].any()
    assert not both["layer1.mlp.active"][:, 2].any()
    assert both["layer0.attn.mixed"].reshape(5, -1, trace.config.head_dim)[:, 0].any()


@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_nobody_attends_to_a_position_that_is_removed(mode, trained):
    trace = trained("rope", mode=mode).trace(TRACED)
    weights = trace.ablate(position=1)["layer1.attn.weights"]
    assert not weights[:, 2:, 1].any()
    assert weights[:, 1, 1].all()
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-6)


@EVERY_RUN
def test_the_contributions_of_the_lens_add_up_to_the_logits(name, options, trained):
    trace = trained(name, **options).trace(TRACED)
    lens = trace.logit_lens()
    tokens = lens.logits.shape[-1]
    uncapped = trace["logits_uncapped"] if "logits_uncapped" in trace else trace["logits"]
    np.testing.assert_allclose(
        lens.contributions.sum(axis=0), uncapped[:, :tokens], rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(lens.logits[-1], trace["logits"][:, :tokens], rtol=1e-9, atol=1e-12)
    chosen = trace["probabilities"][np.arange(len(trace.targets)), trace.targets]
    np.testing.assert_allclose(lens.losses[-1], -np.log(chosen), rtol=1e-9)
    assert lens.stages[0] == "embed"
    assert len(lens.stages) == 1 + 2 * trace.config.n_layer


@EVERY_RUN
def test_the_lens_after_a_stage_is_the_model_that_ends_there(name, options, trained):
    trace = trained(name, **options).trace(TRACED)
    lens = trace.logit_lens()
    tokens = lens.logits.shape[-1]
    for last, stage in nonempty(enumerate(lens.stages)):
        later = {f"{each}.out": 0 * trace[f"{each}.out"] for each in lens.stages[last + 1 :]}
        logits = trace.patch(later)["logits"][:, :tokens]
        np.testing.assert_allclose(lens.logits[last], logits, rtol=1e-9, atol=1e-12, err_msg=stage)


REFUSED = [
    (lambda m: m.trace(""), "text must have at least one character"),
    (lambda m: m.trace(5), "text must be a str, got int"),
    (lambda m: m.trace("an9a"), "'9'"),
    (lambda m: m.trace("anna\nemma"), "text must be one document, got 2; trace them one by one"),
    (lambda m: m.trace("annaanna"), "text must have at most 7 tokens, with the start of the document"
     " block_size 8, got 8; shorten it"),
    (lambda m: m.trace("anna")["layer9.attn.q"], "trace has no array layer9.attn.q; it has embed."),
    (lambda m: m.trace("anna").patch({"logits": np.zeros(3)}), "logits must have the shape (5, "),
    (lambda m: m.trace("anna").ablate(), "ablate takes one of head, neuron and position, got none"),
    (lambda m: m.trace("anna").ablate(head=(0, 9)), "head must be from 0 to "),
    (lambda m: m.trace("anna").ablate(head=3), "head must be a pair (layer, head), got 3"),
    (lambda m: m.trace("anna").ablate(neuron=(7, 0)), "layer must be from 0 to 0, got 7"),
    (lambda m: m.trace("anna").ablate(position=True), "position must be from 0 to 4, got true"),
    (lambda m: m.trace("anna").ablate(position=1, head=(0, 0)), "got head and position"),
]  # fmt: skip


@pytest.mark.parametrize(("ask", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_what_cannot_be_traced_is_one_clear_line(ask, message, trained):
    with pytest.raises(nanochat.NanochatError) as caught:
        ask(trained("microgpt"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_repr_lists_names_and_shapes(trained):
    lines = repr(trained("microgpt").trace(TRACED)).splitlines()
    assert re.fullmatch(r"Trace\(5 tokens, \d\.\d{4} nats per token, scalar, float64\)", lines[0])
    assert len(lines) == 1 + len(trained("microgpt").trace(TRACED))
    assert any(re.fullmatch(r"  layer0.attn.weights +\(\d, 5, 5\)", line) for line in lines)


def test_a_text_of_too_many_values_is_refused_with_the_tokens_that_fit(trained, monkeypatch):
    model = trained("microgpt")
    shapes = {name: array.shape for name, array in model.weights.items()}
    most = recorded_nodes(model.config, shapes, 4)
    monkeypatch.setattr(scalar_trace, "MOST_NODES", most)
    assert model.trace("abc")["losses"].shape == (4,)
    with pytest.raises(PromptTooLong) as caught:
        model.trace("abcd")
    assert str(caught.value) == (
        f"on the scalar engine, a trace of this model has at most 4 tokens, which are about {most:,}"
        " numbers, got 5; give a shorter text or use mode tensor"
    )
