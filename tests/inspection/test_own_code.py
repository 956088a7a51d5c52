"""The trace of a model file: which arrays are the user's own, their lines, and what is refused."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_options
from nonempty import nonempty

import nanochat
from nanochat.errors import ModelFileError, UnsupportedOption
from nanochat.inspection.facts import facts
from nanochat.inspection.graph import operations
from nanochat.inspection.importance import importance
from nanochat.inspection.page import page_text

EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"
each_mode = pytest.mark.parametrize("mode", ["scalar", "tensor"])


@pytest.fixture
def traced(folder) -> Callable[..., nanochat.Trace]:
    """The trace of `anna` by a model in `my.py`."""

    def trace(text: str, mode: str = "scalar", **options: Any) -> nanochat.Trace:
        (folder / "my.py").write_text(text, encoding="utf-8")
        more = {"dtype": "float64", "device": "cpu"} if mode == "tensor" else {}
        run = nanochat.train(nanochat.TrainConfig(**tiny_options(
            "mini-gpt", mode=mode, model_file="my.py", num_samples=0, out=f"run-{mode}", n_layer=2,
            **more, **options,
        ))).run  # fmt: skip
        return nanochat.load(run, model_file="my.py").trace("anna")

    return trace


def example(name: str) -> str:
    return (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")


def own_lines(trace: nanochat.Trace) -> dict[str, str]:
    """The text of the line of each array that the file computes."""
    lines = Path("my.py").read_text(encoding="utf-8").splitlines()
    found = {}
    for each in operations(trace.config, trace, trace.trained.own):
        if each.kind == "own":
            assert each.inputs == ()
            assert each.line[0] == "my.py"
            found[each.name] = lines[each.line[1] - 1].strip()
    return found


def own_classes(trace: nanochat.Trace) -> set[str]:
    """The classes in which the lines of the file's arrays are."""
    tree = ast.parse(Path("my.py").read_text(encoding="utf-8"))
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found = set()
    for each in operations(trace.config, trace, trace.trained.own):
        if each.kind == "own":
            (name,) = (c.name for c in classes if c.lineno < each.line[1] <= (c.end_lineno or 0))
            found.add(name)
    return found


@each_mode
def test_an_activation_of_the_users_own_is_the_only_array_without_a_formula(traced, mode):
    trace = traced(example("gelu"), mode)
    assert own_lines(trace) == {
        f"layer{layer}.mlp.active": "def activation(self, x):" for layer in (0, 1)
    }
    own = trace.trained.own
    assert [each.name for each in operations(trace.config, trace, own)] == list(trace)
    for layer in range(2):
        hidden = trace[f"layer{layer}.mlp.hidden"]
        inner = np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)
        np.testing.assert_allclose(
            trace[f"layer{layer}.mlp.active"], hidden / 2 * (1 + np.tanh(inner)), rtol=1e-12
        )


@each_mode
def test_every_array_of_an_own_mlp_leads_to_the_line_that_names_it(traced, mode):
    trace = traced(example("gated_mlp"), mode)
    lines = own_lines(trace)
    parts = ("norm", "gate", "hidden", "active", "out")
    assert set(lines) == {f"layer{layer}.mlp.{part}" for layer in (0, 1) for part in parts}
    for name, line in nonempty(lines.items()):
        assert f'see("{name.partition(".")[2]}"' in line
    assert own_classes(trace) == {"ScalarBlock" if mode == "scalar" else "TensorBlock"}


