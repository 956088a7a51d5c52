"""What a run measures and the bytes it writes."""

from __future__ import annotations

import errno
import json
import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.data.batches import IGNORE
from nanochat.errors import OutputError
from nanochat.training.metrics import (
    METRIC_KEYS,
    JsonlWriter,
    LossTotals,
    NullWriter,
    RecentLosses,
    Stopwatch,
    format_metric,
    metrics_line,
)

METRICS = {
    "mode": "tensor", "model_kind": "mini-gpt", "style": "classic", "backend": "torch",
    "device": "cpu", "using_gpu": False, "tie_lm_head": True, "input_rmsnorm": np.True_,
    "params": 4192, "steps": 1000, "final_loss": 2.123456789, "val_loss": None, "val_bpb": None,
    "val_source": "none", "mean_loss_last_50": np.float32(2.5), "steps_per_sec": 1234.56789,
    "tokens_per_sec": 1234567.8, "vocab_size": 27, "train_tokens": 51200, "seed": 1337,
    "best_step": 900, "best_val_loss": 1.987654321,
}  # fmt: skip


# ------------------------------------------------------------------------------------ the last line


def test_the_line_has_the_designs_keys_in_its_order():
    design = (
        "mode model_kind style backend device using_gpu tie_lm_head input_rmsnorm params steps"
        " final_loss val_loss val_bpb val_source mean_loss_last_50 steps_per_sec tokens_per_sec"
        " vocab_size train_tokens seed best_step best_val_loss"
    )
    assert " ".join(METRIC_KEYS) == design


def test_the_line_is_spelled_to_the_character():
    shuffled = dict(reversed(METRICS.items()))
    assert metrics_line(shuffled) == (
        "mode=tensor model_kind=mini-gpt style=classic backend=torch device=cpu using_gpu=false"
        " tie_lm_head=true input_rmsnorm=true params=4192 steps=1000 final_loss=2.12346"
        " val_loss=none val_bpb=none val_source=none mean_loss_last_50=2.5 steps_per_sec=1234.57"
        " tokens_per_sec=1.23457e+06 vocab_size=27 train_tokens=51200 seed=1337"
        " best_step=900 best_val_loss=1.98765"
    )


@pytest.mark.parametrize(("value", "text"), [(math.nan, "nan"), (-math.inf, "-inf"), (2.0, "2")])
def test_odd_floats_are_spelled_as_c_does(value, text):
    assert f" final_loss={text} " in metrics_line({**METRICS, "final_loss": value})


def test_a_missing_or_unknown_key_is_our_mistake():
    with pytest.raises(AssertionError, match="seed"):
        metrics_line({k: v for k, v in METRICS.items() if k != "seed"})
    with pytest.raises(AssertionError, match="speed"):
        metrics_line({**METRICS, "speed": 1})


def test_a_value_with_a_space_is_our_mistake():
    with pytest.raises(AssertionError, match="mini gpt"):
        metrics_line({**METRICS, "model_kind": "mini gpt"})


# ------------------------------------------------------------------------------------------ totals


TOKEN_BYTES = np.array([0, 1, 3, 2])  # BOS has none
SCORED = st.tuples(st.sampled_from([IGNORE, 0, 1, 2, 3]), st.integers(0, 999))


@given(st.lists(st.lists(SCORED, min_size=1), min_size=1))
def test_totals_are_ratios_of_sums_not_means_of_ratios(batches):
    totals = LossTotals(TOKEN_BYTES)
    for batch in batches:
        targets = np.array([[target for target, _ in batch]])
        nats = np.array([[float(n) if target != IGNORE else 0.0 for target, n in batch]])
        totals.add(nats, targets)
    counted = [(t, n) for batch in batches for t, n in batch if t != IGNORE]
    with_bytes = [(t, n) for t, n in counted if t != 0]
    n_bytes = sum({1: 1, 2: 3, 3: 2}[t] for t, _ in with_bytes)
    assert (totals.targets, totals.bytes) == (len(counted), n_bytes)
    loss = float(Fraction(sum(n for _, n in counted), len(counted))) if counted else None
    bpb = sum(n for _, n in with_bytes) / math.log(2) / n_bytes if with_bytes else None
    assert totals.loss == pytest.approx(loss)
    assert totals.bpb == pytest.approx(bpb)


