"""Guards: what they let pass, what they stop and their words."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from nanochat.config.options import TrainConfig
from nanochat.errors import ConfigError, MemoryDrift, NonFiniteStep, PromptTooLong
from nanochat.model.parameters import parameter_specs
from nanochat.training.engine import EngineState, StepMetrics
from nanochat.training.guards import (
    MemoryGuard,
    check_finite,
    check_finite_loss,
    check_finite_state,
    check_memory_fits,
    check_prompt,
    check_temperature,
    most_loss,
    training_bytes,
)

MIB = 1 << 20


# ------------------------------------------------------------------------- prompt and temperature


@pytest.mark.parametrize(("length", "block_size"), [(1, 1), (1, 16), (16, 16), (15, 16)])
def test_a_prompt_that_fills_the_context_passes(length, block_size):
    assert check_prompt(length, block_size) is None


def test_a_longer_prompt_is_told_how_far_to_shorten():
    with pytest.raises(PromptTooLong) as caught:
        check_prompt(20, 16)
    assert str(caught.value) == "prompt has 20 tokens with BOS, block_size is 16; shorten it to 15"


def test_one_token_too_many_is_too_many():
    with pytest.raises(PromptTooLong):
        check_prompt(17, 16)


@pytest.mark.parametrize("temperature", [0, -0.0, 5e-324, 0.8, 1, 1e300, np.float32(0.5)])
def test_a_finite_temperature_of_at_least_0_passes(temperature):
    assert check_temperature(temperature) is None


@pytest.mark.parametrize("temperature", [math.nan, math.inf, -math.inf, -5e-324, -1e-9])
def test_any_other_temperature_is_refused(temperature):
    with pytest.raises(ConfigError) as caught:
        check_temperature(temperature)
    assert str(caught.value) == f"temperature must be finite and >= 0, got {temperature}"


# ------------------------------------------------------------------------------------ finite steps


def test_finite_steps_pass():
    assert check_finite(StepMetrics(loss=1e308, grad_norm=0.0), 1, None) is None


@pytest.mark.parametrize(
    ("loss", "grad_norm", "last", "what", "checkpoint"),
    [
        (math.nan, 1.0, "runs/a/checkpoints/step-000010", "loss is nan",
         "runs/a/checkpoints/step-000010"),
        (-math.inf, math.nan, None, "loss is -inf", "none"),
        (2.5, math.inf, None, "gradient norm is inf", "none"),
    ],
)  # fmt: skip
def test_a_step_that_is_not_finite_names_step_weights_and_checkpoint(
    loss, grad_norm, last, what, checkpoint
):
    with pytest.raises(NonFiniteStep) as caught:
        check_finite(StepMetrics(loss=loss, grad_norm=grad_norm), 17, last)
    assert str(caught.value) == (
        f"step 17: {what}; weights are those after step 16;"
        f" last good checkpoint: {checkpoint}; lower lr or set grad_clip"
    )


@pytest.mark.parametrize(("vocab_size", "most"), [(1, 693.147), (2, 693.147), (27, 3295.837)])
def test_a_loss_a_thousand_times_that_of_guessing_is_the_most(vocab_size, most):
    assert most_loss(vocab_size) == pytest.approx(most)
    check_finite(StepMetrics(loss=most - 0.01, grad_norm=1.0), 1, None, most_loss(vocab_size))
    with pytest.raises(NonFiniteStep) as caught:
        check_finite(StepMetrics(loss=1e15, grad_norm=1.0), 17, "a", most_loss(vocab_size))
    assert str(caught.value) == (
        f"step 17: loss must be at most {most:.6g}, a thousand times that of guessing, got 1e+15;"
        " last good checkpoint: a; lower lr or set grad_clip"
    )
    assert (caught.value.step, caught.value.figures) == (17, {"loss": 1e15, "grad_norm": 1.0})


@pytest.mark.parametrize(
    ("loss", "step", "message"),
    [
        (math.nan, 3, "after step 3: validation loss is nan; last good checkpoint: none; lower lr"
         " or set grad_clip"),
        (11.0, 3, "after step 3: validation loss must be at most 10, a thousand times that of"
         " guessing, got 11; last good checkpoint: none; lower lr or set grad_clip"),
        (math.inf, 0, "after step 0: validation loss is inf; last good checkpoint: none; lower"
         " init_std"),
    ],
)  # fmt: skip
def test_weights_without_a_finite_loss_are_named_by_their_step(loss, step, message):
    check_finite_loss("validation loss", 10.0, step, None, 10.0)
    with pytest.raises(NonFiniteStep) as caught:
        check_finite_loss("validation loss", loss, step, None, 10.0)
    assert str(caught.value) == message
    assert (caught.value.step, set(caught.value.figures)) == (step, {"validation_loss"})
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.step) == (message, step)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["weight table", "optimizer state v.table"])
def test_a_value_that_no_checkpoint_may_hold_is_named(value, where):
    good, bad = np.ones((2, 3)), np.ones((2, 3))
    bad[1, 2] = value
    state = EngineState(
        weights={"table": bad if where.startswith("weight") else good},
        optimizer={"v.table": good if where.startswith("weight") else bad},
    )
    check_finite_state(EngineState(weights={"table": good}, optimizer={"v.table": good}), 3, None)
    with pytest.raises(NonFiniteStep) as caught:
        check_finite_state(state, 3, "a")
    assert str(caught.value) == (
        f"after step 3: {where} has a value that is {value}; last good checkpoint: a; lower lr or"
        " set grad_clip"
    )
    assert (caught.value.step, list(caught.value.figures)) == (3, [where.replace(" ", "_")])


# ------------------------------------------------------------------------------------------ memory


def observe(ratio, mebibytes):
    """How many observations pass, of resident sizes in MiB."""
    sizes = iter(mebibytes)
    guard = MemoryGuard(ratio, read_rss=lambda: next(sizes) * MIB)
    for _ in mebibytes:
        guard.observe()
    return guard


def test_growth_past_the_ratio_is_named_in_mebibytes():
    with pytest.raises(MemoryDrift) as caught:
        observe(2.0, [400, 700, 1000, 0])
    assert str(caught.value) == (
        "resident memory must stay within 2 times its lowest of the last 2 evaluations, 400 MiB,"
        " got 1000 MiB; raise memory_drift, or set it to 0 to turn this check off"
    )


def test_growth_at_the_ratio_passes():
    assert isinstance(observe(2.0, [400, 400, 800, 800, 0]), MemoryGuard)


def test_start_up_growth_before_the_first_step_is_not_counted():
    reads = []
    guard = MemoryGuard(1.5, read_rss=lambda: reads.append(1) or 10_000 * MIB)
    guard.observe()
    assert reads == []
    guard.observe()
    guard.observe()
    assert reads == [1, 1]


def test_growth_of_256_mib_passes_whatever_the_ratio():
    observe(1.1, [10, 266, 266, 0])
    with pytest.raises(MemoryDrift):
        observe(1.1, [10, 267, 0])


def test_the_minimum_is_that_of_the_last_sixteen():
    with pytest.raises(MemoryDrift):
        observe(2.0, [1000, *[1900] * 15, 2100, 0])
    observe(2.0, [1000, *[1900] * 16, 2100, 0])


def test_a_ratio_of_zero_never_looks():
    def never():
        raise AssertionError

    guard = MemoryGuard(0.0, read_rss=never)
    for _ in range(3):
        assert guard.observe() is None


def test_the_real_reader_sees_this_process():
    guard = MemoryGuard(2.0)
    for _ in range(3):
        guard.observe()
    lowest = min(guard._window)
    assert 10 * MIB < lowest < 1 << 40


@pytest.mark.parametrize(
    ("options", "each"),
    [
        ({"mode": "scalar", "dtype": "auto"}, 8 * 4),
        ({"mode": "tensor", "dtype": "auto"}, 4 * 4),
        ({"mode": "tensor", "dtype": "float64"}, 8 * 4),
        ({"mode": "scalar", "dtype": "float32"}, 4 * 4),
        ({"mode": "tensor", "dtype": "bfloat16"}, 4 * 4),
        ({"mode": "tensor", "dtype": "float32", "optimizer": "sgd"}, 4 * 3),
    ],
)
def test_training_bytes_count_weights_gradients_and_moments(options, each):
    config = TrainConfig(preset="microgpt", **options)
    # microgpt's own count of parameters at 27 tokens.
    assert training_bytes(parameter_specs(config, 27), config) == 4192 * each


def test_a_model_that_fits_passes():
    assert check_memory_fits(8 << 30, available=lambda: 8 << 30) is None
    assert check_memory_fits(1) is None


def test_a_model_that_does_not_fit_names_both_sizes():
    with pytest.raises(ConfigError) as caught:
        check_memory_fits(int(12.3 * 2**30), available=lambda: 8 << 30)
    assert str(caught.value) == (
        "model needs 12.3 GiB for weights, gradients and optimizer state,"
        " 8.0 GiB are available; lower n_embd or n_layer"
    )


def test_a_prompt_without_bos_may_fill_the_whole_context():
    check_prompt(16, 16, bos=False)
    with pytest.raises(PromptTooLong) as caught:
        check_prompt(17, 16, bos=False)
    assert str(caught.value) == "prompt has 17 tokens, block_size is 16; shorten it to 16"
