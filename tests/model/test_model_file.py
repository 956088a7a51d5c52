"""Model files: reading them, refusing them before they run, and telling their faults."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import sys
import textwrap
import threading
import time

import pytest

from nanochat.config.options import TrainConfig
from nanochat.errors import ConfigError, ModelFileError
from nanochat.model.model_file import ModelFile, changes_of, load_model_file
from nanochat.model.parameters import initial_weights, parameter_specs, table_entries
from nanochat.runs import schema
from nanochat.system import torch_import

PLAIN = "from nanochat.scalar.minigpt import MiniGPT as ScalarModel\n"


def config(**options) -> TrainConfig:
    return TrainConfig(**{"mode": "scalar", "preset": "microgpt", "model_file": "my.py", **options})


@pytest.fixture
def loaded(folder):
    """Write `my.py` and load it."""

    def load(text: str) -> ModelFile:
        (folder / "my.py").write_text(textwrap.dedent(text), encoding="utf-8")
        return load_model_file("my.py")

    return load


def refusal(action, kind=ConfigError) -> str:
    with pytest.raises(kind) as caught:
        action()
    assert type(caught.value) is kind
    return str(caught.value)


# ---------------------------------------------------------------------------------------- reading


def test_a_file_keeps_its_path_text_and_hash(loaded, folder):
    own = loaded(PLAIN)
    assert (own.path, own.source) == ("my.py", PLAIN.encode())
    assert own.sha256 == hashlib.sha256(PLAIN.encode()).hexdigest()
    assert (own.defines("scalar"), own.defines("tensor")) == (True, False)


def test_the_same_text_is_one_module_and_another_text_another(loaded):
    first, again, other = loaded(PLAIN), loaded(PLAIN), loaded(f"{PLAIN}x = 1\n")
    assert first.module is again.module
    assert first.module is not other.module
    assert not hasattr(first.module, "x")


def test_dataclasses_and_pickle_find_the_classes_of_a_file(loaded):
    own = loaded(
        f"""
        from __future__ import annotations
        from dataclasses import dataclass, KW_ONLY
        {PLAIN}
        @dataclass
        class Sizes:
            _: KW_ONLY
            inner: int = 3
        """
    )
    sizes = own.module.Sizes(inner=4)
    assert pickle.loads(pickle.dumps(sizes)) == sizes


def test_a_file_runs_after_torch_was_imported_on_another_thread(loaded, monkeypatch):
    """Otherwise each thread may wait for a part of torch that the other one imports."""
    finished = []

    def import_slowly() -> None:
        time.sleep(0.2)
        finished.append(True)

    monkeypatch.setattr("builtins.finished", finished, raising=False)
    threading.Thread(target=import_slowly, name=torch_import.THREAD).start()
    own = loaded(f"{PLAIN}import builtins\nseen = list(builtins.finished)\n")
    assert own.module.seen == [True]


def test_a_byte_order_mark_is_no_part_of_the_text(folder):
    (folder / "my.py").write_bytes(b"\xef\xbb\xbf" + PLAIN.encode())
    assert load_model_file("my.py").defines("scalar")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None,
         "model_file must be a Python file that can be read, got my.py: No such file or directory;"
         " name another file, or leave model_file out"),
        (lambda path: path.mkdir(),
         "model_file must be a Python file that can be read, got my.py: Is a directory; name another"
         " file, or leave model_file out"),
        (lambda path: os.mkfifo(path),
         "model_file must be a file, got my.py, which is a pipe, a socket or a device; copy its"
         " contents to a file"),
        (lambda path: path.write_bytes(b"\x7fELF\0\0"),
         "model_file must be Python text in UTF-8, got my.py, which is not text; name another file,"
         " or leave model_file out"),
        (lambda path: path.write_bytes(b"x = '\xff'\n"),
         "model_file must be Python text in UTF-8, got my.py, which is not text; name another file,"
         " or leave model_file out"),
        (lambda path: (path.touch(), os.truncate(path, 1 << 30)),
         "model_file my.py must have at most 1,048,576 bytes, got more; name a file that defines a"
         " model"),
        (lambda path: path.write_text("x = 1\n"),
         "model_file my.py must define ScalarModel or TensorModel, got neither; see"
         " docs/change-the-model.md"),
    ],
    ids=["absent", "folder", "pipe", "binary", "not UTF-8", "gigabyte", "no model"],
)  # fmt: skip
def test_a_file_without_a_model_is_refused(folder, make, message):
    make(folder / "my.py")
    assert refusal(lambda: load_model_file("my.py")) == message


def test_a_file_with_another_hash_is_refused_before_it_runs(folder):
    (folder / "my.py").write_text(f"import pathlib\npathlib.Path('ran').touch()\n{PLAIN}")
    found = hashlib.sha256((folder / "my.py").read_bytes()).hexdigest()
    expected = "0123456789ab" + 52 * "0"
    assert refusal(lambda: load_model_file("my.py", expected, "run x")) == (
        "model_file my.py must be the file that run x was trained with (SHA-256 0123456789ab…), got"
        f" {found[:12]}…; name that file, or train a new run with this one"
    )
    assert not (folder / "ran").exists()
    load_model_file("my.py", found, "run x")
    assert (folder / "ran").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class ScalarModel:\n    pass\n",
         "ScalarModel of model_file my.py must be a subclass of nanochat.scalar.minigpt.MiniGPT, got"
         " ScalarModel"),
        ("ScalarModel = 3\n",
         "ScalarModel of model_file my.py must be a subclass of nanochat.scalar.minigpt.MiniGPT, got"
         " 3"),
        ("from nanochat.scalar.minigpt import MiniGPT\n"
         "class ScalarModel(MiniGPT):\n    block = int\n",
         "block of ScalarModel of model_file my.py must be a subclass of"
         " nanochat.scalar.minigpt.Block, got int"),
        ("TensorModel = 3\n",
         "model_file my.py must define ScalarModel for mode scalar, got only TensorModel; define it,"
         " or use mode tensor"),
    ],
)  # fmt: skip
def test_a_model_of_the_wrong_kind_is_refused(loaded, text, message):
    from nanochat.scalar.minigpt import Block, MiniGPT

    own = loaded(text)
    assert refusal(lambda: own.model_class("scalar", MiniGPT, Block)) == message


# ------------------------------------------------------------------------------------- parameters


def with_parameters(loaded, result: str) -> ModelFile:
    return loaded(f"{PLAIN}def parameters(config):\n    return {result}\n")


def test_parameters_add_replace_and_drop_matrices(loaded):
    own = with_parameters(
        loaded,
        "{'layer0.gate': (3, config.n_embd), 'layer1.mlp_fc1': [7, 16],"
        " 'layer1.attn_wo': None, 'scale': (1, 2)}",
    )
    two = config(n_layer=2)
    plain = parameter_specs(two.changed(model_file=None), 27)
    specs = parameter_specs(two, 27, own.parameters(two))
    expected = {spec.name: spec.shape for spec in plain} | {
        "layer0.gate": (3, 16), "layer1.mlp_fc1": (7, 16), "scale": (1, 2),
    }  # fmt: skip
    del expected["layer1.attn_wo"]
    assert {spec.name: spec.shape for spec in specs} == expected
    names = [spec.name for spec in specs]
    assert names[names.index("lm_head") + 1 :][:2] == ["scale", "layer0.attn_wq"]
    assert names[names.index("layer1.attn_wq") - 1] == "layer0.gate"
    groups = [spec.group for spec in specs]  # each group in one piece: the optimizers need it
    assert groups == sorted(groups, key=["embedding", "head", "matrix"].index)
    assert table_entries(two, 27, own.parameters(two)) == table_entries(
        two.changed(model_file=None), 27
    )


ORDERED = {"a": (1, 2), "layer0.b": (3, 4), "layer0.mlp_fc1": (5, 6), "layer0.z": (7, 8)}


def test_the_order_of_matrices_is_that_of_their_names_whatever_the_order_of_the_dict(loaded):
    """The order of a set, for example, depends on the process."""
    own = with_parameters(loaded, str(dict(reversed(ORDERED.items()))))
    assert list(own.parameters(config()).items()) == list(ORDERED.items())
    assert list(own.record(config())["parameters"]) == list(ORDERED)
    expected = [
        "wte", "wpe", "lm_head", "a", *(f"layer0.attn_{part}" for part in ("wq", "wk", "wv", "wo")),
        "layer0.mlp_fc1", "layer0.mlp_fc2", "layer0.b", "layer0.z",
    ]  # fmt: skip
    for changes in (ORDERED, dict(reversed(ORDERED.items()))):  # also of a record of a run
        assert [spec.name for spec in parameter_specs(config(), 27, changes)] == expected


def test_parameters_is_called_once_per_config(loaded):
    own = loaded(
        f"""
        {PLAIN}
        called = []

        def parameters(config):
            called.append(config.n_embd)
            return {{'gate': (len(called), 1)}}
        """
    )
    sizes = [own.parameters(config(n_embd=size))["gate"][0] for size in (8, 16, 8, 16)]
    assert (sizes, own.module.called) == ([1, 2, 1, 2], [8, 16])
    assert own.record(config(n_embd=8))["parameters"] == {"gate": (1, 1)}


def test_a_new_matrix_leaves_the_draws_of_the_others_alone(loaded):
    own = with_parameters(loaded, "{'layer0.gate': (64, config.n_embd)}")
    one = config(init_std=0.25)
    before = initial_weights(one.changed(model_file=None), 27)
    after = initial_weights(one, 27, changes_of(own, one))
    gate = after.pop("layer0.gate")
    assert {name: array.tobytes() for name, array in after.items()} == {
        name: array.tobytes() for name, array in before.items()
    }
    assert gate.shape == (64, 16)
    assert gate.std() == pytest.approx(0.25, rel=0.1)


def test_zero_init_also_holds_for_a_replaced_end_of_a_branch(loaded):
    own = with_parameters(loaded, "{'layer0.mlp_fc2': (16, 8), 'layer0.gate': (2, 2)}")
    zero = config(zero_init=True)
    weights = initial_weights(zero, 27, changes_of(own, zero))
    assert not weights["layer0.mlp_fc2"].any()
    assert weights["layer0.gate"].all()


IN = "parameters of model_file my.py"
NAMES = f"{IN} must name matrices as layer0.mlp_gate or gate, got"
SIZES = "as (rows, columns), each a whole number between 1 and 16777216, got"


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("None", f"{IN} must return a dict of at most 4,096 names with their shapes, got None"),
        ("[('gate', (1, 2))]",
         f"{IN} must return a dict of at most 4,096 names with their shapes, got [('gate', (1, 2))]"),
        ("{f'x{i}': (1, 1) for i in range(5000)}",
         f"{IN} must return a dict of at most 4,096 names with their shapes, got 5,000"),
        ("{3: (1, 1)}", f"{NAMES} 3"),
        ("{'a b': (1, 1)}", f"{NAMES} a b"),
        ("{'layer0.a.b': (1, 1)}", f"{NAMES} layer0.a.b"),
        ("{'../x': (1, 1)}", f"{NAMES} ../x"),
        ("{'x' * 60: (1, 1)}", f"{NAMES} {'x' * 60}"),
        *((f"{{{name!r}: (1, 1)}}",
           f"{IN} must not change {name}, whose rows belong to tokens or positions; choose another"
           " name") for name in ("wte", "wpe", "lm_head", "wte1", "wte_ngram")),
        ("{'layer1.gate': (1, 1)}", f"{IN} must name layers below n_layer 1, got layer1.gate"),
        ("{'layer0.gate': None}",
         f"{IN} drops layer0.gate, which the model does not have; leave it out"),
        *((f"{{'gate': {shape}}}", f"{IN} must give gate {SIZES} {shown}")
          for shape, shown in (
              ("(0, 4)", "0 4"), ("(4, -1)", "4 -1"), ("(1 << 25, 1)", "33554432 1"),
              ("(4,)", "4"), ("(1, 2, 3)", "1 2 3"), ("4", "4"), ("(True, 1)", "True 1"),
              ("(2.0, 1)", "2.0 1"), ("'ab'", "ab"),
          )),
    ],
)  # fmt: skip
def test_parameters_that_no_model_has_are_refused(loaded, result, message):
    own = with_parameters(loaded, result)
    assert refusal(lambda: own.parameters(config())) == message


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({f"x{i}": (1, 1) for i in range(4096)}, True),
        ({f"x{i}": (1, 1) for i in range(4097)}, False),
        ({"gate": (1 << 24, 1)}, True),
        ({"gate": ((1 << 24) + 1, 1)}, False),
        ({"gate": (1, 0)}, False),
        ({"x" * 48: (1, 1)}, True),
        ({"x" * 49: (1, 1)}, False),
        ({"layer0.attn_wo": None}, True),
        ({"layer00.gate": (1, 1)}, False),
        ({"a.b": (1, 1)}, False),
    ],
    ids=[
        "names", "too many names", "rows", "too many rows", "no column", "long name",
        "too long a name", "dropped", "not a layer", "two parts",
    ],
)  # fmt: skip
def test_a_record_has_the_bounds_of_the_code(loaded, changes, allowed):
    own = with_parameters(loaded, str(changes))
    refused = []
    try:
        own.parameters(config())
    except ConfigError:
        refused.append("code")
    try:
        schema._changes("parameters", json.loads(json.dumps(changes)))
    except ValueError:
        refused.append("record")
    assert refused == ([] if allowed else ["code", "record"])


def test_matrices_too_large_for_memory_are_refused_before_they_are_made(loaded):
    from nanochat.engines import build_engine

    own = with_parameters(loaded, "{'gate': (1 << 24, 1 << 24)}")
    message = refusal(lambda: build_engine(config(dtype="float64"), 27, own=own))
    assert message.startswith(
        "model needs 8388608.0 GiB for weights, gradients and optimizer state"
    )


def test_the_parameters_of_a_config_with_a_file_need_its_changes():
    with pytest.raises(AssertionError):
        parameter_specs(config(), 27)


# ----------------------------------------------------------------------------------------- faults


def fault(loaded, text: str) -> ModelFileError:
    with pytest.raises(ModelFileError) as caught:
        loaded(text)
    return caught.value


def test_a_syntax_error_is_told_with_its_line(loaded):
    error = fault(loaded, "x = 1\ndef f(:\n    pass\n")
    assert str(error) == "my.py, line 2: SyntaxError: invalid syntax"
    assert error.details.splitlines()[:2] == ['  File "my.py", line 2', "    def f(:"]
    assert isinstance(error.__cause__, SyntaxError)
    assert error.exit_code == 1


def test_an_exception_at_import_shows_the_lines_of_the_file_alone(loaded):
    error = fault(loaded, "import json\n\ndef read():\n    json.loads('{')\n\nread()\n")
    assert str(error).startswith("my.py, line 4: json.decoder.JSONDecodeError: Expecting property")
    assert error.details.splitlines()[:5] == [
        "Traceback (most recent call last):",
        '  File "my.py", line 6, in <module>',
        "    read()",
        '  File "my.py", line 4, in read',
        "    json.loads('{')",
    ]
    assert len(error.details.splitlines()) == 6
    assert isinstance(error.__cause__, ValueError)


def test_a_file_that_ends_the_program_is_a_fault(loaded):
    assert str(fault(loaded, "import sys\nsys.exit(0)\n")) == (
        "my.py, line 2: a model file must not end the program, got SystemExit: 0; raise an error"
    )


@pytest.mark.parametrize("kind", ["KeyboardInterrupt", "GeneratorExit"])
def test_an_interrupt_is_not_a_fault(loaded, kind):
    with pytest.raises((KeyboardInterrupt, GeneratorExit)) as caught:
        loaded(f"raise {kind}\n")
    assert type(caught.value).__name__ == kind


def test_a_file_that_failed_leaves_no_module_and_may_be_corrected(loaded):
    before = {name for name in sys.modules if name.startswith("nanochat_model_")}
    fault(loaded, "1 / 0\n")
    assert {name for name in sys.modules if name.startswith("nanochat_model_")} == before
    assert loaded(PLAIN).defines("scalar")


def test_an_error_of_several_lines_is_one_line_in_the_message(loaded):
    error = fault(loaded, "raise ValueError('one\\ntwo')\n")
    assert str(error) == "my.py, line 1: ValueError: one two"
    assert error.details.endswith("ValueError: one\ntwo")


def test_notes_of_an_exception_are_no_part_of_the_message(loaded):
    error = fault(loaded, "e = ValueError('one')\ne.__notes__ = ['two']\nraise e\n")
    assert str(error) == "my.py, line 3: ValueError: one"


def test_a_fault_survives_pickle_between_processes(loaded):
    error = fault(loaded, "1 / 0\n")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.details) == (str(error), error.details)


def test_an_error_of_nanochat_inside_of_a_file_stays_what_it_is(loaded):
    with pytest.raises(ConfigError, match="^n_embd must be"):
        loaded("import nanochat\nnanochat.TrainConfig(n_embd=-1)\n")
