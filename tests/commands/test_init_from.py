"""`train --init-from`: what a new run keeps of its source, what it refuses, what it records."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from commands.run_files import rewrite

import nanochat
from nanochat.commands.preset_choice import with_chosen_preset
from nanochat.commands.time_budget import fit_to_budget
from nanochat.config.options import PRESETS, EvalConfig, SampleConfig, TrainConfig, options_of
from nanochat.config.sources import read_config_file
from nanochat.data.dataset import read_text
from nanochat.data.sources import fetching
from nanochat.data.splits import split_documents
from nanochat.errors import ConfigError
from nanochat.model.parameters import initial_weights
from nanochat.runs.checkpoint import load_checkpoint, mark_best, read_best
from nanochat.runs.load import config_of, load_trained, read_checkpoint

OTHER = "bea\nbob\ncarla\nana\ndean\nleo\nfred\ndora\nema\nmelody\n"
NEW = "zoe\nquinn\nxena\nüli\nana\nbob\nleo\nfred\ndora\nema\n"


@pytest.fixture
def source(folder, tiny):
    """A short run of a tiny mini-gpt, in the folder `source`; two other texts beside it."""
    Path("other.txt").write_text(OTHER, encoding="utf-8")
    Path("new.txt").write_text(NEW, encoding="utf-8")

    def train(**options):
        given = {"checkpoint_every": 2, "keep": "all", **options}
        return nanochat.train(TrainConfig(**tiny("mini-gpt", out="source", **given))).run

    return train


def start(**options):
    given = {"documents": "line", "num_samples": 0, "steps": 2, "init_from": "source", **options}
    return nanochat.train(TrainConfig(**given))


def checkpoint(run, step):
    return load_checkpoint(Path(run, "checkpoints", f"step-{step:06d}"))


def best_of(run):
    """The path of a run's best checkpoint."""
    return Path(run, "checkpoints", f"step-{read_best(Path(run, 'checkpoints')).step:06d}")


def saved_config(run):
    return read_config_file(f"{run}/config.toml", options_of(TrainConfig))


# -------------------------------------------------------------------------------- what it starts with


@pytest.mark.parametrize("mode", ["scalar", "tensor"])
@pytest.mark.parametrize("source_mode", ["scalar", "tensor"])
def test_a_run_starts_from_the_weights_of_its_source_on_either_engine(source, source_mode, mode):
    source(mode=source_mode)
    start(data="other.txt", out="run", mode=mode, steps=0, dtype="float64")
    first, best = checkpoint("run", 0), load_checkpoint(best_of("source"))
    assert first.tokenizer == best.tokenizer
    assert first.state.weights.keys() == best.state.weights.keys()
    for name, weight in best.state.weights.items():
        np.testing.assert_array_equal(first.state.weights[name], weight.astype(np.float64))


def test_its_first_evaluation_is_the_score_of_the_source_on_the_new_text(source):
    source()
    start(data="other.txt", out="run", steps=0)
    held_out = split_documents(OTHER.split(), 0.1, 1337).val
    Path("held-out.txt").write_text("\n".join(held_out), encoding="utf-8")
    expected = nanochat.evaluate(EvalConfig(run="source", data="held-out.txt", documents="line"))
    first = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[0])
    assert first["val_loss"] == pytest.approx(expected.loss, rel=1e-12)


def test_the_optimizer_starts_anew(source):
    source()
    start(data="other.txt", out="run", steps=0)
    fresh = checkpoint("run", 0).state.optimizer
    assert all(
        not np.any(values) for name, values in fresh.items() if name.startswith(("m.", "v."))
    )
    assert any(np.any(values) for values in checkpoint("source", 6).state.optimizer.values())


@pytest.mark.parametrize(("which", "step"), [("@2", 2), ("@last", 6), ("@best", 4), ("", 4)])
def test_a_suffix_chooses_the_checkpoint(source, which, step):
    source()
    mark_best(Path("source/checkpoints/step-000004"), 2.5)
    start(data="other.txt", out="run", steps=0, init_from=f"source{which}")
    path = saved_config("run")["init_from"]
    assert path == f"source/checkpoints/step-{step:06d}"
    weights = load_checkpoint(Path(path)).state.weights["wte"]
    np.testing.assert_array_equal(checkpoint("run", 0).state.weights["wte"], weights)


