"""Where option values come from: defaults, preset, file, environment, flags; and mistakes in them."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.config.options import (
    PRESETS,
    AblateConfig,
    EvalConfig,
    ExportConfig,
    InspectConfig,
    SampleConfig,
    ServeConfig,
    TrainConfig,
    options_of,
)
from nanochat.config.sources import gather_options, read_config_file
from nanochat.errors import ConfigError

KNOWN = options_of(TrainConfig)
CONFIGS = (
    TrainConfig,
    SampleConfig,
    EvalConfig,
    InspectConfig,
    ExportConfig,
    ServeConfig,
    AblateConfig,
)


@pytest.fixture
def toml(folder):
    def write(text, name="run.toml"):
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return name

    return write


def gather(flags=None, environment=None, file=None):
    return gather_options(KNOWN, flags or {}, environment or {}, file)


# ---------------------------------------------------------------------------------- precedence

LAYERS = st.fixed_dictionaries(
    {},
    optional={
        "flag": st.integers(1, 9), "variable": st.integers(11, 19), "file": st.integers(21, 29),
    },
)  # fmt: skip


@given(LAYERS, st.sampled_from(sorted(PRESETS.keys() - {"ngram"})))  # which has no batches
@settings(deadline=None)
def test_flags_override_variables_then_the_file_then_the_preset_then_defaults(
    tmp_path_factory, layers, preset
):
    file = tmp_path_factory.mktemp("config") / "run.toml"
    lines = [f'preset = "{preset}"']
    if "file" in layers:
        lines.append(f"batch_size = {layers['file']}")
    file.write_text("\n".join(lines))
    options = gather(
        {"batch_size": str(layers["flag"]) if "flag" in layers else None},
        {"NCLAB_BATCH_SIZE": str(layers["variable"])} if "variable" in layers else {},
        str(file),
    )
    given_value = layers.get("flag", layers.get("variable", layers.get("file")))
    default = PRESETS[preset].get("batch_size", KNOWN["batch_size"].default)
    config = TrainConfig(**options)
    assert config.batch_size == (given_value if given_value is not None else default)
    assert config.preset == preset


def test_on_the_command_line_flags_override_variables_and_variables_the_file(
    folder, toml, cli, flags, tiny, monkeypatch
):
    toml("steps = 1\nlr = 0.1\nseed = 1\n")
    monkeypatch.setenv("NCLAB_STEPS", "2")
    monkeypatch.setenv("NCLAB_LR", "0.2")
    options = tiny()
    for name in ("steps", "lr"):
        del options[name]
    words = flags(**options, steps=3, out="run", config="run.toml")
    assert cli("train", *words).code == 0
    saved = read_config_file("run/config.toml", KNOWN)
    assert (saved["steps"], saved["lr"], saved["seed"]) == (3, 0.2, 1)


# ------------------------------------------------------------------------------- text to values


def text_of(option):
    """(text, value) pairs that an option takes."""
    if option.choices:
        return st.sampled_from(option.choices).map(lambda c: (c, c))
    if option.kind is bool:
        return st.sampled_from(
            [("true", True), ("false", False), ("1", True), ("0", False), ("True", True)]
        )
    if option.kind is int:
        return st.integers(int(option.low), int(option.high)).map(lambda v: (str(v), v))
    if option.kind is float:
        values = st.floats(option.low, option.high, exclude_min=option.low_open)
        return values.map(lambda v: (repr(v), v))
    if option.kind is tuple:  # data: one text, which is not empty, is one source
        return st.text("abc/.é ", min_size=1).map(lambda t: (t, (t,)))
    return st.text("abc/.é ", min_size=int(option.path)).map(lambda t: (t, t))


@pytest.mark.parametrize("name", KNOWN)
@given(data=st.data())
@settings(deadline=None, max_examples=20)
def test_a_variable_and_a_flag_of_the_same_text_mean_the_same_value(name, data):
    text, value = data.draw(text_of(KNOWN[name]))
    from_flag = gather(flags={name: text})
    from_variable = gather(environment={f"NCLAB_{name.upper()}": text})
    assert from_flag == from_variable == {name: value}
    assert type(from_flag[name]) is type(value)


def test_lists_of_texts_are_split_at_spaces():
    known = options_of(AblateConfig)
    assert known["vary"].parse("vary", "n_layer=1,2 tie_lm_head=true") == (
        "n_layer=1,2",
        "tie_lm_head=true",
    )
    environment = {"NCLAB_VARY": "n_layer=1,2"}
    assert gather_options(known, {}, environment, None) == {"vary": ("n_layer=1,2",)}


# -------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("config", CONFIGS)
def test_a_variable_of_another_command_is_left_to_it(config):
    environment = {
        f"NCLAB_{name.upper()}": "auto" for c in CONFIGS for name in options_of(c)
        if name not in options_of(config)
    }  # fmt: skip
    assert gather_options(options_of(config), {}, environment, None) == {}


def test_a_misspelt_variable_is_an_error_with_a_suggestion():
    with pytest.raises(ConfigError) as caught:
        gather(environment={"NCLAB_STESP": "3"})
    assert str(caught.value) == (
        "environment variable NCLAB_STESP does not name an option (did you mean 'NCLAB_STEPS'?)"
    )


@pytest.mark.parametrize("command", ["train", "sample", "eval", "ablate", "info"])
def test_every_command_refuses_a_misspelt_variable(command, refused, monkeypatch, folder):
    monkeypatch.setenv("NCLAB_STESP", "3")
    assert refused(command) == (
        "environment variable NCLAB_STESP does not name an option (did you mean 'NCLAB_STEPS'?)"
    )


@pytest.mark.parametrize(
    "name",
    ["CUDA", "PYTHON", "CPP_TESTS", "FUZZ", "SANITIZE", "WERROR", "KERNELS", "SIMD", "VERIFY"],
)
def test_variables_of_the_build_are_ignored(name):
    assert gather(environment={f"NCLAB_{name}": "ON"}) == {}


def test_variables_of_others_are_ignored():
    assert gather(environment={"NANOCHAT_STEPS": "3", "STEPS": "4", "nclab_steps": "5"}) == {}


def test_a_wrong_value_names_its_variable(refused, monkeypatch, folder):
    monkeypatch.setenv("NCLAB_STEPS", "many")
    assert refused("train") == (
        "steps must be a whole number between 0 and 1000000000, got many, in environment variable"
        " NCLAB_STEPS"
    )


def test_a_misspelt_flag_is_an_error_with_a_suggestion(refused, folder):
    assert refused("train", "--stpes=3") == (
        "unknown option --stpes of nanochat train (did you mean '--steps'?)"
    )


def test_a_misspelt_key_is_an_error_with_a_suggestion(toml, refused):
    toml("stpes = 3\n")
    message = "config file run.toml: stpes is not an option (did you mean 'steps'?)"
    with pytest.raises(ConfigError) as caught:
        read_config_file("run.toml", KNOWN)
    assert str(caught.value) == message
    assert refused("train", "--config=run.toml") == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('steps = "x"', "steps must be a whole number between 0 and 1000000000, got x"),
        ("steps = 3.0", "steps must be a whole number between 0 and 1000000000, got 3.0"),
        ("lr = nan", "lr must be finite and > 0, got nan"),
        ("lr = true", "lr must be finite and > 0, got true"),
        ("tie_lm_head = 1", "tie_lm_head must be true or false, got 1"),
        ("data = 1979-05-27",
         "data must be text or a list of texts, none of them empty, got 1979-05-27"),
        ("data = []", "data must be text or a list of texts, none of them empty, got []"),
        ('data = ""', "data must be text or a list of texts, none of them empty, got ''"),
        ('mode = "scaler"', "mode must be one of auto, scalar, tensor, got scaler (did you mean"
         " 'scalar'?)"),
    ],
)  # fmt: skip
def test_a_wrong_type_in_the_file_names_rule_value_and_file(toml, refused, text, message):
    toml(text)
    assert refused("train", "--config=run.toml") == f"{message}, in config file run.toml"


def test_a_table_in_the_file_is_not_an_option(toml, refused):
    toml("[model]\nn_layer = 1")
    assert refused("train", "--config=run.toml") == (
        "config file run.toml: options must be outside of tables, got the table model; write its"
        " options at the top of the file, without a table"
    )


def test_numbers_may_be_text_in_the_file(toml):
    toml('steps = "3"\nlr = "0.5"\ntie_lm_head = "true"\n')
    assert read_config_file("run.toml", KNOWN) == {"steps": 3, "lr": 0.5, "tie_lm_head": True}


@pytest.mark.parametrize(
    "text", ["steps = ", "steps 3", "steps = 3\nsteps = 4", "a = " + "[" * 100_000]
)
def test_a_file_that_is_not_toml_is_one_clear_line(toml, refused, text):
    toml(text)
    message = refused("train", "--config=run.toml")
    assert message.startswith(
        "config file run.toml must be TOML, a line such as steps = 100 per option, got an error: "
    )
    assert message.endswith("; correct the file")


def test_a_binary_file_is_not_a_config(toml, refused):
    toml(b"steps = 3 # \xff\xfe")
    assert refused("train", "--config=run.toml") == (
        "config file run.toml must be UTF-8, got byte 0xff at byte 12; save it as UTF-8"
    )


def test_a_byte_order_mark_is_no_part_of_the_file(toml):
    assert read_config_file(toml(b"\xef\xbb\xbfsteps = 3\n"), KNOWN) == {"steps": 3}


def test_a_pipe_and_a_device_are_not_configs_and_are_not_waited_for(folder, refused):
    os.mkfifo("pipe")
    for name in ("pipe", "/dev/zero", "/dev/null"):
        assert refused("train", f"--config={name}") == (
            f"config must be a file, got {name}, which is a pipe, a socket or a device; copy its"
            " contents to a file"
        )


def test_a_file_too_large_for_options_is_not_read_whole(folder, refused):
    with open("large.toml", "wb") as file:
        file.truncate(1 << 40)  # sparse
    assert refused("train", "--config=large.toml") == (
        "config file large.toml must have at most 1,048,576 bytes, got more; name a file of options"
    )


def test_names_of_any_length_are_shortened_in_messages(folder, cli, monkeypatch, tiny, flags):
    def message_of(*words):
        result = cli(*words)
        (line,) = result.err.splitlines()
        assert (result.code, result.out, line[:7]) in ((1, "", "error: "), (2, "", "error: "))
        return line

    long = "x" * 10_000
    for words, rest in (
        (("train", f"--config={long}"), "File name too long"),
        (("train", *flags(**tiny(out=long))), "File name too long"),
        (("ablate", f"--vary={long}=1"), "vary must name a training option"),
        (("ablate", f"--vary=n_layer{long}"), "vary must name a training option"),
        (("ablate", f"--vary=seed={long}"), "vary must name a training option"),
        (("ablate", f"--out={long}", *flags(**tiny())), "File name too long"),
        (("train", "--resume", f"--out={long}"), "no run to resume"),
        (("train", f"--init-from={long}"), "no run xxx"),
    ):
        message = message_of(*words)
        assert rest in message
        assert len(message) < 600
    for variable, rest in ((f"NCLAB_{long}", "does not name an option"), ("RANK", "whole number")):
        with monkeypatch.context() as patch:
            patch.setenv(variable, long)
            message = message_of("train", *flags(**tiny(out="run")))
        assert rest in message
        assert len(message) < 600


def test_a_missing_file_and_a_folder_are_not_configs(folder, refused):
    assert refused("train", "--config=no.toml") == (
        "config must be a TOML file that can be read, got no.toml: No such file or directory; name"
        " another file, or leave config out"
    )
    assert refused("eval", "--config=.") == (
        "config must be a TOML file that can be read, got .: Is a directory; name another file, or"
        " leave config out"
    )


def test_a_name_that_resembles_no_option_has_a_way_out(toml, refused, monkeypatch):
    toml("zzzz = 3")
    assert refused("train", "--config=run.toml") == (
        "config file run.toml: zzzz is not an option; remove it"
    )
    monkeypatch.setenv("NCLAB_XYZXYZXYZXYZXYZXYZXYZXYZ", "3")
    assert refused("train") == (
        "environment variable NCLAB_XYZXYZXYZXYZXYZXYZXYZXYZ does not name an option; unset it"
    )


def test_whole_numbers_are_numbers_in_the_file(toml):
    toml("lr = 1\nsteps = 3\nval_fraction = 0\n")
    config = TrainConfig(**read_config_file("run.toml", KNOWN))
    assert (config.lr, config.steps, config.val_fraction) == (1.0, 3, 0.0)


def test_vary_is_a_list_in_the_file(toml):
    toml('vary = ["n_layer=1,2"]\nseeds = 2\n')
    known = options_of(AblateConfig)
    assert AblateConfig(**read_config_file("run.toml", known)).vary == ("n_layer=1,2",)
