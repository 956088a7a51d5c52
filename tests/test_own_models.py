"""The models of docs/examples: both engines compute the same, and the built-in model is unchanged."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nonempty import nonempty

from nanochat.config.options import TrainConfig
from nanochat.data.batches import Batch
from nanochat.engines import build_engine
from nanochat.errors import ModelFileError
from nanochat.model.model_file import ModelFile, load_model_file
from nanochat.system.streams import prints_as_progress, write_result
from nanochat.training.engine import Engine
from nanochat.training.loop import step_settings

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
VOCAB = 11
each_example = pytest.mark.parametrize("name", ["gelu", "gated_mlp", "unchanged"])


def own(name: str) -> ModelFile:
    return load_model_file(str(EXAMPLES / f"{name}.py"))


def config(mode: str, name: str | None, **options: Any) -> TrainConfig:
    size = {"preset": "microgpt", "n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 8}
    file = None if name is None else str(EXAMPLES / f"{name}.py")
    return TrainConfig(**{
        "mode": mode, **size, "model_file": file, "batch_size": 3, "batching": "documents",
        "dtype": "float64", "device": "cpu", **options,
    })  # fmt: skip


def engine(mode: str, name: str | None, **options: Any) -> Engine:
    return build_engine(
        config(mode, name, **options), VOCAB, own=None if name is None else own(name)
    )


def batches(steps: int) -> list[list[Batch]]:
    random = np.random.default_rng(0)
    rows = []
    for _ in range(steps):
        tokens = random.integers(1, VOCAB, (3, 6))
        targets = np.roll(tokens, -1, axis=1)
        targets[:, -1] = 0
        rows.append([Batch(
            inputs=tokens, targets=targets, positions=np.tile(np.arange(6), (3, 1)),
            segments=np.zeros((3, 6), dtype=np.int64), lengths=np.array([6, 6, 6]),
            global_targets=18,
        )])  # fmt: skip
    return rows


def walked(trained: Engine, options: TrainConfig, steps: int = 20) -> list[float]:
    return [
        trained.step(rows, step_settings(options, step)).read().loss
        for step, rows in enumerate(batches(steps))
    ]


SPECIAL: dict[str, dict[str, Any]] = {
    "learned": {},
    "rope": {"positions": "rope", "qk_norm": True, "tie_lm_head": True},
    "sgd": {"optimizer": "sgd", "input_rmsnorm": False, "logit_softcap": 5.0},
    "decayed": {"weight_decay": 0.1, "grad_clip": 0.5, "zero_init": True, "ema": 0.9},
}


@pytest.mark.parametrize("special", SPECIAL)
@each_example
def test_both_engines_have_the_same_losses_weights_and_texts(name, special):
    options = SPECIAL[special]
    scalar, tensor = engine("scalar", name, **options), engine("tensor", name, **options)
    losses = [walked(each, config(each.mode, name, **options)) for each in (scalar, tensor)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-10)
    assert losses[0][-1] < losses[0][0]
    ours, theirs = scalar.state_dict(), tensor.state_dict()
    assert list(ours.weights) == list(theirs.weights)
    for weight in nonempty(ours.weights):
        np.testing.assert_allclose(
            ours.weights[weight], theirs.weights[weight], rtol=1e-8, atol=1e-10, err_msg=weight
        )
    decoders = [each.open_decoder([[0, 3], [0, 5]]) for each in (scalar, tensor)]
    for token in range(1, 10):  # past the block
        np.testing.assert_allclose(decoders[0].logits, decoders[1].logits, rtol=0, atol=1e-9)
        for decoder in decoders:
            decoder.advance([token, token])


def test_each_example_is_another_model_than_the_built_in_one():
    plain = walked(engine("scalar", None), config("scalar", None))
    for name in nonempty(["gelu", "gated_mlp"]):
        assert not np.allclose(walked(engine("scalar", name), config("scalar", name)), plain)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("scalar", {}),
        ("scalar", {"numerics": "exact"}),
        ("scalar", {"dtype": "float32", "ema": 0.9}),
        ("tensor", {"loss": "torch"}),
        ("tensor", {"loss": "torch", "dtype": "float32", "optimizer": "muon", "dropout": 0.1}),
        ("tensor", {"loss": "torch", "dtype": "bfloat16", "positions": "rope", "qk_norm": True}),
    ],
    ids=str,
)
def test_a_file_that_changes_nothing_changes_no_bit(mode, options):
    plain, same = engine(mode, None, **options), engine(mode, "unchanged", **options)
    of_plain = walked(plain, config(mode, None, **options))
    assert of_plain == walked(same, config(mode, "unchanged", **options))
    ours, theirs = plain.state_dict(), same.state_dict()
    for name in nonempty(ours.weights):
        assert ours.weights[name].tobytes() == theirs.weights[name].tobytes(), name
    for name in nonempty(ours.optimizer):
        assert ours.optimizer[name].tobytes() == theirs.optimizer[name].tobytes(), name
    if mode == "scalar":
        decoders = [each.open_decoder([[0, 3]]) for each in (plain, same)]
        assert decoders[0].logits.tobytes() == decoders[1].logits.tobytes()


def test_the_exact_numerics_of_a_file_are_those_of_the_tape():
    options = {"numerics": "exact"}
    program, tape = engine("scalar", "gelu", **options), engine("scalar", "gelu", **options)
    tape._leave_replay()  # type: ignore[attr-defined]  # of the scalar engine
    with_program = walked(program, config("scalar", "gelu", **options))
    assert with_program == walked(tape, config("scalar", "gelu", **options))


@settings(max_examples=10)
@given(
    layers=st.integers(1, 2), heads=st.integers(1, 3), head_dim=st.integers(1, 3),
    activation=st.sampled_from(["relu", "relu2"]), tied=st.booleans(),
)  # fmt: skip
def test_the_gradients_of_a_gated_mlp_agree_for_any_shape(
    layers, heads, head_dim, activation, tied
):
    options = {
        "n_layer": layers, "n_head": heads, "n_embd": heads * head_dim, "activation": activation,
        "tie_lm_head": tied, "optimizer": "sgd", "lr": 1.0, "beta1": 0.0,
    }  # fmt: skip
    moved = []
    for mode in ("scalar", "tensor"):
        each = engine(mode, "gated_mlp", **options)
        before = each.state_dict().weights
        walked(each, config(mode, "gated_mlp", **options), steps=1)
        after = each.state_dict().weights
        moved.append({name: after[name] - before[name] for name in before})
    for name in nonempty(moved[0]):
        np.testing.assert_allclose(moved[0][name], moved[1][name], rtol=1e-9, atol=1e-12)
    assert any(name.endswith("mlp_gate") and array.any() for name, array in moved[0].items())


def test_muon_orthogonalizes_the_new_matrices_too():
    options = {"optimizer": "muon", "lr": 1e-9, "matrix_lr": 0.5, "weight_decay": 0.0}
    each = engine("tensor", "gated_mlp", **options)
    before = each.state_dict().weights
    walked(each, config("tensor", "gated_mlp", **options), steps=1)
    after = each.state_dict().weights
    gate = after["layer1.mlp_gate"] - before["layer1.mlp_gate"]  # (32, 8): a step of 0.5 · √4
    sizes = np.linalg.svd(gate, compute_uv=False)
    assert np.all((sizes > 0.6) & (sizes < 1.4))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler emits them
def test_compiled_steps_have_the_losses_of_plain_ones():
    losses = [
        walked(engine("tensor", "gated_mlp", compile=compiled),
               config("tensor", "gated_mlp", compile=compiled), steps=3)
        for compiled in ("off", "on")
    ]  # fmt: skip
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9)


# ------------------------------------------------------------------------------------------ faults

HEAD = {
    "scalar": "from nanochat.scalar.minigpt import Block, MiniGPT\n\n\n",
    "tensor": "from nanochat.tensor.model import Block, MiniGPT\n\n\n",
}
TAIL = {
    "scalar": "\n\nclass ScalarModel(MiniGPT):\n    block = Own\n",
    "tensor": "\n\nclass TensorModel(MiniGPT):\n    block = Own\n",
}


@pytest.mark.parametrize("name", ["keys", "update", "training", "weights", "forward", "T"])
@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_a_matrix_may_have_the_name_of_an_attribute(folder, mode, name):
    """A matrix of 1 row that scales the hidden size has the same losses under any name."""
    body = {
        "scalar": "return [a * g for a, g in zip(super().norm(x), self.weights['{}'][0])]",
        "tensor": "return super().norm(x) * self.weights['{}'][0].to(x)",
    }
    losses = []
    for each in (name, "plain"):
        block = (
            f"def parameters(config):\n    return {{'layer0.{each}': (1, 8), 'layer1.{each}': (1, 8)}}\n"
        ) + own_method("norm", "x", body[mode].format(each))
        made = built(folder, mode, block)
        state = made.state_dict()
        for layer in (0, 1):
            state.weights[f"layer{layer}.{each}"][:] = 1.5
        made.load_state_dict(state)
        losses.append(walked(made, config(mode, None), steps=3))
    assert losses[0] == losses[1]


NAMED_AND_STATIC = {
    "scalar": (
        "class Own(Block):\n"
        "    @staticmethod\n"
        "    def norm(x):\n"
        "        scale = (sum(a * a for a in x) / len(x) + 1e-5) ** -0.5\n"
        "        return [a * scale for a in x]\n"
        "    def mlp(self, hidden):\n"
        "        return super().mlp(x=hidden)\n"
        "    def forward(self, x, position, keys, values):\n"
        "        y = self.attention(keys=keys, values=values, position=position, x=self.norm(x=x))\n"
        "        x = [a + b for a, b in zip(y, x)]\n"
        "        return [a + b for a, b in zip(self.mlp(hidden=self.norm(x)), x)]\n"
        "    @classmethod\n"
        "    def activation(cls, x):\n"
        "        return [h.relu() for h in x]\n"
        "    def attention(self, *given, **named):\n"
        "        return super().attention(*given, **named)\n"
    ),
    "tensor": (
        "class Own(Block):\n"
        "    @staticmethod\n"
        "    def norm(x):\n"
        "        return x * (x.square().mean(-1, keepdim=True) + 1e-5) ** -0.5\n"
        "    def mlp(self, hidden, inputs):\n"
        "        return super().mlp(inputs=inputs, x=hidden)\n"
        "    def forward(self, x, inputs, cache=None):\n"
        "        x = x + self.attention(cache=cache, inputs=inputs, x=self.norm(x=x))\n"
        "        return x + self.mlp(inputs=inputs, hidden=self.norm(x))\n"
        "    @classmethod\n"
        "    def activation(cls, x):\n"
        "        return x.relu()\n"
        "    def attention(self, x, *given, **named):\n"
        "        return super().attention(x, *given, **named)\n"
    ),
}


@pytest.mark.parametrize("mode", NAMED_AND_STATIC)
def test_methods_may_be_static_and_called_with_names_in_any_order(folder, mode):
    made = built(folder, mode, NAMED_AND_STATIC[mode])
    expected = walked(engine(mode, None), config(mode, None), steps=5)
    np.testing.assert_allclose(walked(made, config(mode, None), steps=5), expected, rtol=1e-10)


def test_the_result_of_a_static_method_that_is_called_by_name_is_checked(fault):
    block = (
        "class Own(Block):\n"
        "    @staticmethod\n"
        "    def norm(x):\n"
        "        return x[1:]\n"
        "    def forward(self, x, inputs, cache=None):\n"
        "        return self.norm(x=x)\n"
    )
    assert str(fault("tensor", block)) == (
        "my.py, line 5: norm of Own must return a tensor of shape (18, 8), got (17, 8)"
    )


def built(folder, mode: str, block: str, longest: int = 0, **more: Any) -> Engine:
    """The engine of a block of the user's own, in `my.py` from line 4 on."""
    (folder / "my.py").write_text(HEAD[mode] + block + TAIL[mode])
    options = config(mode, None, **more).changed(model_file="my.py")
    return build_engine(options, VOCAB, longest=longest, own=load_model_file("my.py"))


