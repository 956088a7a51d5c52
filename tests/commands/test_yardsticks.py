"""`eval --baselines` and `--network-only`: the same bytes for the model, counts and compressors."""

from __future__ import annotations

import bz2
import json
import lzma
import math
import sys
from pathlib import Path

import pytest
from oracles.kneser_ney import KneserNeyOracle, targets

import nanochat
from nanochat.config.options import EvalConfig, TrainConfig
from nanochat.data.dataset import load_dataset
from nanochat.runs.load import read_checkpoint

NAMES = ("model", "unigram", "bigram", "Kneser-Ney", "xz", "bz2", "PPMd")


@pytest.fixture
def run(folder, tiny):
    """Train on names.txt, a mixture if asked; return the names of its two parts."""

    def train(**options):
        given = {"out": "run", "steps": 3, "num_samples": 0, **options}
        nanochat.train(TrainConfig(**tiny("mini-gpt", **given)))
        _, config, _ = read_checkpoint("best", "run")
        dataset = load_dataset(config)
        decode = dataset.tokenizer.decode
        return tuple(
            [decode(part.tokens[a:b]) for a, b in zip(part.offsets, part.offsets[1:], strict=False)]
            for part in (dataset.train, dataset.val)
        )

    return train


def scores(**options):
    result = nanochat.evaluate(EvalConfig(run="run", baselines=True, threads=1, **options))
    return result, {each.name: each for each in result.baselines}


def check(result, found, train, scored, end="\n"):
    """Every score but that of the model, from the names alone."""
    size = len("".join(name + end for name in scored))
    characters = sorted(set("".join(Path("names.txt").read_text().split())))
    ids = {character: i for i, character in enumerate(characters, start=1)}
    coded = [[[ids[c] for c in name] for name in part] for part in (train, scored)]
    assert tuple(found) == NAMES
    assert found["model"].nats_per_byte == pytest.approx(result.loss * result.targets / size)
    for name in ("unigram", "bigram", "Kneser-Ney"):
        oracle = KneserNeyOracle(coded[0], found[name].order, len(ids) + 1)
        nats = sum(-math.log(oracle.probability(h, t)) for h, t in targets(coded[1]))
        assert found[name].nats_per_byte == pytest.approx(nats / size, rel=1e-12)
    before, after = ("".join(name + end for name in part).encode() for part in (train, scored))
    for name, compress in (
        ("xz", lambda text: lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)),
        ("bz2", bz2.compress),
    ):
        grown = len(compress(before + after)) - len(compress(before))
        assert found[name].bits_per_byte == pytest.approx(8 * grown / size, rel=1e-12)
    for each in found.values():
        assert each.bits_per_byte == pytest.approx(each.nats_per_byte / math.log(2), rel=1e-12)
        assert each.adaptive == (each.name in ("xz", "bz2", "PPMd"))
        assert each.note is None


def test_all_scores_of_the_validation_part_are_those_of_its_bytes(run):
    train, val = run()
    result, found = scores()
    check(result, found, train, val)


def test_a_file_is_scored_by_what_was_learned_from_the_text_of_the_run(run):
    train, _ = run()
    Path("other.txt").write_text("anna\nbob\nfrey\n")
    result, found = scores(data="other.txt")
    check(result, found, train, ["anna", "bob", "frey"])


def test_the_scores_do_not_depend_on_the_batch_size(run):
    run()
    _, one = scores(batch_size=1)
    _, many = scores(batch_size=64)
    for name in NAMES[1:]:
        assert one[name] == many[name]
    assert one["model"].bits_per_byte == pytest.approx(many["model"].bits_per_byte, rel=1e-9)


def test_the_table_fits_in_80_columns_and_follows_the_line_of_figures(run, cli):
    run()
    line, *table = cli("eval", "run", "--baselines", "--quiet").out.splitlines()
    assert line == cli("eval", "run", "--quiet").out.strip()
    assert max(map(len, table)) <= 80
    assert table[0].split() == ["order", "learns", "bits/byte", "nats/byte"]
    assert [row.split()[0] for row in table[1:8]] == list(NAMES)
    record = json.loads(cli("eval", "run", "--baselines", "--json").out)
    assert [each["name"] for each in record["baselines"]] == list(NAMES)
    for row, each in zip(table[1:8], record["baselines"], strict=True):
        *_, learns, bits, nats = row.split()
        assert learns == ("adaptive" if each["adaptive"] else "frozen")
        assert float(bits) == pytest.approx(each["bits_per_byte"], abs=5e-5)
        assert float(nats) == pytest.approx(each["nats_per_byte"], abs=5e-5)
    assert "baselines" not in json.loads(cli("eval", "run", "--json").out)


