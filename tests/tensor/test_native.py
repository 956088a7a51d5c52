"""The CPU fast paths of native/ against the plain model: values, gradients, and what they refuse."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from oracles.numpy_gpt import NumpyGPT, nats
from tensor.batch_makers import VOCAB, make_engine, packed, small_config, windows

from nanochat.config.options import TrainConfig, options_of
from nanochat.data.batches import Batch
from nanochat.errors import KernelError, UnsupportedActivation
from nanochat.tensor import decoder as decoder_module
from nanochat.tensor import inputs as inputs_module
from nanochat.tensor import model as model_module
from nanochat.tensor import native
from nanochat.tensor.decoder import TensorDecoder
from nanochat.tensor.engine import TensorEngine
from nanochat.tensor.model import ACTIVATIONS, MODELS, Bigram, MiniGPT
from nanochat.tensor.native import kernels
from nanochat.tensor.native.decoder import NativeDecoder
from nanochat.tensor.native.model import MiniGPT as NativeMiniGPT

AXES: dict[str, tuple[Any, ...]] = {
    "activation": ("relu", "relu2"),
    "positions": ("learned", "rope"),
    "qk_norm": (False, True),
    "input_rmsnorm": (False, True),
    "output_rmsnorm": (False, True),
    "tie_lm_head": (False, True),
    "logit_softcap": (0.0, 1.5),
    "prev_token_tables": (0, 3),
    "hash_embed_rows": (0, 20),
    "dropout": (0.0, 0.3, 0.05),
    "n_head": (1, 2, 4),
    "n_layer": (0, 1, 3),
    "zero_init": (False, True),
}


def covering() -> Iterator[dict[str, Any]]:
    """Yield options in which every pair of values of two axes occurs, few by greedy choice."""
    draw = np.random.default_rng(0)
    cases = [{name: values[draw.integers(len(values))] for name, values in AXES.items()}
             for _ in range(600)]  # fmt: skip
    missing = {
        ((a, x), (b, y))
        for (a, xs), (b, ys) in itertools.combinations(AXES.items(), 2)
        for x, y in itertools.product(xs, ys)
    }
    while missing:
        best = max(cases, key=lambda case: len(pairs(case) & missing))
        assert pairs(best) & missing, "600 draws hold every pair"
        missing -= pairs(best)
        yield best


def pairs(case: dict[str, Any]) -> set[Any]:
    return set(itertools.combinations(case.items(), 2))


CASES = list(covering())
SINGLE = [{name: value} for name, values in AXES.items() for value in values]
BIGRAMS = [
    {"model_kind": "bigram", "tie_lm_head": tie, "input_rmsnorm": norm, "output_rmsnorm": last}
    for tie, norm, last in itertools.product((False, True), (False, True), (False, True))
]
BATCHES = {"packed": packed, "windows": lambda: windows(3, 8)}
PATHS = {"kernel attention": 512, "torch attention": 0}


def computed(engine: TensorEngine, batch: Batch, *, step: int = 0) -> dict[str, NDArray[Any]]:
    """Return the hidden states of a batch, its loss and the gradient of every parameter."""
    engine._steps = step
    with torch.no_grad():
        hidden = engine.model.hidden(engine._inputs(batch)).double().numpy()
    engine._accumulate(batch, 0)
    loss = np.array(float(engine.weights.loss))
    gradients = engine.weights.unpack(engine.weights.gradients.clone())
    engine.weights.zero()
    return {"hidden": hidden, "loss": loss, **gradients}


def both(dtype: str = "float64", **options: Any) -> tuple[TensorEngine, TensorEngine]:
    """Return the native engine and the plain one of a config."""
    found, plain = (
        make_engine(small_config(**options, loss=loss), dtype=dtype) for loss in ("fused", "torch")
    )
    assert type(found.model) is NativeMiniGPT
    assert type(plain.model) in (MiniGPT, Bigram)
    return found, plain


@pytest.mark.parametrize("length", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("options", SINGLE + CASES + BIGRAMS, ids=str)
def test_native_values_and_gradients_equal_the_plain_models(
    options: dict[str, Any], batch: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs_module, "NATIVE_LENGTH", length)
    engines = both(**options)
    found, expected = (computed(engine, BATCHES[batch]()) for engine in engines)
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-13, err_msg=name)
    trained = {name for name, values in expected.items() if values.any()}
    if not options.get("zero_init"):
        assert trained == set(expected)


@pytest.mark.parametrize("length", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("options", CASES[:6], ids=str)
@pytest.mark.parametrize(("dtype", "most"), [("float32", 2e-5), ("bfloat16", 0.06)])
def test_native_values_and_gradients_are_as_near_to_float64_in_every_dtype(
    dtype: str, most: float, options: dict[str, Any], length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The root mean square error of each is small against float64, in both models alike."""
    monkeypatch.setattr(inputs_module, "NATIVE_LENGTH", length)
    exact = computed(both(**options)[1], packed())
    found, plain = (computed(engine, packed()) for engine in both(dtype, **options))
    for name, values in exact.items():
        size = np.sqrt(np.mean(np.square(values))) + 1e-12
        errors = [
            np.sqrt(np.mean(np.square(each[name] - values))) / size for each in (found, plain)
        ]
        assert max(errors) < most, (name, errors)


