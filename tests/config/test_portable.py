"""--portable: a model that every format of `nanochat export` can hold, from any preset and text."""

from __future__ import annotations

import pytest

from nanochat import TrainConfig
from nanochat.commands.preset_choice import with_chosen_preset
from nanochat.config.options import PRESETS, merged_config
from nanochat.config.options.trained import EXPORT_FORMATS
from nanochat.data.dataset import read_text
from nanochat.errors import UnsupportedOption
from nanochat.exporting.formats import format_of
from nanochat.exporting.network import check_expressible

NETWORKS = [name for name, preset in PRESETS.items() if preset["model_kind"] == "mini-gpt"]


def check_exportable(config):
    assert config.ngram_order == 0
    assert config.bpe_pattern == "gpt-2" or config.tokenizer != "bpe"
    for name in EXPORT_FORMATS:
        check_expressible(config, format_of(name).known, name, "")


@pytest.mark.parametrize("preset", NETWORKS)
def test_any_preset_can_be_exported_in_every_format(preset):
    check_exportable(TrainConfig(preset=preset, mode="tensor", portable=True))


@pytest.mark.parametrize(
    "text",
    [
        "anna\nbob\ncarl\ndora\n" * 40, "the king said that he would come\n" * 100,
        "".join(chr(0x4E00 + i % 900) for i in range(3000)),
        "All happy families are alike; each unhappy family is so in its own way.\n" * 9000,
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_what_a_text_chooses_can_be_exported(folder, text, mode):
    (folder / "my.txt").write_text(text, encoding="utf-8")
    config = TrainConfig(data="my.txt", mode=mode, portable=True)
    chosen, _ = with_chosen_preset(config, read_text(config, folder))
    check_exportable(chosen)
    assert chosen.portable
    assert merged_config(chosen.to_dict()) == chosen


@pytest.mark.parametrize(
    ("text", "given", "tokens"),
    [
        ("the king said that he would come\n" * 300, {}, ("char", None)),
        ("the king said that he would come\n" * 1000, {}, ("bpe", 384)),
        ("the king said that he would come\n" * 3000, {}, ("bpe", 1024)),
        ("the king said that he would come\n" * 1000, {"tokenizer": "char"}, ("char", None)),
        ("the king said that he would come\n" * 1000, {"vocab_size": 300}, ("bpe", 300)),
        ("".join(chr(0x4E00 + i * 7 % 900) for i in range(9000)), {}, ("char", None)),
    ],
)
def test_word_pieces_take_the_place_of_the_tables_of_nano(folder, text, given, tokens):
    (folder / "my.txt").write_text(text, encoding="utf-8")
    config = TrainConfig(data="my.txt", mode="tensor", portable=True, **given)
    chosen, _ = with_chosen_preset(config, read_text(config, folder))
    assert chosen.preset == "nano"
    found = chosen.tokenizer, chosen.vocab_size if chosen.tokenizer == "bpe" else None
    assert found == tokens


def test_nano_by_its_name_has_word_pieces_too():
    named = TrainConfig(preset="nano", mode="tensor", portable=True)
    assert (named.tokenizer, named.vocab_size) == ("bpe", 1024)
    assert TrainConfig(preset="nano", mode="tensor").tokenizer == "char"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("positions", "learned", "positions rope, got learned"),
        ("ngram_order", 4, "ngram_order 0, got 4"),
        ("ngram_order", "auto", "ngram_order 0, got auto"),
        ("output_rmsnorm", False, "output_rmsnorm true, got false"),
        ("model_kind", "bigram", "model_kind mini-gpt, got bigram"),
        ("model_kind", "ngram", "model_kind mini-gpt, got ngram"),
        ("preset", "bigram", "model_kind mini-gpt, got bigram"),
    ],
)
def test_an_option_against_it_is_refused_by_name(option, value, message):
    with pytest.raises(UnsupportedOption) as caught:
        TrainConfig(portable=True, **{option: value})
    assert str(caught.value) == f"portable needs {message}; leave one of them out"


def test_a_model_file_is_refused():
    with pytest.raises(UnsupportedOption) as caught:
        TrainConfig(portable=True, model_file="my.py")
    assert str(caught.value) == "portable needs the built-in model; leave model_file out"


def test_the_other_pattern_of_llama_cpp_may_be_given():
    options = {"mode": "tensor", "preset": "small", "portable": True}
    assert TrainConfig(**options, bpe_pattern="llama-bpe").bpe_pattern == "llama-bpe"
    with pytest.raises(
        UnsupportedOption, match=r"^portable needs bpe_pattern gpt-2, got nanochat;"
    ):
        TrainConfig(**options, bpe_pattern="nanochat")
