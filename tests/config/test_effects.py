"""Options that are given and change nothing: refused from every source, and left out of files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from nonempty import nonempty

import nanochat
from nanochat.config.options import (
    ChatConfig,
    EvalConfig,
    SampleConfig,
    TrainConfig,
    merged_config,
    options_of,
)
from nanochat.config.sources import read_config_file
from nanochat.config.unsupported import (
    DOWNLOADED,
    EFFECTS,
    EFFECTS_OF_CHAT,
    EFFECTS_OF_EVAL,
    EFFECTS_OF_SAMPLE,
    IN_THE_PACKAGE,
    OF_NETWORKS,
    without_effect,
)
from nanochat.data.registry import REGISTRY
from nanochat.errors import ConfigError, UnsupportedOption

NGRAM = {"model_kind": "ngram"}
NO_NGRAM = "model_kind mini-gpt or bigram, got model_kind ngram; leave it out or use model_kind"
DRAWS = "temperature above 0, got temperature 0.0; leave it out or use temperature above 0"
SAMPLES = "num_samples above 0, got num_samples 0; leave it out or use num_samples above 0"
RECORDS = "files of records as data"
DOWNLOADS = "names-makemore or shakespeare as data"

# (option, value, the options with which it has no effect, the message after "needs"); a row of the
# table has an example for each of its options.
OF_TRAIN = [
    ("compile", "off", NGRAM, f"{NO_NGRAM} mini-gpt or bigram"),
    ("deterministic", True, NGRAM, f"{NO_NGRAM} mini-gpt or bigram"),
    *((name, value, {"mode": "scalar"},
       "mode tensor, got mode scalar; leave it out or use mode tensor")
      for name, value in (("deterministic", True), ("compile", "off"), ("loss", "fused"))),
    ("numerics", "fast", {"mode": "tensor"},
     "mode scalar, got mode tensor; leave it out or use mode scalar"),
    *(("vocab_size", 1024, {"tokenizer": kind},
       f"tokenizer bpe, got tokenizer {kind}; leave it out or use tokenizer bpe")
      for kind in ("char", "byte")),
    ("bpe_pattern", "gpt-2", {"tokenizer": "char"},
     "tokenizer bpe, got tokenizer char; leave it out or use tokenizer bpe"),
    ("text_column", "body", {"data": "names"},
     f"{RECORDS}, got data names; leave it out or use {RECORDS}"),
    ("text_column", "body", {"data": ["registry:shakespeare", "names"]},
     f"{RECORDS}, got data registry:shakespeare names; leave it out or use {RECORDS}"),
    ("data_dir", "there", {"data": "my.txt"},
     f"{DOWNLOADS}, got data my.txt; leave it out or use {DOWNLOADS}"),
    ("hash_embed_longest", 3, {"mode": "tensor", "preset": "mini"},
     "hash_embed_rows above 0, got hash_embed_rows 0; leave it out or use hash_embed_rows above 0"),
    ("ngram_share", "1,0.5", {"ngram_order": 0},
     "an ngram_order other than 0, got ngram_order 0; leave it out or use an ngram_order other"
     " than 0"),
    ("head_lr", 0.1, {"tie_lm_head": True},
     "tie_lm_head false, got tie_lm_head true; leave it out or use tie_lm_head false"),
    *(("muon_momentum", 0.95, {"optimizer": kind},
       f"optimizer muon, got optimizer {kind}; leave it out or use optimizer muon")
      for kind in ("sgd", "adamw")),
    *((name, 0.5, {"optimizer": "sgd"},
       "optimizer adamw or muon, got optimizer sgd; leave it out or use optimizer adamw or muon")
      for name in ("beta2", "eps")),
    *((name, 0.1, {"lr_schedule": "constant"},
       "lr_schedule linear, sqrt or cosine, got lr_schedule constant; leave it out or use"
       " lr_schedule linear, sqrt or cosine")
      for name in ("warmdown_ratio", "final_lr_frac")),
    *((name, value, {"warmdown_ratio": 0.0},
       "warmdown_ratio above 0, got warmdown_ratio 0.0; leave it out or use warmdown_ratio above 0")
      for name, value in (("lr_schedule", "cosine"), ("final_lr_frac", 0.1))),
    *((name, value, {"val_fraction": 0.0},
       "val_fraction above 0, got val_fraction 0.0; leave it out or use val_fraction above 0")
      for name, value in (("eval_tokens", 100), ("baseline", True))),
    *((name, value, {"num_samples": 0}, SAMPLES)
      for name, value in (("max_new_tokens", 9), ("temperature", 0.5), ("top_k", 3),
                          ("top_p", 0.5), ("stop", "x"))),
    ("top_k", 3, {"temperature": 0.0}, DRAWS),
    ("top_p", 0.5, {"temperature": 0.0}, DRAWS),
]  # fmt: skip
COUNTS = "from_counts false, got from_counts true; leave it out or use from_counts false"
OF_SAMPLE = [
    ("top_k", 3, {"temperature": 0.0}, DRAWS),
    ("top_p", 0.5, {"temperature": 0.0}, DRAWS),
    *((name, value, {"from_counts": True}, COUNTS)
      for name, value in (("mode", "scalar"), ("device", "cpu"), ("dtype", "float32"),
                          ("threads", 2), ("style_weight", 2.0), ("model_file", "my_model.py"))),
    ("data_dir", "there", {},
     "report_copies above 0 or from_counts, got report_copies 0; leave it out or use report_copies"
     " above 0 or from_counts"),
]  # fmt: skip
OF_CHAT = [
    ("top_k", 3, {"temperature": 0.0}, DRAWS),
    ("top_p", 0.5, {"temperature": 0.0}, DRAWS),
]
NO_DATA = "data, got data None; leave it out or name the text with data"
OF_EVAL = [
    ("documents", "line", {}, NO_DATA),
    ("separator", "%", {}, NO_DATA),
    ("text_column", "body", {}, NO_DATA),
    ("text_column", "body", {"data": "names"},
     f"{RECORDS}, got data names; leave it out or use {RECORDS}"),
    ("data_dir", "there", {"data": "my.txt"},
     f"{DOWNLOADS}, got data my.txt; leave it out or use {DOWNLOADS}"),
    ("batch_size", 4, {"adapt": True},
     "adapt false, got adapt true; leave it out or use adapt false"),
]  # fmt: skip
CASES = [
    *(("train", TrainConfig, case) for case in OF_TRAIN),
    *(("sample", SampleConfig, case) for case in OF_SAMPLE),
    *(("chat", ChatConfig, case) for case in OF_CHAT),
    *(("eval", EvalConfig, case) for case in OF_EVAL),
]


def test_each_option_of_each_row_of_the_tables_has_an_example():
    for table, cases in (
        (EFFECTS, OF_TRAIN), (EFFECTS_OF_SAMPLE, OF_SAMPLE), (EFFECTS_OF_CHAT, OF_CHAT),
        (EFFECTS_OF_EVAL, OF_EVAL),
    ):  # fmt: skip
        rows = [(row.options, row.needs) for row in table if row.options is not OF_NETWORKS]
        expected = {(name, needs) for options, needs in rows for name in options}
        assert {(name, message.partition(", got")[0]) for name, _, _, message in cases} == expected


def test_a_path_hides_the_registry_name_as_it_does_for_the_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names").mkdir()
    assert TrainConfig(data="names", text_column="body").text_column == "body"
    with pytest.raises(UnsupportedOption, match="text_column needs files of records as data"):
        TrainConfig(data="registry:names", text_column="body")
    (tmp_path / "shakespeare").write_text("Enter a ghost.")
    with pytest.raises(UnsupportedOption, match="data_dir needs names-makemore or shakespeare as"):
        TrainConfig(data="shakespeare", data_dir="there")
    assert TrainConfig(data="registry:shakespeare", data_dir="there").data_dir == "there"


def words(options):
    """Options as command-line words, several sources each with its flag."""
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            yield flag if value else f"--no-{flag[2:]}"
        else:
            yield from (f"{flag}={each}" for each in (value if type(value) is list else [value]))


@pytest.mark.parametrize(
    ("command", "config", "case"), CASES, ids=[f"{c}-{case[0]}" for c, _, case in CASES]
)
def test_an_option_without_an_effect_is_refused_from_every_source(
    command, config, case, refused, folder, monkeypatch
):
    name, value, others, needs = case
    message = f"{name} needs {needs}"
    with pytest.raises(UnsupportedOption) as caught:
        config(**{**others, name: value})
    assert str(caught.value) == message
    config(**others)
    assert refused(command, *words({**others, name: value})) == message
    (folder / "run.toml").write_text(f"{name} = {json.dumps(value)}\n")
    from_file = message
    if name == "model_file":  # code is never taken from a file alone
        from_file = (
            "model_file my_model.py of config file run.toml is code; if you trust it, add"
            " --model-file my_model.py"
        )
    assert refused(command, *words(others), "--config=run.toml") == from_file
    monkeypatch.setenv(f"NCLAB_{name.upper()}", options_of(config)[name].text(value))
    assert refused(command, *words(others)) == message


def test_an_option_of_networks_is_refused_for_counts_even_at_its_default():
    counts = TrainConfig(model_kind="ngram")
    defaults = {name: getattr(counts, name) for name in OF_NETWORKS}
    # auto asks for nothing
    asking = {name: default for name, default in defaults.items() if default not in (-1, "auto")}
    for name, default in nonempty(asking.items()):
        with pytest.raises(UnsupportedOption, match=f"^model_kind ngram does not support {name} "):
            TrainConfig(model_kind="ngram", **{name: default})


def test_the_corpora_that_a_data_dir_can_hold_are_those_of_the_registry():
    downloaded = tuple(name for name, entry in REGISTRY.items() if entry.resource is None)
    assert downloaded == DOWNLOADED
    assert (*IN_THE_PACKAGE, *DOWNLOADED) == tuple(REGISTRY)


def test_an_engine_that_mode_auto_chooses_refuses_nothing():
    """The text may choose the other engine, for which the option was given."""
    config = TrainConfig(deterministic=True, compile="off", loss="fused", numerics="fast")
    assert config.mode == "scalar"
    assert config.deterministic
    other = merged_config(
        {name: getattr(config, name) for name in config.given} | {"mode": "scalar"}
    )
    assert (other.mode, other.deterministic, other.compile) == ("scalar", False, "auto")


def test_a_copy_of_a_config_refuses_only_what_was_changed():
    config = TrainConfig(mode="tensor", optimizer="muon", muon_momentum=0.5)
    assert dataclasses.replace(config) == config
    assert dataclasses.replace(config, steps=3).steps == 3
    with pytest.raises(UnsupportedOption, match=r"^muon_momentum needs optimizer muon, got "):
        dataclasses.replace(config, optimizer="adamw")
    assert config.changed(optimizer="adamw").muon_momentum == TrainConfig().muon_momentum
    with pytest.raises(UnsupportedOption, match=r"^vocab_size needs tokenizer bpe, got "):
        dataclasses.replace(config, vocab_size=300)


def test_an_option_of_one_preset_waits_for_the_text_that_chooses_it():
    config = TrainConfig(data="my.txt", vocab_size=2048)
    with pytest.raises(UnsupportedOption, match=r"^vocab_size needs tokenizer bpe, got "):
        config.check_complete()
    assert TrainConfig(data="my.txt", vocab_size=2048, preset="small").vocab_size == 2048


def test_a_saved_config_trains_again_and_lacks_what_has_no_effect(cli, tiny, flags, folder):
    assert cli("train", *flags(**tiny(out="run", num_samples=0))).code == 0
    saved = read_config_file("run/config.toml", options_of(TrainConfig))
    config = TrainConfig(**saved)
    assert not saved.keys() & without_effect(config)
    assert {"vocab_size", "temperature", "deterministic", "hash_embed_longest"} <= without_effect(
        config
    )
    assert cli("train", "--config=run/config.toml", "--out=again").code == 0
    texts = [Path(name, "config.toml").read_text() for name in ("run", "again")]
    assert texts[0] == texts[1]
    assert cli("train", "--resume", "--out=run", "--num-samples=1", "--max-new-tokens=3").code == 0


def test_the_config_of_counts_alone_trains_again(cli, folder):
    given = ("--model-kind=ngram", "--documents=line", "--num-samples=0")
    assert cli("train", "names.txt", *given, "--out=run").code == 0
    assert cli("train", "--config=run/config.toml", "--out=again").code == 0
    results = [json.loads(Path(name, "result.json").read_text()) for name in ("run", "again")]
    assert results[0]["val_loss"] == results[1]["val_loss"]


def test_a_resume_refuses_what_has_no_effect_now_and_drops_what_was_saved(tiny, refused, folder):
    nanochat.train(TrainConfig(**tiny(out="run", temperature=0.5)))
    again = nanochat.train(TrainConfig(resume=True, out="run", num_samples=0))
    assert again.samples == []
    assert refused("train", "--resume", "--out=run", "--num-samples=0", "--top-k=3") == (
        "top_k needs num_samples above 0, got num_samples 0; leave it out or use num_samples above"
        " 0"
    )
    assert refused("train", "--resume", "--out=run", "--extend-vocabulary") == (
        "extend_vocabulary needs init_from, got resume, which keeps the vocabulary of its run;"
        " leave it out"
    )


def test_each_variant_of_an_ablation_is_checked_before_any_run(refused, folder, tiny, flags):
    options = flags(**{n: v for n, v in tiny(num_samples=0).items() if n != "num_samples"})
    assert refused("ablate", *options, "--vary=vocab_size=300,400", "--out=grid") == (
        "vocab_size needs tokenizer bpe, got tokenizer char; leave it out or use tokenizer bpe"
    )
    assert refused("ablate", *options, "--vary=beta2=0.9", "--vary=optimizer=adamw,sgd") == (
        "beta2 needs optimizer adamw or muon, got optimizer sgd; leave it out or use optimizer"
        " adamw or muon"
    )
    assert refused("ablate", *options, "--vary=tie_lm_head=true", "--top-k=3") == (
        f"top_k needs {SAMPLES}"
    )
    assert [path.name for path in folder.iterdir()] == ["names.txt"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sample", "--report-copies=9", "--data-dir=there"),
         "data_dir needs names-makemore or shakespeare as data, got a run with data names.txt;"
         " leave it out"),
        (("sample", "--from-counts", "--data-dir=there"),
         "data_dir needs names-makemore or shakespeare as data, got a run with data names.txt;"
         " leave it out"),
        (("eval", "--data-dir=there"),
         "data_dir needs names-makemore or shakespeare as data, got a run with data names.txt;"
         " leave it out"),
        (("sample", "--style-weight=2"),
         "style_weight needs a model trained with style futuristic, got style classic; leave it"
         " out"),
    ],
)  # fmt: skip
def test_what_only_the_run_can_tell_is_refused_once_it_is_read(
    words, message, tiny, refused, folder
):
    nanochat.train(TrainConfig(**tiny(out="run", num_samples=0)))
    command, *options = words
    assert refused(command, "run", *options) == message


def test_the_arguments_of_python_functions_are_given_only_if_they_are_not_the_defaults(
    tiny, folder
):
    nanochat.train(TrainConfig(**tiny(out="run", num_samples=0)))
    model = nanochat.load("run")
    assert model.generate("an", temperature=0, max_new_tokens=3).startswith("an")
    with pytest.raises(ConfigError, match=r"^top_k needs temperature above 0, got temperature 0"):
        model.generate("an", temperature=0, top_k=3)
