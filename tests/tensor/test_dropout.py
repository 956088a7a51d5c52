"""Dropout: which elements it drops, compared with Philox in NumPy, and its derivative."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from nonempty import nonempty
from numpy.typing import NDArray
from tensor.batch_makers import everything, make_engine, packed, settings, small_config, windows

from nanochat.config.options import TrainConfig
from nanochat.philox import Stream, philox4x32
from nanochat.tensor.dropout import Dropout, kept_numbers
from nanochat.tensor.engine import TensorEngine
from nanochat.tensor.inputs import Mask
from nanochat.tensor.native.functions import dropout


def dropout_of(config: TrainConfig, *, native: bool = False) -> Dropout:
    return Dropout(config, device=torch.device("cpu"), dtype=torch.float64, native=native)


def expected_scales(
    config: TrainConfig, tokens: int, step: int, microbatch: int, rank: int = 0
) -> NDArray[np.float64]:
    """Return the scales of each place, (places, tokens, n_embd), from Philox in NumPy."""
    places, row = 1 + 2 * config.n_layer, -(-config.n_embd // 8)
    counter = np.zeros((places, tokens * row, 4), np.uint32)
    counter[..., 0] = np.arange(tokens * row)
    counter[..., 1] = np.arange(places)[:, None] + (rank << 16)
    counter[..., 2], counter[..., 3] = microbatch, step
    words = philox4x32(counter.reshape(-1, 4), (config.seed, Stream.DROPOUT))
    numbers = np.stack((words & 0xFFFF, words >> 16), axis=-1).reshape(places, tokens, -1)
    kept = round((1 - config.dropout) * 65536)
    return np.where(numbers[..., : config.n_embd] < kept, 65536 / kept, 0.0)


@pytest.mark.parametrize("n_embd", [8, 36, 130])
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.95])
def test_scales_are_the_numbers_of_philox(
    n_embd: int, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(n_embd=n_embd, n_head=1, dropout=rate, seed=9)
    drawing = dropout_of(config)
    for step, microbatch, rank in ((0, 0, 0), (7, 2, 0), (7, 2, 3)):
        monkeypatch.setenv("WORLD_SIZE", "4")
        monkeypatch.setenv("RANK", str(rank))
        found = np.stack([scales.numpy() for scales in drawing.scales(21, step, microbatch)])
        expected = expected_scales(config, 21, step, microbatch, rank)
        np.testing.assert_array_equal(found, expected)


def test_the_masks_of_the_native_model_are_the_scales_of_the_plain_one() -> None:
    config = small_config(n_embd=20, dropout=0.4)
    scales, masks = dropout_of(config).scales(9, 1, 0), dropout_of(config).masks(9, 1, 0)
    for plain, mask in nonempty(zip(scales, masks, strict=True)):
        bits = np.unpackbits(mask.bits.numpy(), axis=1, count=20, bitorder="little")
        np.testing.assert_array_equal(plain.numpy(), bits * mask.scale)


def test_inputs_get_scales_or_masks_for_their_model() -> None:
    config = small_config(dropout=0.2)
    inputs = make_engine(config)._inputs(packed())
    for native in (False, True):
        found = dropout_of(config, native=native)(inputs, 3, 0)
        assert len(found.dropout_masks) == (5 if native else 0)
        assert len(found.dropout_scales) == (0 if native else 5)


@pytest.mark.parametrize("rate", [1e-9, 1e-5, 0.1, 0.3, 0.5, 0.95])
def test_the_probability_is_within_half_a_number_and_the_scale_its_inverse(rate: float) -> None:
    kept = kept_numbers(rate)
    assert abs(kept / 65536 - (1 - rate)) <= 2**-17
    mask = dropout_of(small_config(dropout=rate)).masks(1, 0, 0)[0]
    assert mask.scale * kept == pytest.approx(65536, rel=1e-15)


def test_every_step_microbatch_process_and_place_drops_other_elements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawing = dropout_of(small_config(dropout=0.5))
    seen = set()
    for rank in (0, 1):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", str(rank))
        for step in range(3):
            for microbatch in range(3):
                masks = drawing.masks(64, step, microbatch)
                seen |= {mask.bits.numpy().tobytes() for mask in masks}
    assert len(seen) == 2 * 3 * 3 * 5


def test_the_derivative_is_that_of_a_product_with_the_scales() -> None:
    x, upstream = torch.randn(2, 6, 11, dtype=torch.float64)
    x.requires_grad_()
    bits = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 2), dtype=np.uint8))
    mask = Mask(bits, 1.25)
    kept = np.unpackbits(bits.numpy(), axis=1, count=11, bitorder="little")
    results = dropout(x, mask), x * torch.from_numpy(kept * 1.25)
    gradients = [torch.autograd.grad(result, x, upstream)[0] for result in results]
    for found, expected in (results, gradients):
        assert torch.equal(found, expected)


OPTIONS: tuple[dict[str, Any], ...] = (
    {"positions": "learned", "input_rmsnorm": False},
    {"output_rmsnorm": True},
    {"positions": "rope", "prev_token_tables": 2, "hash_embed_rows": 16},
    {"n_layer": 0},
)


def gradient_along(engine: TensorEngine, direction: torch.Tensor) -> float:
    engine._accumulate(windows(2, 8), 1)
    slope = float(engine.weights.gradients @ direction)
    engine.weights.zero()
    return slope


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_native_gradients_with_dropout_are_slopes_of_the_loss(options: dict[str, Any]) -> None:
    """The loss with a fixed mask is a smooth function of the weights along a line."""
    engine = make_engine(small_config(dropout=0.3, activation="relu2", **options))
    weights = engine.weights
    direction = torch.randn(
        weights.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    expected = gradient_along(engine, direction)
    losses, step = [], 1e-6
    middle = weights.values.clone()
    for sign in (1, -1):
        with torch.no_grad():
            weights.values.copy_(middle + sign * step * direction)
        engine._accumulate(windows(2, 8), 1)
        losses.append(float(weights.loss))
        weights.zero()
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_masks_and_their_products_are_bit_identical_for_any_number_of_threads() -> None:
    """The matrix is large enough for several chunks of work."""
    drawing, x = dropout_of(small_config(n_embd=100, dropout=0.2)), torch.randn(1000, 100)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        masks = drawing.masks(1000, 5, 0)
        found.append([*(mask.bits for mask in masks), dropout(x, masks[0])])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("loss", ["fused", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_run_drops_the_elements_of_an_uninterrupted_one(dtype: str, loss: str) -> None:
    config = small_config(dropout=0.3, loss=loss)
    whole, first, second = (make_engine(config, dtype=dtype) for _ in range(3))
    expected = [whole.step([packed(n)], settings()).read() for n in range(6)]
    assert [first.step([packed(n)], settings()).read() for n in range(3)] == expected[:3]
    second.load_state_dict(first.state_dict())
    torch.manual_seed(0)  # no generator of torch takes part
    assert [second.step([packed(n)], settings()).read() for n in range(3, 6)] == expected[3:]
    assert everything(second) == everything(whole)


def test_parts_of_a_microbatch_drop_elements_of_their_own_numbers() -> None:
    """A split microbatch is two microbatches, so its loss differs only by what they drop."""
    engine = make_engine(small_config(dropout=0.3))
    seen = []
    accumulate = engine._accumulate

    def recorded(batch: Any, microbatch: int) -> None:
        seen.append((len(batch.inputs), microbatch))
        accumulate(batch, microbatch)

    engine._accumulate = recorded  # type: ignore[method-assign]  # records the calls
    engine.parts = 2
    engine.step([windows(4, 8), windows(2, 8)], settings())
    assert seen == [(2, 0), (2, 1), (1, 2), (1, 3)]


def test_the_generator_of_other_devices_keeps_the_expected_value() -> None:
    drawing = dropout_of(small_config(dropout=0.25))
    drawing._generator = torch.Generator()  # as on a device without the kernel
    first, again, later = (drawing.scales(20_000, step, 0) for step in (1, 1, 2))
    for scales, same, other in nonempty(zip(first, again, later, strict=True)):
        assert set(scales.unique().tolist()) == {0.0, 1 / 0.75}
        assert float(scales.mean()) == pytest.approx(1.0, abs=0.01)
        assert torch.equal(scales, same) and not torch.equal(scales, other)


def test_scoring_draws_no_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(small_config(dropout=0.3))
    plain = make_engine(dataclasses.replace(engine.config, dropout=0.0))

    def refuse(*_: Any) -> None:
        raise AssertionError("dropout was drawn")

    monkeypatch.setattr(engine, "_dropout", refuse)
    np.testing.assert_array_equal(engine.token_losses(packed()), plain.token_losses(packed()))
    np.testing.assert_array_equal(
        engine.open_decoder([[0, 1]]).logits, plain.open_decoder([[0, 1]]).logits
    )