@pytest.fixture
def fault(folder):
    """The error of a block of the user's own, in `my.py` from line 4 on."""

    def find(mode: str, block: str, **more: Any) -> ModelFileError:
        with pytest.raises(ModelFileError) as caught:
            walked(built(folder, mode, block, **more), config(mode, None, **more))
        return caught.value

    return find


def own_method(name: str, arguments: str, *lines: str) -> str:
    body = "".join(f"        {line}\n" for line in lines)
    return f"class Own(Block):\n    def {name}(self, {arguments}):\n{body}"


@pytest.mark.parametrize(
    ("mode", "block", "message"),
    [
        ("scalar", own_method("mlp", "x", "return x[1:]"),
         "my.py, line 5: mlp of Own must return a list of 8 Values, got 7"),
        ("scalar", own_method("mlp", "x", "pass"),
         "my.py, line 5: mlp of Own must return a list of 8 Values, got None"),
        ("scalar", own_method("mlp", "x", "return [0.0] * 8"),
         "my.py, line 5: mlp of Own must return a list of 8 Values, got one with float"),
        ("scalar", own_method("activation", "x", "return []"),
         "my.py, line 5: activation of Own must return a list of Values, got 0"),
        ("scalar", own_method("norm", "x", "return x + x"),
         "my.py, line 5: norm of Own must return a list of 8 Values, got 16"),
        ("scalar", own_method("attention", "x, *rest", "return x[0]"),
         "my.py, line 5: attention of Own must return a list of 8 Values, got Value"),
        ("scalar", own_method("activation", "x", "return x[::2]"),
         "my.py: ValueError: x must have 32 numbers, as each row of weight, got 16"),
        ("tensor", own_method("mlp", "x, inputs", "return x[1:]"),
         "my.py, line 5: mlp of Own must return a tensor of shape (18, 8), got (17, 8)"),
        ("tensor", own_method("mlp", "x, inputs", "return x.tolist()"),
         "my.py, line 5: mlp of Own must return a tensor of shape (18, 8), got list"),
        ("tensor", own_method("norm", "x", "return x.long()"),
         "my.py, line 5: norm of Own must return a tensor of shape (18, 8) of floats, got"
         " torch.int64"),
        ("tensor", own_method("mlp", "x, inputs", "return self.weights['mlp_gate']"),
         "my.py, line 6: KeyError: 'mlp_gate'"),
        ("scalar", own_method("__init__", "*rest", "self.layer = 0"),
         "my.py: AttributeError: 'Own' object has no attribute 'see'"),
    ],
)  # fmt: skip
def test_a_wrong_result_is_told_with_the_line_of_the_method(fault, mode, block, message):
    assert str(fault(mode, block)) == message