def test_totals_of_nothing_have_no_figures():
    totals = LossTotals(TOKEN_BYTES)
    assert (totals.loss, totals.bpb) == (None, None)
    totals.add(np.array([[0.5, 0.25, 0.75, 0.0]]), np.array([[0, 0, 0, IGNORE]]))
    assert (totals.loss, totals.bpb) == (0.5, None)


def test_a_uniform_byte_model_has_eight_bits_per_byte():
    totals = LossTotals(np.array([0] + [1] * 256))
    totals.add(np.full((2, 5), math.log(256)), np.arange(1, 11).reshape(2, 5))
    assert totals.bpb == pytest.approx(8.0, rel=1e-15)


def test_the_order_of_the_targets_does_not_change_a_bit():
    generator = np.random.default_rng(0)
    nats, targets = generator.exponential(size=(3, 500)), generator.integers(0, 4, (3, 500))
    order = generator.permutation(nats.size)
    one, other = LossTotals(TOKEN_BYTES), LossTotals(TOKEN_BYTES)
    one.add(nats, targets)
    other.add(nats.ravel()[order][None], targets.ravel()[order][None])
    assert (one.loss, one.bpb) == (other.loss, other.bpb)


def test_recent_losses_are_the_last_ones():
    recent = RecentLosses(3)
    assert recent.mean is None
    assert recent.values == []
    for losses in ([9.0], [1.0, 2.0, 6.0]):
        recent.extend(losses)
    assert recent.values == [1.0, 2.0, 6.0]
    assert recent.mean == 3.0


def test_recent_losses_go_on_from_saved_ones():
    saved = RecentLosses(2, [1.0, 2.0])
    saved.extend([4.0])
    assert saved.values == [2.0, 4.0]


# --------------------------------------------------------------------------------------- stopwatch


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_stopwatch_sums_only_what_lies_between_start_and_stop():
    clock = Clock()
    watch = Stopwatch(clock)
    with watch:
        clock.now += 2
    clock.now += 50
    watch.start()
    clock.now += 3
    assert watch.elapsed_s == 5.0
    watch.stop()
    clock.now += 50
    assert watch.elapsed_s == 5.0


def test_stopwatch_goes_on_from_before_a_resume():
    assert Stopwatch(Clock(), elapsed_s=7.5).elapsed_s == 7.5


def test_stopwatch_stops_when_its_block_raises():
    clock = Clock()
    watch = Stopwatch(clock)

    def fail():
        with watch:
            clock.now += 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    clock.now += 9
    assert watch.elapsed_s == 1.0


def test_starting_twice_and_stopping_twice_are_our_mistakes():
    watch = Stopwatch(Clock())
    with pytest.raises(AssertionError):
        watch.stop()
    watch.start()
    with pytest.raises(AssertionError):
        watch.start()


# --------------------------------------------------------------------------------------- the log


def strict_lines(path: Path) -> list[dict]:
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


@pytest.fixture
def log(tmp_path):
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    yield writer
    writer.close()


def test_a_record_is_one_compact_line_on_disk_at_once(log):
    log.write({"kind": "step", "step": 1, "loss": 2.5})
    log.write({"kind": "eval", "val_loss": None, "ok": True})
    assert log.path.read_bytes() == (
        b'{"kind":"step","step":1,"loss":2.5}\n{"kind":"eval","val_loss":null,"ok":true}\n'
    )


def test_numbers_that_are_not_finite_are_texts(log):
    log.write({"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": np.float32("nan"), "e": (1,)})
    assert strict_lines(log.path) == [
        {"a": "nan", "b": ["inf", {"c": "-inf"}], "d": "nan", "e": [1]}
    ]