def test_without_its_package_ppmd_is_left_out_and_the_extra_is_named(run, cli, monkeypatch):
    run()
    monkeypatch.setitem(sys.modules, "pyppmd", None)
    out = cli("eval", "run", "--baselines").out
    assert "no PPMd: it needs pyppmd; pip install 'nanochat-lab[ppmd]'" in out
    assert [each.name for each in scores()[1].values()] == list(NAMES[:-1])


def test_a_cut_training_text_is_told(run, cli, monkeypatch):
    run()
    monkeypatch.setattr("nanochat.commands.yardsticks.MOST_READ", 20)
    monkeypatch.setattr("nanochat.ngram.baseline.MOST_COUNTED", 30)
    out = cli("eval", "run", "--baselines").out
    assert "\nbz2 reads the last 20 bytes of the training text\n" in out
    assert "\nKneser-Ney counts the last 30 tokens\n" in out


def test_a_training_text_that_is_gone_or_changed_is_one_line(run, refused):
    run()
    Path("other.txt").write_text("anna\n")
    Path("names.txt").write_text("anna\nbob\n")
    words = ["eval", "run", "--baselines", "--data=other.txt"]
    assert refused(*words, code=1) == (
        "the text names.txt differs from that of run/checkpoints/step-000003; restore it, or leave"
        " out --baselines"
    )
    Path("names.txt").unlink()
    assert "names.txt" in refused(*words)


def test_one_text_in_one_document_has_no_separator(folder, tiny):
    Path("one.txt").write_text("abc abd abe " * 30)
    nanochat.train(TrainConfig(**tiny(data="one.txt", documents="file", out="run", num_samples=0)))
    result, found = scores()
    assert found["model"].nats_per_byte == pytest.approx(
        result.loss * result.targets / result.bytes, rel=1e-12
    )
    assert result.targets == result.bytes + 1  # the end of the document is predicted


def test_a_text_that_was_trained_on_is_told(folder, tiny, cli):
    Path("names.txt").write_text("a")
    nanochat.train(TrainConfig(**tiny(documents="line", out="run", num_samples=0)))
    out = cli("eval", "run", "--baselines").out
    assert "\nthe scored text is the training text: counts and compressors have read it\n" in out


# --------------------------------------------------------------------------------- the network alone


@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_both_losses_of_a_mixture_are_told(run, cli, mode):
    run(ngram_order=3, mode=mode)
    mixed = nanochat.evaluate(EvalConfig(run="run", threads=1))
    assert (mixed.mixture_loss, mixed.mixture_bpb) == (None, None)
    alone = nanochat.evaluate(EvalConfig(run="run", threads=1, network_only=True))
    assert (alone.mixture_loss, alone.mixture_bpb) == (mixed.loss, mixed.bpb)
    assert alone.loss != mixed.loss
    shown = cli("eval", "run", "--network-only")
    assert "with the network alone, without its counts" in shown.err
    assert f"mixture_loss={mixed.loss:.6g} mixture_bpb={mixed.bpb:.6g}" in shown.out
    assert "mixture_loss" not in cli("eval", "run").out


def test_per_token_has_the_losses_of_the_network_alone(run):
    run(ngram_order=3)
    result = nanochat.evaluate(EvalConfig(run="run", network_only=True, per_token="out.jsonl"))
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert sum(row["nats"] for row in rows) / len(rows) == pytest.approx(result.loss, rel=1e-9)


def test_the_baselines_are_compared_with_network_and_mixture(run):
    run(ngram_order=3)
    mixed, _ = scores()
    result, found = scores(network_only=True)
    assert list(found)[:3] == ["network", "mixture", "unigram"]
    ratio = found["mixture"].nats_per_byte / found["network"].nats_per_byte
    assert ratio == pytest.approx(mixed.loss / result.loss, rel=1e-12)


def test_a_model_without_counts_has_no_network_alone(run, refused):
    run()
    for command in ("eval", "sample"):
        assert refused(command, "run", "--network-only") == (
            "network_only needs a model with counts, got run/checkpoints/step-000003, which has"
            " ngram_order 0; leave network_only out"
        )
