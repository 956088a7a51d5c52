"""GGUF files in llama.cpp itself. `pip install llama-cpp-python` builds it from source."""

from __future__ import annotations

import json

import pytest
from exporting.test_tokenizer_json import texts

import nanochat
from nanochat import ExportConfig

pytestmark = pytest.mark.long

CHANGES: dict[str, dict[str, object]] = {
    "char": {},
    "byte": {"tokenizer": "byte"},
    "gpt-2": {"tokenizer": "bpe", "vocab_size": 300, "bpe_pattern": "gpt-2"},
    "llama-bpe": {"tokenizer": "bpe", "vocab_size": 300, "bpe_pattern": "llama-bpe"},
    "one document": {"documents": "file"},
}


@pytest.fixture(scope="module", params=CHANGES)
def run(exportable, tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("llama") / "run"
    config = nanochat.load(exportable["char"]).config
    nanochat.train(config.changed(out=str(folder), **CHANGES[request.param]))
    return folder


@pytest.mark.parametrize("weights", ["f32", "f16", "q8_0"])
def test_the_command_compares_with_llama_cpp(run, cli, weights):
    result = cli("export", str(run), "--to", "gguf", "--weights", weights, "--json")
    assert result.code == 0, result.err
    verified = json.loads(result.out)["verified"]
    assert verified["program"].startswith("llama.cpp (llama-cpp-python ")
    assert verified["tokenizer"] is True
    assert verified["difference"] <= {"f32": 1e-4, "f16": 0.01, "q8_0": 0.2}[weights]


def test_texts_are_split_alike_and_written_alike(run, tmp_path):
    import llama_cpp

    folder = nanochat.export(ExportConfig(run=str(run), to="gguf", out=str(tmp_path / "e"))).folder
    theirs = llama_cpp.Llama(
        str(folder / "model.gguf"), n_ctx=16, verbose=False, type_k=0, type_v=0, flash_attn=False
    )
    model = nanochat.load(run, threads=1)
    bos = [0] if model._start == [0] else []
    known = set(model.tokenizer.characters) if model.tokenizer.kind == "char" else None
    split = 0
    for text in texts(5000, seed=2):
        text = text if known is None else "".join(c for c in text if c in known)
        ids = [*bos, *model.tokenizer.encode(text).tolist()]
        assert theirs.tokenize(text.encode(), add_bos=True, special=False) == ids, text
        split += len(ids) > 1
    assert split > 1000
    prompt = "anna u"
    written = theirs(prompt, max_tokens=8, temperature=0)["choices"][0]["text"]
    assert prompt + written == model.generate(prompt, temperature=0, max_new_tokens=8)