@pytest.mark.parametrize(
    ("mode", "arguments", "line"),
    [("scalar", "x", "y = [h.gelu() for h in x]"), ("tensor", "x, inputs", "y = x.gelu()")],
)
def test_the_traceback_has_the_lines_of_the_file_alone(fault, mode, arguments, line):
    error = fault(mode, own_method("mlp", arguments, line, "return y"))
    assert str(error).startswith("my.py, line 6: AttributeError: ")
    assert str(error).endswith("object has no attribute 'gelu'")
    lines = error.details.splitlines()
    assert lines[:3] == [
        "Traceback (most recent call last):", '  File "my.py", line 6, in mlp', f"    {line}",
    ]  # fmt: skip
    assert "site-packages" not in error.details
    assert all(each.startswith('  File "my.py"') for each in lines if each.startswith("  File"))
    assert isinstance(error.__cause__, AttributeError)


def in_init(*lines: str) -> str:
    """A torch block whose __init__ adds these lines; the first is line 8 of the file."""
    method = own_method("__init__", "*given", "super().__init__(*given)", *lines)
    return f"import torch\nfrom torch import nn\n\n{method}"


UNTRAINED = "must be a matrix of the run, because no step trains and no checkpoint keeps any other;"
DECLARE = "declare it in parameters(config) and read it from the weights"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("self.gate = nn.Linear(8, 32)", f"parameter blocks.0.gate.weight {UNTRAINED} {DECLARE}"),
        ("self.gain = nn.Parameter(torch.ones(8))",
         f"parameter blocks.0.gain {UNTRAINED} {DECLARE}"),
        ("self.gain = nn.Parameter(self.weights['mlp_fc1'].detach().clone())",
         f"parameter blocks.0.gain {UNTRAINED} {DECLARE}"),
        ("self.gates = [nn.ReLU(), {'up': (nn.Linear(8, 32),)}]",
         f"parameter blocks.0.gates[1]['up'][0].weight {UNTRAINED} {DECLARE}"),
        ("self.inner = nn.Sequential(); self.inner.gates = [nn.Parameter(torch.ones(8))]",
         f"parameter blocks.0.inner.gates[0] {UNTRAINED} {DECLARE}"),
        ("self.gain = torch.ones(8, requires_grad=True)",
         f"tensor blocks.0.gain {UNTRAINED} {DECLARE}"),
        ("self.register_buffer('gain', torch.ones(8, requires_grad=True), persistent=False)",
         f"buffer blocks.0.gain {UNTRAINED} {DECLARE}, or register a constant with"
         " persistent=False"),
        ("self.half = [0.5 * self.weights['mlp_fc1']]",
         "blocks.0.half[0] must not be computed from the weights by __init__, because it keeps its"
         " first numbers while they are trained; compute it in the method that uses it"),
        ("self.inner = nn.Sequential(nn.BatchNorm1d(8, affine=False))",
         f"buffer blocks.0.inner.0.running_mean {UNTRAINED} {DECLARE}, or register a constant with"
         " persistent=False"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_numbers_that_no_step_would_train_are_refused(fault, line, message, dtype):
    assert str(fault("tensor", in_init(line), dtype=dtype)) == f"my.py, line 8: {message}"


def test_parameters_outside_of_classes_are_refused(fault):
    block = "from torch import nn\nGATES = [nn.Linear(8, 32)]\n" + in_init("pass")
    assert str(fault("tensor", block)) == f"my.py: parameter GATES[0].weight {UNTRAINED} {DECLARE}"


def test_lists_of_matrices_and_of_registered_modules_are_used(folder):
    """The gated MLP has the same losses if its matrices are also in lists of the user's own."""
    block = (
        in_init(
            "self.gelu = nn.GELU(approximate='tanh')",
            "self.more = [self.gelu, self, nn.ReLU(), self.weights['mlp_fc1'], torch.ones(8)]",
            "self.more.append(self.more)",
        )
        + "\n    def activation(self, x):\n        return self.more[0](x)\n"
    )
    expected = walked(engine("tensor", "gelu"), config("tensor", "gelu"))
    assert walked(built(folder, "tensor", block), config("tensor", None)) == expected


def test_scalars_that_no_step_would_train_are_refused(fault):
    block = own_method(
        "__init__", "*given", "super().__init__(*given)",
        "self.half = {'fc1': [[0.5 * w for w in row] for row in self.weights['mlp_fc1']]}",
    )  # fmt: skip
    assert str(fault("scalar", block)) == (
        "my.py, line 5: blocks[0].half['fc1'][0][0] must not be computed from the weights by"
        " __init__, because it keeps its first numbers while they are trained; compute it in the"
        " method that uses it"
    )
    block = own_method("activation", "x", "return [h.relu() * GAIN for h in x]")
    message = str(fault("scalar", f"from nanochat import Value\nGAIN = Value(2.0)\n{block}"))
    assert message.startswith("my.py, line 8: ValueError: both operands must be on the same tape;")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("raise SystemExit(0)", "a model file must not end the program, got SystemExit: 0;"),
        ("exit()", "a model file must not end the program, got SystemExit: None;"),
    ],
)
@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_code_that_would_end_the_program_is_told(fault, folder, mode, line, message):
    for method in ("__init__", "activation"):
        told = str(fault(mode, own_method(method, "*given", line)))
        assert told.startswith(f"my.py, line 6: {message}")
    (folder / "my.py").write_text(f"# {mode}\n{line}\n")
    with pytest.raises(ModelFileError) as caught:
        load_model_file("my.py")
    assert str(caught.value).startswith(f"my.py, line 2: {message}")
    (folder / "my.py").write_text(f"# {mode}\ndef parameters(config):\n    {line}\n{HEAD[mode]}"
                                  f"class Own(Block):\n    pass\n{TAIL[mode]}")  # fmt: skip
    with pytest.raises(ModelFileError) as caught:
        load_model_file("my.py").parameters(config(mode, None))
    assert str(caught.value).startswith(f"my.py, line 3: {message}")