def test_a_name_below_runs_and_a_path_name_the_source(source):
    source()
    shutil.copytree("source", "runs/kept")
    for number, name in enumerate(["kept", "runs/kept", "kept@4", Path("source")]):
        result = start(data="other.txt", out=f"run{number}", steps=0, init_from=name)
        assert Path(result.run).is_dir()


# --------------------------------------------------------------------------------- options of the run


def test_the_model_comes_from_the_source_and_the_schedule_from_its_preset(source):
    source(lr=0.5, beta1=0.1, steps=4, n_embd=8, positions="rope")
    start(data="other.txt", out="run")
    new, old, preset = saved_config("run"), saved_config("source"), PRESETS["microgpt"]
    for name in ("n_layer", "n_head", "n_embd", "block_size", "positions", "preset", "mode"):
        assert new[name] == old[name]
    assert new["lr"] == pytest.approx(preset["lr"] / 3)
    assert new["matrix_lr"] == new["head_lr"] == 0
    assert new["beta1"] == preset["beta1"]
    assert new["eval_every"] == preset["eval_every"]


def test_a_learning_rate_that_is_given_stays(source):
    source()
    start(data="other.txt", out="run", lr=0.03, head_lr=0.02)
    new = saved_config("run")
    assert (new["lr"], new["head_lr"]) == (0.03, 0.02)


def test_without_a_text_the_source_goes_on_with_its_own_text_and_split(source):
    source(seed=7, val_fraction=0.3)
    start(out="run", documents="line")
    new = saved_config("run")
    assert (new["data"], new["seed"], new["val_fraction"]) == (("names.txt",), 7, 0.3)
    split = [json.loads(Path(run, "result.json").read_text())["split_sha256"]
             for run in ("run", "source")]  # fmt: skip
    assert split[0] == split[1]


def test_another_split_of_the_same_text_is_warned_about(source, cli):
    source()
    words = ["train", "--init-from=source", "--steps=0", "--num-samples=0"]
    text = f"the text is split differently than in {best_of('source')}"
    assert text not in cli(*words, "--out=same").err
    assert text in cli(*words, "--out=other", "--seed=3").err
    assert text not in cli(*words, "other.txt", "--documents=line", "--out=new", "--seed=3").err


SENTENCE = "it was the best of times and the worst of times of anna bob carl dora emma fred.\n"
TEXTS = {"tiny": 8_000, "short": 60_000, "longer": 250_000, "long": 700_000}  # bytes


def new_model(path):
    """The config that a new model of a text gets, without a source."""
    config = TrainConfig(data=path, mode="tensor")
    return with_chosen_preset(config, read_text(config))[0]