def test_numpy_scalars_are_written_as_numbers(log):
    log.write({"a": np.int64(3), "b": np.float64(0.1), "c": np.bool_(True)})
    assert strict_lines(log.path) == [{"a": 3, "b": 0.1, "c": True}]


@given(
    st.dictionaries(
        st.text(), st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.text())
    )
)
def test_every_line_reads_back_exactly(tmp_path_factory, record):
    path = tmp_path_factory.getbasetemp() / "reads-back.jsonl"
    path.unlink(missing_ok=True)
    writer = JsonlWriter(path)
    writer.write(record)
    writer.close()
    assert json.loads(path.read_bytes()) == record
    assert path.read_bytes().count(b"\n") == 1


def test_length_is_the_bytes_on_disk(log):
    assert log.length == 0
    log.write({"step": 1})
    assert log.length == len(b'{"step":1}\n') == log.path.stat().st_size


def test_a_reopened_log_is_appended_to(log):
    log.write({"step": 1})
    again = JsonlWriter(log.path)
    assert again.length == 11
    again.write({"step": 2})
    again.close()
    assert [line["step"] for line in strict_lines(log.path)] == [1, 2]


def test_truncating_drops_what_a_checkpoint_does_not_know_and_writing_goes_on_there(log):
    log.write({"step": 1})
    kept = log.length
    log.write({"step": 2})
    with open(log.path, "ab") as file:
        file.write(b'{"step":3,"lo')  # a line that a crash cut off
    log.truncate(kept)
    assert log.length == kept
    log.write({"step": 20})
    assert [line["step"] for line in strict_lines(log.path)] == [1, 20]


def test_a_log_shorter_than_the_checkpoint_says_keeps_its_whole_lines_and_goes_on(log):
    log.write({"step": 1})
    with open(log.path, "ab") as file:
        file.write(b'{"step":2,"lo')
    assert log.truncate(500) == (
        f"{log.path} has 24 of the 500 bytes that the checkpoint recorded; the figures that it lacks"
        " stay lost, and the run goes on"
    )
    log.write({"step": 20})
    assert [line["step"] for line in strict_lines(log.path)] == [1, 20]


def test_a_null_writer_accepts_what_a_writer_accepts_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = NullWriter()
    log.write({"step": 1, "loss": math.nan})
    log.truncate(500)
    log.sync()
    assert log.length == 0
    log.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "none"), (True, "true"), (np.bool_(False), "false"), (1 / 3, "0.333333"), (7, "7"),
     ("a b", "a b")],
)  # fmt: skip
def test_a_value_is_written_as_the_key_value_lines_show_it(value, text):
    assert format_metric(value) == text


def test_a_folder_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "gone" / "metrics.jsonl"
    with pytest.raises(OutputError) as caught:
        JsonlWriter(path)
    assert str(caught.value) == (
        f"cannot write {path}: No such file or directory; choose a writable out"
    )


def full(*_args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["fsync", "ftruncate"])
def test_a_full_disk_is_named_with_its_file(log, monkeypatch, name):
    log.write({"step": 1})
    monkeypatch.setattr(os, name, full)
    with pytest.raises(OutputError) as caught:
        {"fsync": log.sync, "ftruncate": lambda: log.truncate(0)}[name]()
    assert str(caught.value) == (
        f"cannot write {log.path}: No space left on device; free some space or choose another out"
    )


def test_a_device_without_room_is_named_at_write_and_at_close(log, monkeypatch):
    with pytest.raises(
        OutputError, match="^cannot write /dev/full: it must be a regular file, got a"
    ):
        JsonlWriter(Path("/dev/full"))
    # A regular file on a full disk behaves as this device does.
    monkeypatch.setattr(
        "nanochat.training.metrics.open_plain", lambda path, flags: os.open(path, flags)
    )
    writer = JsonlWriter(Path("/dev/full"))
    message = (
        "cannot write /dev/full: No space left on device; free some space or choose another out"
    )
    with pytest.raises(OutputError) as caught:
        writer.write({"step": 1})
    assert str(caught.value) == message
    with pytest.raises(OutputError) as caught:
        writer.close()
    assert str(caught.value) == message
