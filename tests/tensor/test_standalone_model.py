"""The plain torch module against the engine's own logits and against NumPy, for every model."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from nonempty import nonempty
from oracles.numpy_gpt import NumpyGPT
from tensor.batch_makers import VOCAB, make_engine, small_config
from tensor.test_models import BIGRAMS, MINIGPTS, every_model

from nanochat.config.options import options_of
from nanochat.tensor import standalone_model
from nanochat.tensor.plain_module import plain_module
from nanochat.tensor.standalone_model import GPT

TOKENS = [0, 3, 5, 3, 5, 1, 6, 2]  # block_size of them


def engine_logits(config, dtype):
    """The logits after each token, from the decoder that `generate` uses, and the weights."""
    engine = make_engine(config, dtype=dtype)
    decoder = engine.open_decoder([TOKENS[:1]])
    logits = [decoder.logits[0]]
    for token in TOKENS[1:]:
        decoder.advance([token])
        logits.append(decoder.logits[0])
    return np.stack(logits), engine.state_dict().weights


def module_logits(config, weights):
    with torch.no_grad():
        return plain_module(config, weights)(torch.tensor([TOKENS]))[0].numpy()


@every_model
def test_float32_logits_are_those_of_the_engine(options):
    config = small_config(**options)
    expected, weights = engine_logits(config, "float32")
    found = module_logits(config, weights)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@every_model
def test_float64_logits_are_those_of_numpy(options):
    config = small_config(**options)
    weights = make_engine(config).state_dict().weights
    oracle = NumpyGPT(config, weights)
    expected = [oracle.logits(token, position) for position, token in enumerate(TOKENS)]
    np.testing.assert_allclose(module_logits(config, weights), expected, rtol=1e-10, atol=1e-12)


def test_the_tested_models_have_every_value_of_every_choice():
    models = [small_config(**options) for options in BIGRAMS + MINIGPTS]
    for name, choices in standalone_model.CHOICES.items():
        assert {getattr(config, name) for config in models} == set(choices)
        # Counts alone have no module.
        assert set(options_of(type(models[0]))[name].choices) - {"ngram"} == set(choices)


@pytest.mark.parametrize("options", [{}, {"tie_lm_head": True, "logit_softcap": 3.0}])
def test_of_a_mixture_it_is_the_network_alone(options):
    config = small_config(ngram_order=3, **options)
    expected, weights = engine_logits(config, "float64")
    found = module_logits(config, weights)
    np.testing.assert_allclose(found, expected[:, :-1], rtol=1e-10, atol=1e-12)


def test_rows_are_independent_and_a_token_does_not_see_the_later_ones():
    config = small_config(prev_token_tables=2, hash_embed_rows=20, hash_embed_longest=3)
    module = plain_module(config, make_engine(config).state_dict().weights)
    rows = torch.tensor([TOKENS, TOKENS[::-1]])
    together = module(rows)
    for row, expected in nonempty(zip(rows, together, strict=True)):
        for length in range(1, len(TOKENS) + 1):
            found = module(row[:length].unsqueeze(0))[0]
            torch.testing.assert_close(found, expected[:length], rtol=1e-12, atol=1e-12)


def test_every_parameter_has_the_name_of_the_checkpoint_and_gets_the_gradient_of_the_loss():
    config = small_config(prev_token_tables=1, hash_embed_rows=20, positions="learned")
    weights = make_engine(config).state_dict().weights
    module = plain_module(config, weights)
    assert set(dict(module.named_parameters())) == set(weights)

    def loss() -> torch.Tensor:
        logits = module(torch.tensor([TOKENS[:-1]]))[0]
        return torch.nn.functional.cross_entropy(logits, torch.tensor(TOKENS[1:]))

    loss().backward()
    for name, parameter in module.named_parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        place, step = int(gradient.abs().argmax()), 1e-6
        values = []
        for sign in (1, -1):
            flat[place] += sign * step
            values.append(float(loss().detach()))
            flat[place] -= sign * step
        slope = (values[0] - values[1]) / (2 * step)
        assert float(gradient[place]) == pytest.approx(slope, rel=1e-6), name


def test_the_module_has_copies_of_the_weights():
    config = small_config()
    weights = make_engine(config).state_dict().weights
    before = {name: array.copy() for name, array in weights.items()}
    module = plain_module(config, weights)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    for name, array in nonempty(weights.items()):
        np.testing.assert_array_equal(array, before[name])


def test_more_tokens_than_the_context_window_are_refused():
    config = small_config()
    module = plain_module(config, make_engine(config).state_dict().weights)
    with pytest.raises(
        ValueError, match="^rows must have at most block_size 8 tokens, got 9; pass"
    ):
        module(torch.zeros(1, 9, dtype=torch.int64))


@pytest.mark.parametrize("name", standalone_model.CHOICES)
def test_an_unknown_value_is_refused_by_name(name):
    config = {**small_config().to_dict(), name: "new"}
    with pytest.raises(ValueError, match=f"^{name} must be one of .*, got new$"):
        GPT(config, VOCAB)


@pytest.mark.parametrize("change", ["missing", "new"])
def test_weights_of_another_model_are_refused_by_name(change):
    config = small_config()
    weights = dict(make_engine(config).state_dict().weights)
    if change == "missing":
        del weights["layer1.attn_wq"]
    else:
        weights["layer1.attn_new"] = weights["layer1.attn_wq"]
    with pytest.raises(RuntimeError, match=r"layer1\.attn_(wq|new)"):
        plain_module(config, weights)


def test_the_file_imports_torch_and_the_standard_library_alone():
    tree = ast.parse(Path(standalone_model.__file__).read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = {n.module if isinstance(n, ast.ImportFrom) else n.names[0].name for n in nodes}
    assert {module.split(".")[0] for module in modules} == {
        "__future__", "collections", "json", "pathlib", "typing", "torch",
    }  # fmt: skip
