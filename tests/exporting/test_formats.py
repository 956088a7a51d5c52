"""The files of each format, loaded in the program that they are for."""

from __future__ import annotations

import json
import subprocess
import sys

import gguf
import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from nonempty import nonempty

import nanochat
from nanochat import ExportConfig
from nanochat.exporting import gguf_file

OURS = ("char", "byte", "bpe", "scalar", "one document")
TOLERANCE = {"atol": 1e-4, "rtol": 0}


def exported(run, to, tmp_path, **options):
    """Export without the command's own comparison."""
    out = tmp_path / f"{run.name}-{to}"
    return nanochat.export(
        ExportConfig(run=str(run), to=to, out=str(out), verify=False, **options)
    ).folder


def our_logits(run, rows):  # (rows, length) -> (rows, length, vocabulary)
    decoder = nanochat.load(run, threads=1)._engine.open_decoder([row[:1] for row in rows])
    found = [decoder.logits.copy()]
    for column in np.transpose(rows)[1:]:
        decoder.advance(column.tolist())
        found.append(decoder.logits.copy())
    return np.stack(found, axis=1)


def some_rows(run, count, length, seed=0):
    size = nanochat.load(run).tokenizer.vocab_size
    return np.random.default_rng(seed).integers(0, size, (count, length)).tolist()


