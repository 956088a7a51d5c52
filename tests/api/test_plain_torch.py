"""to_torch and model.py: the numbers of the engine, in processes that have no nanochat."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import nanochat
from nanochat.api import plain_torch
from nanochat.config.options import TrainConfig, options_of
from nanochat.errors import OutputError, UnsupportedOption
from nanochat.exporting.network import NOT_OF_THE_NETWORK
from nanochat.tensor import standalone_model

# Run first in another process: nothing of nanochat can be imported there.
WITHOUT_NANOCHAT = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "nanochat":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import importlib.util
import torch

def load(path, *arguments):
    spec = importlib.util.spec_from_file_location("model", path)
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    return model.load(*arguments)
"""

MODELS = {
    "names": {"dtype": "float64", "model_kind": "bigram", "n_layer": 0},
    "learned": {"positions": "learned", "activation": "relu", "qk_norm": False},
    "everything": {
        "mode": "tensor", "dtype": "float32", "n_layer": 2, "prev_token_tables": 2, "hash_embed_rows": 30,
        "hash_embed_longest": 3, "logit_softcap": 5.0, "tie_lm_head": True, "activation": "relu2",
        "dropout": 0.1, "ema": 0.9, "positions": "rope", "output_rmsnorm": True,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "names.txt").write_text("anna\nbob\ncarl\ndora\nemma\nfred\n" * 3)
    loaded = {}
    for name, options in MODELS.items():
        defaults = {
            "mode": "scalar", "data": str(folder / "names.txt"), "documents": "line", "n_layer": 1,
            "n_head": 2, "n_embd": 8, "block_size": 8, "steps": 4, "num_samples": 0,
            "batch_size": 2, "out": str(folder / name), "baseline": False, "dtype": "float32",
            "ngram_order": 0,
        }  # fmt: skip
        if options.get("n_layer") == 0:
            del defaults["n_head"]
        nanochat.train(TrainConfig(**{**defaults, **options}))
        loaded[name] = nanochat.load(folder / name, threads=1)
    return loaded


def engine_logits(model, text):
    """The logits after BOS and each token of a text, from the decoder that `generate` uses."""
    ids = model.tokenizer.encode(text).tolist()
    decoder = model._engine.open_decoder([[0]])
    logits = [decoder.logits[0]]
    for token in ids:
        decoder.advance([token])
        logits.append(decoder.logits[0])
    return [0, *ids], np.stack(logits)


@pytest.mark.parametrize("name", MODELS)
def test_the_module_has_the_logits_of_the_engine(models, name):
    ids, expected = engine_logits(models[name], "emma")
    with torch.no_grad():
        found = models[name].to_torch()(torch.tensor([ids]))[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_model_py_loads_every_checkpoint_without_nanochat(models, python, tmp_path):
    ids = [engine_logits(model, "emma")[0] for model in models.values()]
    calls = [[str(model.write_model_py())] for model in models.values()]
    # From another folder, with the checkpoint as its argument.
    calls[1] = [str(models["learned"].write_model_py(tmp_path)), str(models["learned"].checkpoint)]
    code = WITHOUT_NANOCHAT + (
        f"logits = [load(*call)(torch.tensor([ids]))[0].tolist() for call, ids in {list(zip(calls, ids, strict=True))}]\n"
        "assert not [m for m in sys.modules if m.split('.')[0] == 'nanochat']\n"
        "print(json.dumps(logits))"
    )
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for model, found in zip(models.values(), json.loads(done.stdout), strict=True):
        np.testing.assert_allclose(found, engine_logits(model, "emma")[1], rtol=0, atol=1e-5)


def test_model_py_is_the_file_of_the_package_in_the_folder_of_the_weights(models):
    path = models["learned"].write_model_py()
    assert path == models["learned"].checkpoint / "model.py"
    assert path.read_bytes() == Path(standalone_model.__file__).read_bytes()
    assert models["learned"].write_model_py() == path  # an identical file stays
    assert nanochat.load(models["learned"].checkpoint).step == models["learned"].step


def test_another_model_py_is_never_overwritten(models, tmp_path):
    (tmp_path / "model.py").write_text("mine = 1\n")
    with pytest.raises(OutputError) as caught:
        models["learned"].write_model_py(tmp_path)
    assert str(caught.value) == f"{tmp_path}/model.py exists and differs; rename or remove it"
    assert (tmp_path / "model.py").read_text() == "mine = 1\n"


def test_a_folder_that_cannot_be_written_to_is_one_clear_line(models, tmp_path):
    with pytest.raises(OutputError) as caught:
        models["learned"].write_model_py(tmp_path / "no")
    assert str(caught.value) == (
        f"cannot write {tmp_path}/no/model.py: No such file or directory; give a folder that can be"
        " written to"
    )


def test_every_option_of_the_model_is_computed_or_does_not_change_the_model():
    model = {name for name, option in options_of(TrainConfig).items() if option.group == "Model"}
    assert model == set(plain_torch.KNOWN) | NOT_OF_THE_NETWORK
    values = {name: known for name, known in plain_torch.KNOWN.items() if known is not None}
    assert values.pop("model_file") == (None,)  # it holds the built-in model alone
    assert values == standalone_model.CHOICES


@pytest.mark.parametrize("call", ["to_torch", "write_model_py"])
@pytest.mark.parametrize("known", [None, ("relu", "gelu")])
def test_an_option_that_the_module_does_not_compute_is_refused_by_name(
    models, monkeypatch, call, known
):
    """As if the option, or one of its values, were new."""
    if known is None:
        monkeypatch.delitem(plain_torch.KNOWN, "activation")
    else:
        monkeypatch.setitem(plain_torch.KNOWN, "activation", known)
    with pytest.raises(UnsupportedOption) as caught:
        getattr(models["everything"], call)()
    rule = (
        "does not support activation relu2"
        if known is None
        else "needs activation relu or gelu, got relu2"
    )
    assert str(caught.value) == f"model.py {rule}; use nanochat.load(...) itself, which computes it"