TWICE = """# "mlp.gate" is a gate, "mlp.hidden" what it opens.
from nanochat.scalar import minigpt
from nanochat.scalar.functions import linear
from nanochat.tensor import model


class ScalarBlock(minigpt.Block):
    def mlp(self, x):
        def hidden():
            return self.see("mlp.hidden", linear(x, self.weights["mlp_fc1"]))

        return self.end(self.activation(hidden()))

    def end(self, x):
        '''Return "mlp.out".'''
        active = self.see("mlp.active", x)
        return self.see("mlp.out", linear(active, self.weights["mlp_fc2"]))


class ScalarModel(minigpt.MiniGPT):
    block = ScalarBlock


class TensorBlock(model.Block):
    def mlp(self, x, inputs):
        def hidden():
            return self.see("mlp.hidden", model.linear(x, self.weights["mlp_fc1"]))

        return end(self, self.activation(hidden()))


def end(self, x):
    active = self.see("mlp.active", x)
    return self.see("mlp.out", model.linear(active, self.weights["mlp_fc2"]))


class TensorModel(model.MiniGPT):
    block = TensorBlock
"""


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("scalar", {"hidden": 10, "active": 16, "out": 17}),
        ("tensor", {"hidden": 27, "active": 33, "out": 34}),
    ],
)
def test_a_line_is_that_of_the_engine_also_in_an_inner_function_and_a_helper(
    traced, mode, expected
):
    trace = traced(TWICE, mode)
    lines = {
        each.name: each.line
        for each in operations(trace.config, trace, trace.trained.own)
        if each.kind == "own" and each.name.startswith("layer1.")
    }
    assert lines == {f"layer1.mlp.{part}": ("my.py", line) for part, line in expected.items()}


def test_an_array_of_one_engine_has_no_line_in_the_class_of_the_other(traced):
    """Only the scalar class names mlp.active; the tensor class computes it."""
    scalar, tensor = example("gated_mlp").partition("class TensorBlock")[0], example("gelu")
    trace = traced(
        scalar + tensor.partition("class ScalarModel")[2].partition("\n\n\n")[2], "tensor"
    )
    assert own_lines(trace) == {
        f"layer{layer}.mlp.active": "def activation(self, x):" for layer in (0, 1)
    }
    assert own_classes(trace) == {"TensorBlock"}


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("def norm(self, x):\n        return super().norm(x)",
         {"attn.norm", "mlp.norm", "attn.q_norm", "attn.k_norm"}),
        ("def rotate_and_norm(self, *rest):\n        return super().rotate_and_norm(*rest)",
         {"attn.q_norm", "attn.k_norm", "attn.q_rotated", "attn.k_rotated"}),
        ("def attention(self, *rest):\n        return super().attention(*rest)",
         {"attn.norm", "attn.q", "attn.k", "attn.v", "attn.q_rotated", "attn.k_rotated",
          "attn.q_norm", "attn.k_norm", "attn.scores", "attn.weights", "attn.mixed", "attn.out"}),
        ("def extra(self):\n        return 1", set()),
    ],
)  # fmt: skip
def test_a_method_owns_the_arrays_that_it_computes(traced, method, own):
    text = (
        "from nanochat.scalar.minigpt import Block, MiniGPT\n"
        f"class Own(Block):\n    {method}\n"
        "class ScalarModel(MiniGPT):\n    block = Own\n"
    )
    trace = traced(text, positions="rope", qk_norm=True)
    names = {name.partition(".")[2] for name in own_lines(trace)}
    assert names == own


@each_mode
def test_a_norm_of_the_model_owns_the_embeddings_and_that_of_the_output(traced, mode):
    module = "scalar.minigpt" if mode == "scalar" else "tensor.model"
    text = (
        f"from nanochat.{module} import MiniGPT\n"
        f"class {mode.title()}Model(MiniGPT):\n"
        "    def norm(self, x):\n"
        "        return super().norm(x)\n"
    )
    trace = traced(text, mode, output_rmsnorm=True)
    lines = own_lines(trace)
    assert lines == dict.fromkeys(("embed.norm", "output.norm"), "def norm(self, x):")
    np.testing.assert_allclose(
        trace.logit_lens().logits[-1], trace["logits"], rtol=1e-9, atol=1e-12
    )


def test_an_own_model_owns_every_array_but_the_loss(traced):
    trace = traced(
        "from nanochat.scalar.minigpt import MiniGPT\n"
        "class ScalarModel(MiniGPT):\n"
        "    def logits(self, *rest):\n"
        "        return super().logits(*rest)\n"
    )
    own = own_lines(trace)
    assert set(trace) - set(own) == {"probabilities", "losses"}
    assert set(own.values()) == {"def logits(self, *rest):"}