@pytest.mark.parametrize("options", CASES, ids=str)
def test_the_plain_model_has_the_loss_of_the_numpy_oracle(options: dict[str, Any]) -> None:
    engine = make_engine(small_config(**{**options, "dropout": 0.0, "loss": "torch"}))
    assert type(engine.model) is MiniGPT
    for batch in (packed(), windows(3, 8)):
        expected = np.mean(nats(engine.config, engine.state_dict().weights, batch))
        assert float(computed(engine, batch)["loss"]) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(
    "options", [{}, {"positions": "learned"}, {"prev_token_tables": 2}], ids=str
)
def test_sequences_beyond_the_kernels_length_train_natively(options: dict[str, Any]) -> None:
    length = inputs_module.NATIVE_LENGTH + 8
    engines = both(block_size=length, n_layer=1, **options)
    assert not engines[0]._inputs(windows(1, length)).kernel_attention
    found, expected = (computed(engine, windows(1, length)) for engine in engines)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-13, err_msg=name)


# ------------------------------------------------------------------- which path runs, and refusals


@pytest.mark.parametrize(("position", "rows"), [(8, 8), (-1, 8), (2**62, 8), (3, 3)])
def test_a_position_without_a_row_of_angles_is_refused_forward_and_backward(
    position: int, rows: int
) -> None:
    inputs = make_engine(small_config(positions="rope"))._inputs(windows(1, 4))
    assert inputs.angles is not None
    positions = torch.tensor([0, 1, 2, position])
    cos, sin = (table[:rows] for table in inputs.angles)
    inputs = replace(inputs, positions=positions, angles=(cos, sin))
    qkv, gradient = torch.ones(4, 24, dtype=torch.float64), torch.ones(4, 8, dtype=torch.float64)
    message = f"^positions must be in \\[0, {rows}\\) for token 3, got {position}$"
    with pytest.raises(KernelError, match=message):
        kernels.attention(qkv, inputs, heads=2, qk_norm=True)
    with pytest.raises(KernelError, match=message):
        kernels.attention_backward(gradient, qkv, inputs, heads=2, qk_norm=True)


@pytest.mark.parametrize(
    ("options", "device", "dtype", "compiled", "expected"),
    [
        ({}, "cpu", torch.float32, False, True),
        ({"model_kind": "bigram"}, "cpu", torch.float32, False, True),
        ({"dropout": 0.1, "block_size": 2048}, "cpu", torch.bfloat16, False, True),
        ({"loss": "torch"}, "cpu", torch.float32, False, False),
        ({}, "cuda", torch.float32, False, False),
        ({}, "mps", torch.float32, False, False),
        ({}, "cpu", torch.float16, False, False),
        ({}, "cpu", torch.float32, True, False),
    ],
)
def test_native_blocks_train_on_the_cpu_with_the_fused_loss(
    options: dict[str, Any], device: str, dtype: torch.dtype, compiled: bool, expected: bool
) -> None:
    assert native.trains(small_config(**options), device, dtype, compiled=compiled) is expected