@pytest.fixture
def sentences(folder):
    """A run of preset nano, with a tiny model, in `source`, and texts of several sizes."""
    for name, size in TEXTS.items():
        Path(f"{name}.txt").write_text(SENTENCE * (size // len(SENTENCE)))
    size = {"n_layer": 1, "n_embd": 8, "n_head": 1, "hash_embed_rows": 8, "prev_token_tables": 0}
    options = {"mode": "tensor", "preset": "nano", "num_samples": 0, "baseline": False, **size}
    return lambda **given: nanochat.train(
        {**options, "data": "long.txt", "steps": 1, "out": "source", **given}
    )


def tuned(data, **options):
    """The saved options of a run that starts from `source`."""
    given = {"num_samples": 0, "baseline": False, "steps": 1, "batch_size": 1, **options}
    run = nanochat.train({"init_from": "source", "data": data, "out": f"on-{data}", **given})
    return saved_config(run.run)


@pytest.mark.parametrize("name", ["short", "longer", "long"])
def test_dropout_and_learning_rate_are_those_of_a_new_model_of_the_same_text(sentences, name):
    sentences(dropout=0.05, lr=0.5)  # options of the source, not of its text
    fresh = new_model(f"{name}.txt")
    lr = fresh.lr if fresh.preset == "nano" else PRESETS["nano"]["lr"]
    options = tuned(f"{name}.txt")
    assert options["lr"] == pytest.approx(lr / 3)
    assert options["dropout"] == (fresh.dropout if fresh.preset == "nano" else 0)
    assert (options["dropout"] > 0) == (name != "long")


def test_a_few_pages_get_the_dropout_of_a_new_model(sentences):
    sentences()
    assert tuned("tiny.txt")["dropout"] == new_model("tiny.txt").dropout
    assert new_model("tiny.txt").dropout > new_model("short.txt").dropout > 0


def test_a_larger_model_than_the_chosen_one_gets_its_dropout_and_keeps_its_own_rate(sentences):
    sentences(preset="microgpt", n_layer=2, n_embd=128, n_head=1, val_fraction=0.01)
    options = tuned("short.txt", val_fraction=0.05)
    assert options["dropout"] == new_model("short.txt").dropout
    assert options["lr"] == pytest.approx(PRESETS["microgpt"]["lr"] / 3)
    shutil.rmtree("source")
    sentences(preset="microgpt", val_fraction=0.01)
    assert tuned("longer.txt", val_fraction=0.02)["dropout"] == 0  # smaller than the chosen model


def test_given_dropout_and_rate_stay_and_the_terminal_says_what_was_chosen(sentences, cli):
    sentences()
    fresh = new_model("short.txt")
    given = tuned("short.txt", dropout=0.0, out="a")
    assert (given["dropout"], given["lr"]) == (0, pytest.approx(fresh.lr / 3))
    given = tuned("short.txt", lr=0.25, out="b")
    assert (given["dropout"], given["lr"]) == (fresh.dropout, 0.25)
    words = ["--init-from=source", "--steps=1", "--num-samples=0", "--no-baseline", "--out=c"]
    assert f"\ndropout {fresh.dropout:g}, lr {fresh.lr / 3:.3g}: " in (
        f"\n{cli('train', 'short.txt', *words).err}"
    )
    assert saved_config("c")["dropout"] == fresh.dropout


def test_a_time_budget_starts_from_a_source_with_the_same_dropout(sentences, monkeypatch):
    sentences()
    seen = []

    def fit(config, *rest, **options):
        seen.append(config)
        raise ConfigError("enough")

    monkeypatch.setattr("nanochat.commands.time_budget.fit_to_budget", fit)
    with pytest.raises(ConfigError, match="enough"):
        nanochat.train({"init_from": "source", "data": "short.txt", "time_budget": "5s"})
    fresh = new_model("short.txt")
    assert (seen[0].dropout, seen[0].lr) == (fresh.dropout, pytest.approx(fresh.lr / 3))


CONTRADICTIONS = {
    "n_layer": (2, "1"), "n_head": (1, "2"), "n_embd": (8, "4"), "positions": ("rope", "learned"),
    "tokenizer": ("byte", "char"), "vocab_size": (300, "1024"), "qk_norm": (True, "false"),
    "tie_lm_head": (True, "false"), "preset": ("pico", "microgpt"), "model_kind": ("bigram", "mini-gpt"),
    "activation": ("relu2", "relu"), "prev_token_tables": (1, "0"), "init_std": (0.5, "0.08"),
    "output_rmsnorm": (True, "false"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_an_option_that_contradicts_the_source_is_refused(source, refused, flags, name):
    source()
    value, kept = CONTRADICTIONS[name]
    shown = str(value).lower()
    assert refused("train", "other.txt", "--init-from=source", *flags(**{name: value})) == (
        f"init_from keeps {name} {kept} of {best_of('source')}, got {shown}; leave {name} out, or"
        " train a new model without init_from"
    )


def test_the_value_of_the_source_is_no_contradiction(source):
    source()
    result = start(data="other.txt", out="run", n_layer=1, n_head=2, n_embd=4, tokenizer="char")
    assert Path(result.run).is_dir()


def test_learned_positions_can_become_fewer_but_not_more(source, refused):
    source()
    words = ["train", "other.txt", "--init-from=source"]
    assert refused(*words, "--block-size=9") == (
        f"block_size must be at most 8, the learned positions of {best_of('source')}, got 9; lower"
        " it, or train a new model without init_from"
    )
    start(data="other.txt", out="run", block_size=5, steps=0)
    np.testing.assert_array_equal(
        checkpoint("run", 0).state.weights["wpe"],
        load_checkpoint(best_of("source")).state.weights["wpe"][:5],
    )


def test_rotary_positions_take_any_context_window(source):
    source(positions="rope")
    start(data="other.txt", out="run", block_size=20)
    assert saved_config("run")["block_size"] == 20


# ------------------------------------------------------------------------------------- new characters


def test_new_characters_are_refused_with_their_list(source, refused):
    source()
    Path("new.txt").write_text("zoe\nx\x07y\n" * 6, encoding="utf-8")
    assert refused("train", "new.txt", "--documents=line", "--init-from=source") == (
        r"the text has 3 characters that the model does not know: '\x07' 'x' 'z'; add"
        " --extend-vocabulary, or take them out of the text"
    )
    assert not Path("runs").exists()


def test_a_long_list_of_new_characters_is_cut(source, refused):
    source()
    Path("new.txt").write_text("".join(map(chr, range(0x4E00, 0x4E40))), encoding="utf-8")
    message = refused("train", "new.txt", "--init-from=source")
    assert message.startswith("the text has 64 characters that the model does not know: '一' '丁'")
    assert message.count("'") == 40 and "… ;" not in message and " …; add" in message


@pytest.mark.parametrize(("mode", "options"), [
    ("scalar", {}),
    ("scalar", {"tie_lm_head": True}),
    ("tensor", {"prev_token_tables": 2, "hash_embed_rows": 7}),
])  # fmt: skip
def test_an_extended_vocabulary_keeps_old_rows_and_draws_new_ones(source, mode, options):
    source(mode=mode, **options)
    start(data="new.txt", out="run", extend_vocabulary=True, steps=0, seed=5)
    old, new = load_checkpoint(best_of("source")), checkpoint("run", 0)
    before, after = old.tokenizer["characters"], new.tokenizer["characters"]
    assert after == before + "".join(sorted(set(NEW) - set(before) - {"\n"}))
    fresh = initial_weights(config_of(new), len(after) + 1)
    for name, weight in new.state.weights.items():
        known = old.state.weights[name]
        np.testing.assert_array_equal(weight[: len(known)], known)
        assert weight.shape == fresh[name].shape
        drawn = fresh[name][len(known) :].astype(weight.dtype)
        np.testing.assert_array_equal(weight[len(known) :], drawn)


def test_an_extension_leaves_the_logits_of_old_tokens_as_they_were(source):
    source(mode="scalar")
    start(data="new.txt", out="run", extend_vocabulary=True, steps=0)
    logits = []
    for run in ("source", "run"):
        found, config, _ = read_checkpoint(run=run)
        model = load_trained(SampleConfig(), found, config)
        ids = [0, *model.tokenizer.encode("ada").tolist()]
        logits.append(np.array(model.engine.open_decoder([ids]).logits[0]))
    np.testing.assert_allclose(logits[1][: len(logits[0])], logits[0], rtol=1e-12)


def test_an_extended_run_resumes_samples_and_evaluates_without_its_source(source, stop_after):
    source()
    best_step = read_best(Path("source/checkpoints")).step
    stop_after(3)
    with pytest.raises(nanochat.NanochatError, match="stopped after step 3"):
        start(data="new.txt", out="run", extend_vocabulary=True, steps=6)
    stop_after(10**9)
    start(data="new.txt", out="whole", extend_vocabulary=True, steps=6)
    shutil.rmtree("source")
    nanochat.train(TrainConfig(resume=True, out="run"))
    for name, weight in checkpoint("whole", 6).state.weights.items():
        np.testing.assert_array_equal(checkpoint("run", 6).state.weights[name], weight)
    assert nanochat.evaluate(EvalConfig(run="run")).targets > 0
    assert nanochat.sample(nanochat.SampleConfig(run="run", prompt="zü"))[0].startswith("zü")
    assert checkpoint("run", 6).data["initialized_from"]["step"] == best_step


def test_an_extended_vocabulary_can_be_extended_again(source):
    source()
    start(data="new.txt", out="first", extend_vocabulary=True)
    Path("third.txt").write_text("yan\nkim\nzoe\n" * 5, encoding="utf-8")
    start(data="third.txt", out="second", extend_vocabulary=True, init_from="first")
    first, second = (checkpoint(r, 2).tokenizer["characters"] for r in ("first", "second"))
    assert second == first + "k"
    assert nanochat.evaluate(EvalConfig(run="second")).targets > 0


@pytest.mark.parametrize("tokenizer", ["byte", "bpe"])
def test_a_tokenizer_of_bytes_needs_no_extension_and_refuses_it(source, refused, tokenizer):
    source(tokenizer=tokenizer, **({"vocab_size": 260} if tokenizer == "bpe" else {}))
    start(data="new.txt", out="run")
    assert refused("train", "new.txt", "--init-from=source", "--extend-vocabulary") == (
        f"tokenizer {tokenizer} of {best_of('source')} does not support extend_vocabulary: it has an id for every byte, so it knows every text; leave it out"
    )


# ----------------------------------------------------------------------------- what the run remembers


def test_the_source_is_recorded_with_the_hash_of_its_weights(source):
    source()
    start(data="other.txt", out="run")
    path = best_of("source")
    record = {
        "path": str(path),
        "step": load_checkpoint(path).trainer.step,
        "weights_sha256": hashlib.sha256((path / "weights.safetensors").read_bytes()).hexdigest(),
    }
    assert json.loads(Path("run/environment.json").read_text())["initialized_from"] == record
    assert checkpoint("run", 2).data["initialized_from"] == record
    assert saved_config("run")["init_from"] == str(path)


def test_the_saved_config_repeats_the_run(source, cli, records):
    source()
    start(data="other.txt", out="run")
    config = Path("run/config.toml").read_text().replace('out = "run"\n', "")
    Path("again.toml").write_text(config)
    assert cli("train", "--config=again.toml", "--out=again").code == 0
    first, again = records(Path("run")), records(Path("again"))
    for record in (*first, *again):
        record.pop("elapsed_s", None)  # the only figure that depends on the clock
    assert again == first


def test_fine_tuning_goes_on_from_where_the_source_was(source):
    source(steps=60, eval_every=60)
    first = start(data="names.txt", out="run", steps=20, init_from="source@last").metrics[
        "mean_loss_last_50"
    ]
    alone = nanochat.train(
        TrainConfig(**{**saved_config("run"), "init_from": None, "out": "alone"})
    )
    assert first < alone.metrics["mean_loss_last_50"]


# ------------------------------------------------------------------------------------------ bad input


def test_a_bigram_is_refused(folder, tiny, refused):
    nanochat.train(TrainConfig(**tiny(out="source", num_samples=0)))
    assert refused("train", "names.txt", "--init-from=source") == (
        f"init_from does not support model_kind bigram, got {best_of('source')}; name a run of"
        " model_kind mini-gpt, or train without init_from"
    )


def test_a_missing_run_is_one_line_with_the_closest_name(source, refused):
    source()
    shutil.copytree("source", "runs/kjv")
    assert refused("train", "other.txt", "--init-from=kvj", code=1) == (
        "no run kvj here or in runs (did you mean 'kjv'?)"
    )
    assert refused("train", "other.txt", "--init-from=kjv@5", code=1) == (
        "runs/kjv/checkpoints must hold the checkpoint of step 5, got steps 2, 4, 6; use one of"
        " them, best or last"
    )


def test_a_damaged_checkpoint_is_one_line(source, refused):
    source()
    for file in Path("source").glob("checkpoints/*/weights.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    message = refused("train", "other.txt", "--init-from=source@6", code=1)
    assert message.startswith("source/checkpoints/step-000006/weights.safetensors is damaged")
    assert refused("train", "other.txt", "--init-from=source", code=1).startswith(
        "source/checkpoints holds no complete checkpoint: "
    )


@pytest.mark.parametrize(("change", "reason"), [
    ({"n_experts": 3}, "n_experts is not an option"),
    ({"mode": "torch"}, "mode must be one of auto, scalar, tensor, got torch"),
    ({"preset": "milli"}, "preset must be one of auto, {presets}, got milli (did you mean 'mini'?)"),
])  # fmt: skip
def test_a_run_of_another_version_is_one_line_in_every_command(source, refused, change, reason):
    source()
    path = Path("source/checkpoints/step-000006")
    config = json.loads((path / "config.json").read_text())
    rewrite(path, "config.json", {**config, **change})
    reason = reason.format(presets=", ".join(PRESETS))
    message = (
        f"{path} has a config of another version: {reason}; use the version of nanochat that"
        " trained it, or train again"
    )
    assert refused("train", "other.txt", "--init-from=source@6", code=1) == message
    assert refused("train", "--resume", "--out=source", code=1) == message
    assert refused("sample", "source", "--checkpoint=last", code=1) == message
    assert refused("eval", "source", "--checkpoint=last", code=1) == message


EARLIER = {
    "prev_token_tables": "past_embeds", "hash_embed_rows": "ngram_rows",
    "hash_embed_longest": "ngram_longest",
}  # fmt: skip


def test_options_saved_under_earlier_names_are_read(source, cli):
    options = {"prev_token_tables": 2, "hash_embed_rows": 30, "hash_embed_longest": 3}
    source(**options, mode="tensor", threads=1)
    sample = cli("sample", "source", "--checkpoint=last", "--seed=3").out
    path = Path("source/checkpoints/step-000006")
    config = json.loads((path / "config.json").read_text())
    rewrite(path, "config.json", {EARLIER.get(name, name): config[name] for name in config})
    assert cli("sample", "source", "--checkpoint=last", "--seed=3").out == sample
    saved = Path("source/config.toml").read_text()
    for name, earlier in EARLIER.items():
        assert f"\n{name} = " in saved
        saved = saved.replace(f"\n{name} = ", f"\n{earlier} = ")
    Path("earlier.toml").write_text(saved)
    known = options_of(TrainConfig)
    read = read_config_file("earlier.toml", known)
    assert {name: read[name] for name in options} == options
    Path("both.toml").write_text("past_embeds = 2\nprev_token_tables = 2\n")
    with pytest.raises(ConfigError) as caught:
        read_config_file("both.toml", known)
    assert str(caught.value) == (
        "config file both.toml: past_embeds is not an option; use prev_token_tables"
    )


def test_weights_of_another_model_than_the_config_are_one_line(source, refused):
    source()
    path = Path("source/checkpoints/step-000006")
    config = json.loads((path / "config.json").read_text())
    rewrite(path, "config.json", {**config, "n_layer": 2})
    assert refused("train", "other.txt", "--init-from=source@6", code=1) == (
        f"{path}: checkpoint lacks weight layer1.attn_wq; it belongs to another model"
    )


def test_resume_and_init_from_exclude_each_other(refused, folder):
    assert refused("train", "--resume", "--init-from=x") == (
        "resume continues a run with its own weights, init_from starts a new one; leave one out, got"
        " init_from x"
    )
    assert refused("train", "--extend-vocabulary") == (
        "extend_vocabulary needs init_from; add init_from or leave it out"
    )


@pytest.mark.parametrize("name", ["init_from", "extend_vocabulary"])
def test_an_ablation_does_not_start_from_a_run(name, folder):
    with pytest.raises(ConfigError, match=f"^{name} must not be an option of the runs"):
        nanochat.ablate(nanochat.AblateConfig(seeds=1), {name: True})


def test_resume_names_init_from_where_it_helps(source, refused):
    source()
    words = ["train", "--resume", "--out=source"]
    assert refused(*words, "--steps=9") == (
        "--resume keeps the saved steps 6, got 9; to train longer, use --init-from source"
    )
    assert refused(*words, "--lr=0.5") == (
        "--resume keeps the saved lr 0.02, got 0.5; leave it out, or start a new run from these"
        " weights with --init-from source"
    )
    assert refused(*words, "--n-embd=8") == (
        "--resume keeps the saved n_embd 4, got 8; leave it out, or start a new run"
    )
    Path("names.txt").write_text(OTHER)
    assert refused(*words, code=1).endswith(
        "; restore the text or start a new run from these weights with --init-from source"
    )


def test_a_time_budget_times_the_kept_text_with_the_tokenizer_of_the_source(
    source, folder, monkeypatch
):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(OTHER.encode())))
    source(data="-", documents="line")
    fetching.forget()  # as in another process
    monkeypatch.setattr(sys, "stdin", None)
    seen = []

    def fit(config, started, **text):
        seen.append(fit_to_budget(config, started, **text))
        return seen[0]

    monkeypatch.setattr("nanochat.commands.time_budget.fit_to_budget", fit)
    options = {"init_from": "source", "time_budget": "60s", "num_samples": 0, "baseline": False}
    run = nanochat.train(options, on_evaluation=lambda _: False)
    kept = json.loads(Path(best_of("source"), "tokenizer.json").read_text())
    assert seen[0].dataset.tokenizer.to_dict() == kept
    assert seen[0].choice == ""
    assert Path(run.run, "sources").is_dir()