@each_mode
def test_what_matters_is_what_ablate_says(traced, mode):
    trace = traced(example("gated_mlp"), mode)
    found = importance(trace)
    for layer in range(2):
        for head in range(2):
            change = trace.ablate(head=(layer, head)).mean - trace.mean
            assert found.heads[layer, head] == change
    assert found.positions[1] == trace.ablate(position=1).mean - trace.mean
    assert found.neurons.size == 0
    assert trace.ablate(neuron=(1, 3)).mean != trace.mean


@each_mode
@pytest.mark.parametrize("output_rmsnorm", [False, True])
def test_the_lens_ends_at_the_logits(traced, mode, output_rmsnorm):
    trace = traced(example("gelu"), mode, output_rmsnorm=output_rmsnorm)
    np.testing.assert_allclose(
        trace.logit_lens().logits[-1], trace["logits"], rtol=1e-9, atol=1e-12
    )


SILENT = (
    "from nanochat.scalar.minigpt import Block, MiniGPT\n"
    "class Own(Block):\n"
    "    def attention(self, x, position, keys, values):\n"
    "        keys.append(x)\n"
    "        values.append(x)\n"
    "        return [a * 0.5 for a in x]\n"
    "class ScalarModel(MiniGPT):\n"
    "    block = Own\n"
)
SEE = {
    "scalar": "class ScalarModel(MiniGPT):\n    block = Own\n",
    "tensor": "class TensorModel(MiniGPT):\n    block = Own\n",
}
MODULES = {"scalar": "nanochat.scalar.minigpt", "tensor": "nanochat.tensor.model"}


@pytest.mark.parametrize(
    ("mode", "method", "line", "message"),
    [
        ("scalar", "mlp", "self.see('twice', self.see('twice', x))",
         "my.py: ValueError: see must name layer0.twice once per token with as many Values, got 10"
         " lists of 16 Values for 5 tokens; use another name for each call"),
        ("scalar", "attention", "self.see('grows', sum(rest[1], []))",
         "my.py: ValueError: see must name layer0.grows once per token with as many Values, got 5"
         " lists of 0 to 64 Values for 5 tokens; use another name for each call"),
        ("scalar", "attention", "self.see('attn.scores', x)",
         "my.py: ValueError: see must name layer0.attn.scores per token for each of 2 heads with a"
         " Value per token so far, got 15 lists of 1 to 16 Values for 5 tokens; use another name for"
         " each call"),
        ("scalar", "mlp", "self.see('one', x[0])",
         "my.py, line 4: TypeError: see must get layer0.one as a list of Values, got Value"),
        ("tensor", "mlp", "self.see('twice', self.see('twice', x))",
         "my.py, line 4: ValueError: see must get layer0.twice once, got it twice; use another name"),
        ("tensor", "mlp", "self.see('flat', x.flatten())",
         "my.py, line 4: ValueError: see must get layer0.flat as a tensor of shape (5, numbers), got"
         " (80,)"),
        ("tensor", "mlp", "self.see('attn.scores', x)",
         "my.py, line 4: ValueError: see must get layer0.attn.scores as a tensor of shape (2, 5, 5),"
         " got (5, 16)"),
        ("tensor", "mlp", "self.see('one', 1.0)",
         "my.py, line 4: TypeError: see must get layer0.one as a tensor, got float"),
    ],
)  # fmt: skip
def test_an_array_that_a_trace_cannot_store_is_refused(traced, mode, method, line, message):
    with pytest.raises(ModelFileError) as caught:
        traced(
            f"from {MODULES[mode]} import Block, MiniGPT\n"
            f"class Own(Block):\n    def {method}(self, x, *rest):\n        {line}\n"
            f"        return super().{method}(x, *rest)\n{SEE[mode]}",
            mode, n_embd=16, n_head=2,
        )  # fmt: skip
    assert str(caught.value) == message


NOT_A_SUM = (
    "from nanochat.scalar.functions import rmsnorm\n"
    "from nanochat.scalar.minigpt import Block, MiniGPT\n"
    "class Own(Block):\n"
    "    def forward(self, *rest):\n"
    "        return rmsnorm(super().forward(*rest))\n"
    "class ScalarModel(MiniGPT):\n"
    "    block = Own\n"
)


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(UnsupportedOption) as caught:
        action()
    return str(caught.value)