@pytest.mark.parametrize("model_kind", ["bigram", "mini-gpt"])
def test_the_plain_model_names_its_parameters_alike_on_both_paths(model_kind: str) -> None:
    found, plain = both(model_kind=model_kind)
    assert [n for n, _ in found.model.named_parameters()] == [
        n for n, _ in plain.model.named_parameters()
    ]
    assert isinstance(plain.model, MODELS[model_kind])


def test_the_model_has_every_activation_that_the_option_offers() -> None:
    assert set(ACTIVATIONS) == set(options_of(TrainConfig)["activation"].choices)


def test_every_model_option_is_declared_to_the_fast_paths() -> None:
    model_options = {
        name for name, option in options_of(TrainConfig).items() if option.group == "Model"
    }
    assert model_options == set(native.COMPUTED) | native.OUTSIDE_THE_MODEL


@pytest.mark.parametrize("name", ["activation", "positions", "model_kind"])
def test_an_option_value_that_is_not_declared_runs_the_plain_model(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config()
    monkeypatch.setitem(native.COMPUTED, name, ("another",))
    assert not native.trains(config, "cpu", torch.float32, compiled=False)
    assert not native.decodes(config, "cpu", torch.float32)


def test_a_model_option_that_is_not_declared_runs_the_plain_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = small_config()
    monkeypatch.delitem(native.COMPUTED, "qk_norm")
    assert not native.trains(config, "cpu", torch.float32, compiled=False)
    assert not native.decodes(config, "cpu", torch.float32)


class ToyGPT(NumpyGPT):
    """The oracle with the toy activation in place of max(x, 0)."""

    def activation(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.sin(x)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """A config with an activation that model.py has and no fast path has."""
    monkeypatch.setitem(model_module.ACTIVATIONS, "sine", torch.sin)
    choices = options_of(TrainConfig)["activation"]
    monkeypatch.setattr(type(choices), "accepts", lambda *_: True)
    return small_config(activation="sine")


def test_an_activation_of_the_plain_model_alone_trains_correctly(toy: TrainConfig) -> None:
    engine = make_engine(toy)
    assert type(engine.model) is MiniGPT
    model = ToyGPT(toy, engine.state_dict().weights)
    batch = windows(2, 8)
    expected = []
    for tokens, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        model.reset()
        for position, (token, target) in enumerate(zip(tokens, targets, strict=True)):
            logits = model.logits(token, position)
            expected.append(np.log(np.exp(logits).sum()) - logits[target])
    assert float(computed(engine, batch)["loss"]) == pytest.approx(np.mean(expected), rel=1e-13)


def test_an_activation_of_the_plain_model_alone_decodes_correctly(toy: TrainConfig) -> None:
    engine = make_engine(toy)
    decoder = engine.open_decoder([[3]])
    assert type(decoder) is TensorDecoder
    model = ToyGPT(toy, engine.state_dict().weights)
    for position, token in enumerate([3, 1, 4, 1, 5]):
        if position:
            decoder.advance([token])
        np.testing.assert_allclose(decoder.logits[0], model.logits(token, position), rtol=1e-12)


def test_the_fast_paths_refuse_an_activation_that_they_do_not_compute(
    toy: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(toy)
    message = "the CPU kernels compute activation relu or relu2, got sine; use loss torch"
    with pytest.raises(UnsupportedActivation, match=f"^{message}$"):
        NativeMiniGPT(toy, engine.weights, VOCAB)
    with pytest.raises(UnsupportedActivation, match=f"^{message}$"):
        NativeDecoder(engine.model, toy, [[0]])
    monkeypatch.setattr(decoder_module, "decodes", lambda *_: True)
    with pytest.raises(UnsupportedActivation, match=f"^{message}$"):
        engine.open_decoder([[0]])