@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_an_interruption_stays_one(folder, mode):
    with pytest.raises(KeyboardInterrupt):
        walked(built(folder, mode, own_method("activation", "x", "raise KeyboardInterrupt")),
               config(mode, None))  # fmt: skip
    (folder / "my.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load_model_file("my.py")


@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_a_recursion_without_end_shows_its_first_and_last_calls(fault, mode):
    error = fault(mode, own_method("activation", "x", "return self.activation(x)"))
    assert str(error).startswith("my.py, line 6: RecursionError: maximum recursion depth exceeded")
    call = ['  File "my.py", line 6, in activation', "    return self.activation(x)"]
    lines = error.details.splitlines()
    assert lines[:13] == ["Traceback (most recent call last):", *6 * call]
    assert re.fullmatch(r"  … [1-9][\d,]*\d\d calls left out …", lines[13])
    assert lines[14:26] == 6 * call
    assert lines[26:] == [str(error).removeprefix("my.py, line 6: ")]


def test_prints_go_to_stderr_and_leave_stdout_as_it_was(folder, capsys):
    before = sys.stdout
    block = "print('imported')\n" + own_method(
        "activation", "x", "print('forward')", "return super().activation(x)"
    )
    each = built(folder, "tensor", block)
    walked(each, config("tensor", None), steps=2)
    each.open_decoder([[0, 1]]).advance([2])
    assert sys.stdout is before
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "imported\n" + 2 * 4 * "forward\n"  # 2 layers, 2 steps and 2 tokens


def test_prints_of_two_threads_at_once_leave_stdout_as_it_was(capsys):
    before = sys.stdout
    first, second = prints_as_progress(), prints_as_progress()
    with first:
        second.__enter__()
        write_result("result\n")
    print("progress")
    second.__exit__(None, None, None)
    print("result")
    assert sys.stdout is before
    assert capsys.readouterr() == ("result\nresult\n", "progress\n")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("self.activation = nn.GELU()", "activation"),
        ("self.norm = nn.LayerNorm(8)", "norm"),
        ("self.mlp = nn.Sequential()", "mlp"),
    ],
)
def test_a_module_that_a_method_hides_is_refused(fault, line, name):
    assert str(fault("tensor", in_init(line))) == (
        f"my.py, line 8: self.{name} must not be a module, because {name} of class Own"
        f" hides it; keep it under another name and override {name}"
    )