def test_what_needs_a_name_that_the_file_does_not_give_is_refused(traced):
    trace = traced(SILENT)
    lacks = "which the model of my.py does not name; name it with see"
    assert refusal(lambda: trace.ablate(head=(0, 1))) == (
        f"ablate needs the array layer0.attn.mixed, {lacks}"
    )
    assert refusal(lambda: trace.ablate(position=1)) == (
        f"ablate needs the array layer0.attn.scores, {lacks}"
    )
    assert refusal(trace.logit_lens) == f"logit_lens needs the array layer0.attn.out, {lacks}"
    found = facts(trace, run="run", step=6, arrays=True, neurons=True)
    assert (found["lens"], found["importance"]) == (None, None)
    assert found["left_out"] == {
        "neurons": "the model is that of my.py",
        "lens": f"logit_lens needs the array layer0.attn.out, {lacks}",
        "importance": f"ablate needs the array layer0.attn.mixed, {lacks}",
    }
    assert "layer0.attn.out" in page_text(found)


def test_a_lens_of_parts_that_do_not_add_up_is_refused(traced):
    assert refusal(traced(NOT_A_SUM).logit_lens) == (
        "logit_lens needs a model whose parts add up to its logits, which those of my.py do not"
    )


def test_the_views_say_what_is_left_out(traced, cli):
    traced(SILENT)
    words = ["inspect", "run-scalar", "--model-file=my.py", "--text=anna"]
    shown = cli(*words, "--view=lens,importance,attention")
    assert shown.code == 0, shown.err
    lacks = "which the model of my.py does not name; name it with see"
    assert shown.out == (
        f"lens is left out: logit_lens needs the array layer0.attn.out, {lacks}\n\n"
        f"importance is left out: ablate needs the array layer0.attn.mixed, {lacks}\n\n"
        "the model has no attention\n"
    )


def test_a_long_text_takes_too_many_passes(traced, monkeypatch):
    trace = traced(example("gelu"))
    monkeypatch.setattr("nanochat.inspection.importance._MOST_PASSES", 8)
    assert refusal(lambda: importance(trace)) == (
        "importance of a model file takes a pass per head and token, at most 8, got 9; give a"
        " shorter text"
    )


def test_positions_that_are_left_out_take_no_pass(traced, monkeypatch):
    trace = traced(example("gelu"))
    whole, ablate, asked = importance(trace), nanochat.Trace.ablate, []

    def counted(trace: nanochat.Trace, **part: Any) -> nanochat.Trace:
        asked.append(part)
        return ablate(trace, **part)

    monkeypatch.setattr(nanochat.Trace, "ablate", counted)
    monkeypatch.setattr("nanochat.inspection.importance._MOST_PASSES", 4)
    found = importance(trace, positions=False)
    assert asked == [{"head": (layer, head)} for layer in (0, 1) for head in (0, 1)]
    assert found.heads.tobytes() == whole.heads.tobytes()
    assert (found.positions.shape, whole.positions.shape) == ((0,), (5,))
    monkeypatch.setattr("nanochat.inspection.importance._MOST_PASSES", 3)
    assert refusal(lambda: importance(trace, positions=False)) == (
        "importance of a model file takes a pass per head, at most 3, got 4; use a model with fewer"
    )


@each_mode
def test_the_gradient_of_a_new_array_is_the_slope_of_the_loss(traced, mode):
    trace = traced(example("gated_mlp"), mode)
    name, index, step = "layer1.mlp.gate", (2, 3), 1e-6
    losses = []
    for change in (step, -step):
        patch = np.full(trace[name].shape, np.nan)
        patch[index] = trace[name][index] + change
        losses.append(trace.patch({name: patch}).mean)
    slope = (losses[0] - losses[1]) / (2 * step)
    assert trace.gradients[name][index] == pytest.approx(slope, rel=1e-4, abs=1e-9)
    assert trace.weight_gradients["layer1.mlp_gate"].any()
