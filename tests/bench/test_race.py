"""The race: the data of every side, the scores, the report, and failures that stop nothing."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import random
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles.kneser_ney import KneserNeyOracle, targets
from oracles.texts import documents_of

import nanochat
from bench.command import ROOT
from bench.race import __main__ as race
from bench.race import report as race_report
from bench.race.data import RaceText, documents, prepare_lines, prepare_text
from bench.race.entrants import Eemicrogpt, Ours, check_nanogpt_split
from bench.race.scorer import (
    Scored,
    by_counts,
    load_eemicrogpt,
    load_ours,
    nats,
    windows,
    windows_from,
    windows_of_lines,
)
from bench.race.sides import Lines, Side, run
from bench.race.statistics import p_below, ratio_interval
from nanochat.config.flags import read_flags
from nanochat.config.options import TrainConfig, options_of
from nanochat.config.sources import gather_options
from nanochat.data.dataset import load_dataset
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.runs.checkpoint import find_checkpoint
from nanochat.runs.counts import counts_of

LINES = "".join(f"line {i} of a text\n" + "\n" * (i % 5 == 0) for i in range(900))


@pytest.fixture
def text(tmp_path: Path) -> RaceText:
    (tmp_path / "source.txt").write_text(LINES)
    folder = tmp_path / "race"
    folder.mkdir()
    return prepare_text(tmp_path / "source.txt", folder)


# ---------------------------------------------------------------------------------------- data


def test_a_text_is_split_at_nine_tenths(text: RaceText) -> None:
    whole = LINES.encode()[: len(LINES) // 10 * 10]
    assert text.train + text.val == whole
    assert len(text.train) * 10 == len(whole) * 9
    assert text.record()["val_sha256"] == hashlib.sha256(whole[len(text.train) :]).hexdigest()


def test_our_own_split_is_the_same_bytes(text: RaceText) -> None:
    dataset = load_dataset(TrainConfig(mode="tensor", data=str(text.whole), documents="file"))
    for part, expected in ((dataset.train, text.train), (dataset.val, text.val)):
        assert dataset.tokenizer.decode(part.tokens.tolist()).encode() == expected


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"short", "must have at least 10000 bytes, got 5"), (b"\xc3\xa9" * 9000, "must be ASCII")],
)
def test_a_text_that_cannot_race_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    source = tmp_path / "source.txt"
    source.write_bytes(data)
    with pytest.raises(SystemExit, match=words):
        prepare_text(source, tmp_path)


def test_lines_are_split_whole_once_each_and_without_long_ones(tmp_path: Path) -> None:
    names = [f"name{'x' * (i % 9)}{chr(97 + i % 26)}{i}" for i in range(1500)]
    (tmp_path / "names.txt").write_text("\n".join([*names, names[0], ""]))
    text = prepare_lines(tmp_path / "names.txt", tmp_path, longest=10)
    kept = [name for name in names if len(name) <= 10]
    train, val = (part.decode().splitlines() for part in (text.train, text.val))
    assert sorted(train + val) == sorted(kept)
    assert len(train) == len(kept) // 10 * 9
    assert text.train_file.read_bytes() == text.train
    assert train[:50] != kept[:50]  # not in the order of the source
    both = prepare_lines(tmp_path / "names.txt", tmp_path, longest=10, keep_copies=True)
    assert sorted((both.train + both.val).decode().splitlines()) == sorted([*kept, names[0]])


@given(st.text(alphabet="ab\n", min_size=1, max_size=60))
def test_documents_are_the_text_in_parts(text: str) -> None:
    parts = documents(text)
    assert "".join(parts) == text
    assert all(re.search(r"\n\n[^\n]", part.lstrip("\n")) is None for part in parts)


def test_another_split_of_nanogpt_is_refused(text: RaceText, tmp_path: Path) -> None:
    import pickle

    letters = sorted(set(LINES))
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"itos": dict(enumerate(letters))}))

    def save(name: str, part: bytes) -> None:
        ids = np.array([letters.index(c) for c in part.decode()], dtype=np.uint16)
        ids.tofile(tmp_path / f"{name}.bin")

    save("train", text.train)
    save("val", text.val)
    check_nanogpt_split(tmp_path, text)
    save("val", text.val[1:])
    with pytest.raises(SystemExit, match=f"val part is not the {len(text.val)} bytes"):
        check_nanogpt_split(tmp_path, text)


# -------------------------------------------------------------------------------------- scorer


def counting_logits(inputs: torch.Tensor) -> torch.Tensor:
    """Score token t by its count so far: the logits of a model that reads a whole window."""
    seen = torch.nn.functional.one_hot(inputs, 7).cumsum(1)
    return 0.3 * seen.float() - 0.1 * torch.arange(7)


def by_hand(inputs: Sequence[int], target: int) -> float:
    """Compute the nats of `target` after `inputs` in plain Python."""
    scores = [0.3 * inputs.count(t) - 0.1 * t for t in range(7)]
    return math.log(sum(math.exp(score) for score in scores)) - scores[target]


@given(st.lists(st.integers(0, 6), min_size=2, max_size=300), st.integers(1, 9))
def test_each_target_is_scored_once_in_its_own_window(ids: list[int], context: int) -> None:
    expected = 0.0
    for i in range(1, len(ids)):
        first = (i - 1) // context * context
        expected += by_hand(ids[first:i], ids[i])
    scored = windows(np.array(ids), context)
    total = nats(Scored(counting_logits, scored, context, len(ids) - 1, 0))
    assert total == pytest.approx(expected, rel=1e-6)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=300), st.integers(1, 9))
def test_windows_after_bos_score_every_token_but_bos(ids: list[int], context: int) -> None:
    bos = 6
    expected = 0.0
    for i, target in enumerate(ids):
        first = i // context * context
        if target != bos:
            expected += by_hand([bos, *ids[first:i]], target)
    scored = windows_from(bos, np.array(ids), context)
    total = nats(Scored(counting_logits, scored, context, len(ids), 0, ignored=bos))
    assert total == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(st.lists(st.lists(st.integers(0, 5), max_size=9), max_size=40))
def test_a_line_is_scored_alone_from_its_first_token_to_its_end(lines: list[list[int]]) -> None:
    bos = 6
    expected = sum(
        by_hand([bos, *line[:i]], target) for line in lines for i, target in enumerate([*line, bos])
    )
    scored = windows_of_lines(bos, [np.array(line, dtype=np.int64) for line in lines])
    total = nats(Scored(counting_logits, scored, 16, 1, 0))
    assert total == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=60), st.integers(1, 9), st.randoms())
def test_the_last_logit_gives_its_share_to_the_counts(
    ids: list[int], context: int, random: random.Random
) -> None:
    counted = [random.uniform(0.01, 1) for _ in ids[1:]]
    scale, offset = random.choice([(1.0, 0.0), (0.5, 1.5)])
    expected = 0.0
    for i in range(1, len(ids)):
        seen = ids[(i - 1) // context * context : i]
        own, share = math.exp(-by_hand(seen, ids[i])), math.exp(-by_hand(seen, 6))
        rest = 1 - share
        odds = math.exp(offset) * (54 * share / rest) ** scale  # at first nine times six times
        share = odds * rest
        expected -= math.log((own + share * counted[i - 1]) / (rest + share))
    scored = Scored(
        counting_logits, windows(np.array(ids), context), context, 1, 0,
        by_counts=torch.tensor(counted, dtype=torch.float64), share=(scale, scale * math.log(54) + offset),
    )  # fmt: skip
    assert nats(scored) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["mini-gpt", "ngram"])
def test_a_run_with_counts_is_scored_as_nanochat_scores_it(
    folder: Path, tiny: Any, kind: str
) -> None:
    Path("train.txt").write_text("ada\nanna\nbob\ncarl\ncleo\ndan\ndora\nella\n" * 9)
    common = {"data": "train.txt", "documents": "line", "ngram_order": 4, "val_fraction": 0}
    train = tiny("mini-gpt", mode="tensor", threads=1) if kind == "mini-gpt" else {}
    kept = {**train, **common, "model_kind": kind, "out": "run"}
    if kind == "ngram":
        del kept["ngram_order"]
    nanochat.train(TrainConfig(**kept))
    lines = ["bea", "carl", "e", "dan", "abcde"]
    scored = load_ours(Path("run"), "\n".join(lines), lines=True)
    model = nanochat.load("run")
    expected = sum(model.loss(line).nats.sum() for line in lines)
    assert nats(scored) == pytest.approx(expected, rel=1e-6)
    counts = counts_of(find_checkpoint(Path("run"), "best"))
    assert counts is not None
    assert scored.count_entries == len(counts.arrays()["followers"]) > 0


def test_counts_read_the_tokens_before_a_window() -> None:
    ids = np.array([1, 2, 3, 1, 2, 3, 1, 2, 4, 1])
    model = KneserNey.count(documents_of([[1, 2, 3] * 4]), 3, 5)
    found, entries = by_counts(model, [ids], slice(1, -1))
    oracle = KneserNeyOracle([[1, 2, 3] * 4], 3, 5)
    expected = [oracle.probability(context, target) for context, target in targets([ids.tolist()])]
    assert found is not None
    np.testing.assert_allclose(found.numpy(), expected[1:-1], rtol=1e-12)
    assert entries == len(model.arrays()["followers"])


def eemicrogpt_by_hand(w: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """Compute the logits after `ids`, position by position and head by head in float64."""

    def norm(x: np.ndarray) -> np.ndarray:
        return x / math.sqrt(float(np.mean(x * x)) + 1e-5)

    keys: list[np.ndarray] = []
    values: list[np.ndarray] = []
    for position, token in enumerate(ids):
        x = norm(w["token"][token] + w["position"][position])
        query = w["query"] @ norm(x)
        keys.append(w["key"] @ norm(x))
        values.append(w["value"] @ norm(x))
        heads = []
        for head in range(4):
            part = slice(head * 2, head * 2 + 2)
            scores = [math.exp(float(query[part] @ key[part]) / math.sqrt(2)) for key in keys]
            mixed = sum(s * value[part] for s, value in zip(scores, values, strict=True))
            heads.append(mixed / sum(scores))
        x = x + w["out"] @ np.concatenate(heads)
        x = x + w["contract"] @ np.maximum(w["expand"] @ norm(x), 0)
    return w["head"] @ x


def test_eemicrogpts_weights_are_scored_by_its_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    shapes = {
        "token": (27, 8), "position": (16, 8), "query": (8, 8), "key": (8, 8), "value": (8, 8),
        "out": (8, 8), "expand": (32, 8), "contract": (8, 32), "head": (27, 8),
    }  # fmt: skip
    w = {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    np.concatenate([part.ravel() for part in w.values()]).tofile(tmp_path / "weights.bin")
    exact = {name: part.astype(np.float64) for name, part in w.items()}
    scored = load_eemicrogpt(tmp_path / "weights.bin", "ada\nbo\neve\n")
    expected = 0.0
    for name in ("ada", "bo", "eve"):
        ids = [26, *(ord(letter) - ord("a") for letter in name), 26]
        for i in range(1, len(ids)):
            logits = eemicrogpt_by_hand(exact, ids[:i])
            expected += math.log(np.exp(logits).sum()) - logits[ids[i]]
    assert nats(scored) == pytest.approx(expected, rel=1e-5)
    assert (scored.bytes, scored.parameters) == (11, sum(part.size for part in w.values()))


# ---------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize(  # NIST/SEMATECH handbook, 1.3.6.7.2: upper critical values of t
    ("runs", "t", "p"), [(2, 6.314, 0.05), (5, 3.747, 0.01), (10, 1.833, 0.05), (31, 3.385, 0.001)]
)
def test_p_is_of_students_t(runs: int, t: float, p: float) -> None:
    values = [(-1.0) ** i if i < runs // 2 * 2 else 0.0 for i in range(runs)]
    deviation = math.sqrt(sum(v * v for v in values) / (runs - 1))
    assert p_below(values, t * deviation / math.sqrt(runs)) == pytest.approx(p, rel=2e-3)


def test_a_single_run_shows_nothing_and_equal_runs_show_all() -> None:
    assert math.isnan(p_below([1.0], 2.0))
    assert (p_below([1.0, 1.0], 2.0), p_below([1.0, 1.0], 1.0)) == (0.0, 1.0)


def test_the_interval_of_a_ratio_is_that_of_the_logarithms_difference() -> None:
    a, b = [10.0, 11.0, 12.1], [2.0, 2.0, 2.0 * math.exp(1e-9)]
    ratio, low, high = ratio_interval(a, b)
    assert ratio == pytest.approx(33.1 / 3 / 2)
    # Nearly all of the spread is that of a: 2 degrees of freedom, t = 4.303.
    error = math.log(1.1) / math.sqrt(3)
    assert math.log(high / 5.5) == pytest.approx(4.303 * error, rel=1e-3)
    assert math.log(5.5 / low) == pytest.approx(4.303 * error, rel=1e-3)


# ------------------------------------------------------------------------------------ one side


@dataclass(frozen=True)
class Fake:
    """An entrant whose program is a line of Python."""

    code: str
    loss = re.compile(r"^loss ([\d.]+)")
    loss_unit = 0.5

    def commands(
        self, arguments: Sequence[str], seed: int, text: RaceText, out: Path
    ) -> list[list[str]]:
        return [[sys.executable, "-c", self.code, str(seed), *arguments]]

    def folder(self, out: Path) -> Path:
        return out

    def environment(self, out: Path) -> Mapping[str, str]:
        return {}

    def steps_seconds(self, lines: Lines) -> float | None:
        return 0.25

    def checkpoint(self, out: Path) -> Path:
        return out / "weights"

    def score_command(self, checkpoint: Path, validation: Path) -> list[str]:
        return [sys.executable, "-c", "pass"]


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("import sys; open('weights', 'w').write(sys.argv[1])", "ok", ""),
        ("raise ValueError('no luck')", "failed", "exit status 1: ValueError: no luck"),
        ("pass", "failed", "left no weights"),
        ("import time; print('on', flush=True); time.sleep(60)", "timeout", "exceeded 1.5 s"),
    ],
)
def test_a_run_ends_with_a_status_and_a_reason(
    text: RaceText, tmp_path: Path, code: str, status: str, reason: str
) -> None:
    done = run(Side("fake", "ours", Fake(code), (), (7,)), 7, text, tmp_path, timeout=1.5)
    assert (done.status, done.reason) == (status, reason)
    assert done.seconds is not None
    assert (done.checkpoint is None) == (status != "ok")
    if done.checkpoint:
        assert done.checkpoint.read_text() == "7"


def test_a_side_without_a_checkout_is_skipped(text: RaceText, tmp_path: Path) -> None:
    done = run(Side("gone", "nanogpt", None, (), (1,)), 1, text, tmp_path, timeout=9)
    assert (done.status, done.reason, done.seconds) == ("skipped", "no --nanogpt was given", None)


def test_the_curve_is_what_the_log_says_in_nats(text: RaceText, tmp_path: Path) -> None:
    fake = Fake("open('weights', 'w'); print('loss 4.0'); print('other 3'); print('loss 3.0')")
    done = run(Side("fake", "ours", fake, (), (1,)), 1, text, tmp_path, timeout=60)
    assert [loss for _, loss in done.curve] == [2.0, 1.5]
    assert done.steps_seconds == 0.25


def test_leading_words_of_an_entry_are_variables(text: RaceText, tmp_path: Path) -> None:
    fake = Fake("import os; open('weights', 'w'); print('loss', float(os.environ['RATE']) * 2)")
    side = Side("fake", "ours", fake, ("RATE=1.5", "--steps=3", "NOT=1"), (1,))
    assert side.variables_and_options() == ({"RATE": "1.5"}, ("--steps=3", "NOT=1"))
    done = run(side, 1, text, tmp_path, timeout=60)
    assert [loss for _, loss in done.curve] == [1.5]


def test_a_peer_that_does_not_compile_is_recorded(text: RaceText, tmp_path: Path) -> None:
    compiler = (sys.executable, "-c", "raise SystemExit('no such header')")
    (tmp_path / "builds").mkdir()
    peer = Eemicrogpt(tmp_path, compiler, tmp_path / "builds")
    done = run(Side("peer", "eemicrogpt", peer, (), (1,)), 1, text, tmp_path, timeout=60)
    assert (done.status, done.reason) == ("failed", "exit status 1: no such header")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--lines", "--nanogpt", "somewhere"], "--nanogpt must be without --lines"),
        (["--eemicrogpt", "somewhere"], "--eemicrogpt must be with --lines"),
    ],
)
def test_a_peer_races_on_documents_of_its_kind(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], words: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.race", "--text", "names.txt", *flags])
    with pytest.raises(SystemExit, match=words):
        race.parsed()


RACES = sorted((Path(race.__file__).parent / "entries").glob("*.args"))


@pytest.mark.parametrize("file", RACES, ids=lambda file: file.stem)
def test_a_race_of_a_file_is_what_its_record_is_of(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.race", f"@{file}", "--text", "a text.txt"])
    options = race.parsed()
    assert (options.name, options.text) == (file.stem, Path("a text.txt"))
    entries = race.entries(options.ours)
    assert len({name for name, _ in entries}) == len(entries) > 0
    for _, arguments in entries:
        flags = read_flags("train", arguments)
        TrainConfig(**gather_options(options_of(TrainConfig), flags, {}, None))


def test_a_line_of_a_race_file_is_read_as_a_shell_reads_it() -> None:
    assert race.words_of_line('--ours "a b=--steps 3"  # why') == ["--ours", "a b=--steps 3"]
    assert race.words_of_line("# a comment") == []


# -------------------------------------------------------------------------------------- report


def a_run(side: str, seed: int, score: float | None, seconds: float = 3.0) -> dict[str, object]:
    status = ("ok", "") if score is not None else ("failed", "exit status 1: no luck")
    return {
        "side": side, "seed": seed, "status": status[0], "reason": status[1], "seconds": seconds,
        "steps_seconds": None, "score": score, "bpb": None if score is None else score / 0.6931,
        "parameters": 10, "context": 64, "curve": [[1.0, 2.0], [2.0, 1.9]],
    }  # fmt: skip


def a_record(runs: list[dict[str, object]]) -> dict[str, object]:
    part = {"train_bytes": 9, "val_bytes": 1, "train_sha256": "0" * 64, "val_sha256": "f" * 64}
    side = {"name": "peer", "kind": "nanogpt", "arguments": [], "seeds": [1], "revision": ""}
    return {
        "name": "short", "title": "A race", "quick": True, "text": part, "sides": [side],
        "runs": runs, "summary": race_report.summarise(runs, "peer"), "versions": {},
        "environment": {},
    }  # fmt: skip


RUNS = [
    a_run("peer", 1, 1.9, 100.0), a_run("ours", 1, 1.6, 5.0), a_run("peer", 2, 1.8, 110.0),
    a_run("ours", 2, 1.5, 5.5), a_run("broken", 1, None),
]  # fmt: skip


def test_a_summary_compares_with_the_peers_mean() -> None:
    rows = {row["side"]: row for row in race_report.summarise(RUNS, "peer")}
    assert rows["ours"]["score"] == pytest.approx(1.55)
    assert rows["ours"]["times_faster"]["ratio"] == pytest.approx(20.0)
    assert rows["ours"]["p_below_reference"] == pytest.approx(p_below([1.6, 1.5], 1.85))
    assert (rows["broken"]["finished"], rows["broken"]["started"]) == (0, 1)
    assert rows["broken"]["notes"] == ["exit status 1: no luck"]
    assert "times_faster" not in rows["peer"]


def test_an_entry_is_compared_with_the_peers_of_its_name() -> None:
    runs = [
        a_run("peer short", 1, 1.9, 10.0), a_run("peer long", 1, 1.7, 90.0),
        a_run("absent long", 1, None), a_run("ours long", 1, 1.6, 30.0),
        a_run("ours other", 1, 1.8, 5.0),
    ]  # fmt: skip
    rows = {row["side"]: row for row in race_report.summarise(runs, "peer short")}
    assert rows["ours long"]["times_faster"]["ratio"] == pytest.approx(3.0)
    assert rows["ours other"]["times_faster"]["ratio"] == pytest.approx(2.0)


def test_a_report_is_four_files_that_name_every_side(tmp_path: Path) -> None:
    race_report.write_report(a_record(RUNS), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "short.csv", "short.json", "short.md", "short.png",
    ]  # fmt: skip
    assert json.loads((tmp_path / "short.json").read_text())["runs"] == RUNS
    words = (tmp_path / "short.md").read_text()
    assert "| broken |" in words
    assert "exit status 1: no luck" in words
    assert len((tmp_path / "short.csv").read_text().splitlines()) == 1 + len(RUNS)


@pytest.mark.parametrize(
    ("where", "value"),
    [("status", "fine"), ("score", None), ("seconds", -1.0), ("curve", [[1.0]])],
)
def test_a_record_that_the_schema_refuses_is_not_written(
    tmp_path: Path, where: str, value: object
) -> None:
    runs = copy.deepcopy(RUNS)
    record = a_record(runs)
    runs[0][where] = value
    with pytest.raises(jsonschema.ValidationError):
        race_report.write_report(record, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_scorer_imports_nothing_that_is_named_as_a_peer() -> None:
    code = "import sys, bench.race.scorer; print(sorted(n for n in sys.modules if n[:8] == 'nanochat'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert found.stdout == "[]\n", found.stderr


def test_counts_alone_take_no_steps() -> None:
    line = "mode=scalar steps=0 final_loss=none steps_per_sec=0 tokens_per_sec=0"
    assert Ours().steps_seconds([(0.4, line)]) == 0.0
    line = "mode=tensor steps=60 final_loss=1.5 steps_per_sec=40 tokens_per_sec=3"
    assert Ours().steps_seconds([(2.4, line)]) == 1.5