def test_a_constant_and_a_module_without_parameters_are_used(folder):
    """GELU as a module, times a constant of 1, has the losses of the example."""
    block = (
        in_init(
            "self.gelu = nn.GELU(approximate='tanh')",
            "self.register_buffer('one', torch.ones(()), persistent=False)",
        )
        + "\n    def activation(self, x):\n        return self.gelu(x) * self.one\n"
    )
    expected = walked(engine("tensor", "gelu"), config("tensor", "gelu"))
    assert walked(built(folder, "tensor", block), config("tensor", None)) == expected


def test_a_fault_in_the_prompt_of_a_decoder_is_told(folder):
    each = built(folder, "tensor", own_method(
        "attention", "x, inputs, cache",
        "return super().attention(x, inputs, cache) if cache is None else 1 / 0",
    ))  # fmt: skip
    walked(each, config("tensor", None), steps=1)
    with pytest.raises(ModelFileError) as caught:
        each.open_decoder([[0, 1]])
    assert str(caught.value) == "my.py, line 6: ZeroDivisionError: division by zero"


def test_a_fault_in_a_later_token_of_a_decoder_is_told(folder):
    """The prompt is two tokens at once, a later one alone."""
    each = built(folder, "tensor", own_method(
        "attention", "x, inputs, cache",
        "return super().attention(x, inputs, cache) if len(x) != 1 else 1 / 0",
    ))  # fmt: skip
    decoder = each.open_decoder([[0, 1]])
    with pytest.raises(ModelFileError) as caught:
        decoder.advance([2])
    assert str(caught.value) == "my.py, line 6: ZeroDivisionError: division by zero"