@pytest.mark.parametrize("name", OURS)
def test_transformers_computes_the_same_and_writes_the_same_text(exportable, name, tmp_path):
    run = exportable[name]
    folder = exported(run, "hf", tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(theirs).__name__ == "NanoChatForCausalLM"
    rows = some_rows(run, 3, 16)
    with torch.no_grad():
        np.testing.assert_allclose(
            theirs(torch.tensor(rows)).logits, our_logits(run, rows), **TOLERANCE
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = nanochat.load(run, threads=1)
    prompt = "an"
    ids = tokenizer(prompt, return_tensors="pt")
    written = theirs.generate(**ids, do_sample=False, max_new_tokens=8, use_cache=True)
    text = model.generate(prompt, temperature=0, max_new_tokens=8)
    assert tokenizer.decode(written[0], skip_special_tokens=True) == text


def test_the_name_of_bos_in_a_text_is_text_in_transformers(exportable, tmp_path):
    folder = exported(exportable["byte"], "hf", tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "<|bos|>a"
    assert tokenizer(text)["input_ids"] == [
        0,
        *nanochat.load(exportable["byte"]).tokenizer.encode(text),
    ]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 0)


@pytest.mark.parametrize("name", [*OURS, "learned"])
def test_onnxruntime_computes_the_same_for_prompts_of_any_length(
    exportable, name, tmp_path, learned
):
    """Then token by token with the keys and values that the file returns."""
    run = learned if name == "learned" else exportable[name]
    folder = exported(run, "onnx", tmp_path)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    pasts = session.get_inputs()[1:]
    for batch in (1, 3):
        rows = np.array(some_rows(run, batch, 16))
        ours = our_logits(run, rows.tolist())
        shapes = {p.name: (len(rows), p.shape[1], 0, p.shape[3]) for p in pasts}
        nothing = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        for length in nonempty(range(1, 17)):
            logits, *present = session.run(None, {"tokens": rows[:, :length], **nothing})
            np.testing.assert_allclose(logits, ours[:, :length], **TOLERANCE)
            for at in range(length, min(length + 3, 16)):
                past = {p.name: each for p, each in zip(pasts, present, strict=True)}
                logits, *present = session.run(None, {"tokens": rows[:, at : at + 1], **past})
                np.testing.assert_allclose(logits[:, 0], ours[:, at], **TOLERANCE)


@pytest.fixture(scope="session")
def learned(tmp_path_factory, exportable):
    """A run with learned positions and no norm, which hf and gguf cannot express."""
    folder = tmp_path_factory.mktemp("learned") / "learned"
    config = nanochat.load(exportable["char"]).config
    nanochat.train(
        config.changed(
            out=str(folder), positions="learned", input_rmsnorm=False, output_rmsnorm=False,
            qk_norm=False, activation="relu",
        )
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("name", ["char", "scalar", "one document", "byte relu2"])
def test_the_formulas_of_llama_cpp_give_the_same_from_the_file(exportable, name, tmp_path):
    run = exportable[name.split(" relu2")[0]]
    if name == "byte relu2":
        config = nanochat.load(run).config
        run = tmp_path / "relu2"
        nanochat.train(config.changed(out=str(run), activation="relu2"))
    folder = exported(run, "gguf", tmp_path)
    rows = some_rows(run, 3, 16)
    theirs = gguf_file._by_formulas(folder / "model.gguf", np.array(rows))
    np.testing.assert_allclose(theirs, our_logits(run, rows), **TOLERANCE)


def test_a_gguf_file_says_what_llama_cpp_asks_for(exportable, tmp_path):
    folder = exported(exportable["char"], "gguf", tmp_path)
    fields = gguf.GGUFReader(folder / "model.gguf").fields
    model = nanochat.load(exportable["char"])
    expected = {
        "general.architecture": "apertus", "apertus.context_length": 16,
        "apertus.embedding_length": 32, "apertus.feed_forward_length": 128, "apertus.block_count": 2,
        "apertus.attention.head_count": 2, "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.add_bos_token": True,
    }  # fmt: skip
    assert {name: fields[name].contents() for name in expected} == expected
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == model.tokenizer.vocab_size
    assert tokens[1:3] == ["Ġ", "a"]
    # é is two bytes, which a merge joins.
    assert "Ã ©" in fields["tokenizer.ggml.merges"].contents()
    assert (folder / "Modelfile").read_text() == (
        'FROM ./model.gguf\nTEMPLATE "{{ .Prompt }}"\nPARAMETER num_ctx 16\nPARAMETER stop <|bos|>\n'
    )


@pytest.mark.parametrize(("weights", "kind"), [("f16", "F16"), ("q8_0", "Q8_0")])
def test_rounded_weights_of_a_gguf_file(exportable, weights, kind, tmp_path):
    folder = exported(exportable["char"], "gguf", tmp_path, weights=weights)
    tensors = {t.name: t for t in gguf.GGUFReader(folder / "model.gguf").tensors}
    assert {t.tensor_type.name for t in tensors.values() if len(t.shape) == 2} == {kind}
    assert {t.tensor_type.name for t in tensors.values() if len(t.shape) == 1} == {"F32"}
    head = gguf.quants.dequantize(
        tensors["output.weight"].data, tensors["output.weight"].tensor_type
    )
    ours = nanochat.load(exportable["char"]).weights["lm_head"]
    steps = {"f16": 2**-11, "q8_0": 1 / 254}[weights]  # half a step of a rounded number
    np.testing.assert_allclose(head, ours, atol=steps * np.abs(ours).max() * 1.01, rtol=0)


@pytest.mark.parametrize("name", ["char", "byte", "scalar", "one document", "learned"])
def test_the_program_in_c_computes_the_same_and_writes_the_same_text(
    exportable, learned, name, tmp_path
):
    run = learned if name == "learned" else exportable[name]
    folder = exported(run, "c", tmp_path)
    program = tmp_path / "model"
    subprocess.run(
        ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-O2", folder / "model.c", "-o", program, "-lm"],
        check=True,
    )  # fmt: skip
    rows = some_rows(run, 3, 16)
    lines = "".join(" ".join(map(str, row)) + "\n" for row in rows)
    printed = subprocess.run(
        [program, "--logits"], input=lines, capture_output=True, text=True, check=True
    )
    theirs = np.array(printed.stdout.split(), dtype=float).reshape(3, 16, -1)
    np.testing.assert_allclose(theirs, our_logits(run, rows), **TOLERANCE)
    model = nanochat.load(run, threads=1)
    for prompt in ("an", "", "anna und bob a"):
        text = subprocess.run([program, prompt, "0"], capture_output=True, check=True).stdout
        ours = model.generate(prompt, temperature=0, max_new_tokens=200)
        shown = (
            ours
            if prompt or model._start == [0]
            else ours[len(model.tokenizer.decode(model._start)) :]
        )
        assert text.decode() == f"{shown}\n"
    refused = subprocess.run([program, "anna 9"], capture_output=True, text=True, errors="replace")
    known = name == "byte"
    assert (refused.returncode, refused.stderr) == (
        (0, "") if known
        else (2, "error: the prompt has a character that the model does not know\n")
    )  # fmt: skip
    long = subprocess.run([program, "a" * 16], capture_output=True, text=True)
    assert (long.returncode, long.stderr) == (2, "error: the prompt is longer than the context\n")


def test_the_program_in_c_of_a_scalar_run_trains_on(exportable, tmp_path):
    """To the losses of the engine with the exported weights and a new optimizer."""
    run = exportable["scalar"]
    folder = exported(run, "c", tmp_path)
    program, text = tmp_path / "train", tmp_path / "ids.txt"
    subprocess.run(
        ["cc", "-std=c99", "-O0", "-ffp-contract=off", folder / "train.c", "-o", program, "-lm"],
        check=True,
    )  # fmt: skip
    model = nanochat.load(run)
    ids = [0, *model.tokenizer.encode("anna und bob").tolist(), 0]
    text.write_text(" ".join(map(str, ids)))
    printed = subprocess.run(
        [program, text, "1"], capture_output=True, text=True, check=True
    ).stdout
    loss = float(printed.split()[-1])
    assert loss == pytest.approx(model.loss("anna und bob").mean, rel=1e-4)


# Run in a process where nothing but torch and the standard library can be imported.
TORCH_ALONE = """
import json, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("nanochat", "safetensors", "tokenizers", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import torch
found = []
for folder, rows in json.loads(sys.argv[1]):
    sys.path.insert(0, folder)
    import model
    with torch.no_grad():
        found.append(model.load()(torch.tensor(rows)).tolist())
    sys.path.remove(folder)
    del sys.modules["model"]
print(json.dumps(found))
"""


def test_the_module_in_one_file_needs_torch_alone(exportable, learned, tmp_path):
    """One process for all models: it takes long to start."""
    runs = [*(exportable[name] for name in OURS), learned]
    rows = [some_rows(run, 2, 16) for run in runs]
    given = [[str(exported(run, "torch", tmp_path)), r] for run, r in zip(runs, rows, strict=True)]
    done = subprocess.run(
        [sys.executable, "-c", TORCH_ALONE, json.dumps(given)], capture_output=True, text=True,
        timeout=120, check=True,
    )  # fmt: skip
    for run, r, theirs in nonempty(zip(runs, rows, json.loads(done.stdout), strict=True)):
        np.testing.assert_allclose(theirs, our_logits(run, r), **TOLERANCE)