def test_a_fault_in_the_backward_pass_is_told(folder):
    block = (
        "import torch\n"
        "class Broken(torch.autograd.Function):\n"
        "    @staticmethod\n"
        "    def forward(context, x):\n"
        "        return x.clone()\n"
        "    @staticmethod\n"
        "    def backward(context, gradient):\n"
        "        return gradient / (1 // 0)\n"
    ) + own_method("activation", "x", "return Broken.apply(x)")
    each = built(folder, "tensor", block)
    assert each.token_losses(batches(1)[0][0]).shape == (3, 6)  # forward alone
    with pytest.raises(ModelFileError) as caught:
        walked(each, config("tensor", None), steps=1)
    assert (
        str(caught.value) == "my.py, line 11: ZeroDivisionError: integer division or modulo by zero"
    )


def test_a_fault_in_the_comparison_with_a_program_is_told(folder):
    """The program has 8 positions; a longer document needs a new one."""
    block = own_method(
        "attention", "x, position, keys, values",
        "assert position < 8, 'too long'",
        "return super().attention(x, position, keys, values)",
    )  # fmt: skip
    each = built(folder, "scalar", block, longest=8, block_size=16)
    document = Batch(
        inputs=np.ones((1, 9), dtype=np.int64), targets=np.ones((1, 9), dtype=np.int64),
        positions=np.arange(9)[None], segments=np.zeros((1, 9), dtype=np.int64),
        lengths=np.array([9]), global_targets=9,
    )  # fmt: skip
    with pytest.raises(ModelFileError) as caught:
        each.numbers_of(document)  # type: ignore[attr-defined]  # of the scalar engine
    assert str(caught.value) == "my.py, line 6: AssertionError: too long"


def test_a_file_for_scalars_does_not_import_torch(folder, python):
    (folder / "my.py").write_text("from nanochat.scalar.minigpt import MiniGPT as ScalarModel\n")
    done = python("-c", (
        "import sys, nanochat\n"
        "nanochat.train(nanochat.TrainConfig(mode='scalar', preset='microgpt', steps=1,"
        " model_file='my.py', num_samples=1, data='names.txt'))\n"
        "print('torch' in sys.modules)"
    ), cwd=folder)  # fmt: skip
    assert done.stdout == "False\n", done.stderr
