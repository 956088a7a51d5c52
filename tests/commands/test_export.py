"""nanochat export: what it prints, writes, compares and refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from nonempty import nonempty

import nanochat
from nanochat import ExportConfig
from nanochat.errors import ExportError
from nanochat.exporting import torch_files


@pytest.fixture
def run(folder, tiny):
    """Train a run in runs/a that every format can express, or one with other options."""

    def train(**options):
        portable = {
            "positions": "rope", "activation": "relu2", "qk_norm": True, "input_rmsnorm": True,
            "output_rmsnorm": True, "ngram_order": 0, "num_samples": 0, "out": "runs/a",
        }  # fmt: skip
        given = tiny(model_kind="mini-gpt", **{**portable, **options})
        nanochat.train(nanochat.TrainConfig(**given))
        return "runs/a"

    return train


@pytest.mark.parametrize("to", ["hf", "gguf", "onnx", "torch", "c"])
def test_an_export_says_what_was_compared(run, cli, to):
    result = cli("export", run(), "--to", to)
    assert result.code == 0, result.err
    verified, difference, files = result.out.splitlines()
    assert verified.startswith("verified with ")
    assert verified.endswith(" tokens:")
    assert float(difference.split()[-1]) <= 1e-4
    if to != "gguf":  # which llama.cpp reads, where it is installed
        assert ("the same tokens" in difference) == (to == "hf")
    assert files == f"files: runs/a/export/{to}"
    assert max(map(len, result.out.splitlines())) <= 80


def test_the_record_has_the_files_and_the_difference(run, cli):
    record = json.loads(cli("export", run(), "--to", "torch", "--json").out)
    assert record["folder"] == "runs/a/export/torch"
    assert record["files"] == ["config.json", "model.py", "model.safetensors", "tokenizer.json"]
    assert 0 <= record["verified"]["difference"] <= 1e-4
    assert record["loss"] is record["mixture_loss"] is None
    assert record["verified"]["tokenizer"] is False


REFUSED = {
    "hf": {
        "positions": ("learned", "hf needs positions rope, got learned"),
        "qk_norm": (False, "hf needs qk_norm true, got false"),
        "input_rmsnorm": (False, "hf needs input_rmsnorm true, got false"),
        "output_rmsnorm": (False, "hf needs output_rmsnorm true, got false"),
    },
    "gguf": {
        "activation": ("relu", "gguf needs activation relu2, got relu"),
        "logit_softcap": (5.0, "gguf needs logit_softcap 0, got 5.0"),
        "output_rmsnorm": (False, "gguf needs output_rmsnorm true, got false"),
    },
}


@pytest.mark.parametrize(
    ("to", "option"), [(to, option) for to, options in REFUSED.items() for option in options]
)
def test_what_a_format_cannot_express_is_refused_by_name(run, cli, to, option):
    value, rule = REFUSED[to][option]
    result = cli("export", run(**{option: value}), "--to", to)
    assert result.code == 2
    assert result.err == (f"error: {rule}; train with --portable, or export to another format\n")


@pytest.mark.parametrize("to", ["hf", "gguf", "onnx"])
@pytest.mark.parametrize("option", ["prev_token_tables", "hash_embed_rows"])
def test_tables_of_n_grams_are_refused(run, cli, to, option):
    result = cli("export", run(mode="tensor", threads=1, **{option: 2}), "--to", to)
    assert result.code == 2
    assert result.err.startswith(f"error: {to} needs {option} 0, got 2; ")


@pytest.mark.parametrize("to", ["gguf", "onnx"])
def test_a_network_without_blocks_is_refused(run, cli, to):
    """llama.cpp ends the process that opens such a file."""
    result = cli("export", run(n_layer=0), "--to", to)
    assert (result.code, result.err) == (
        2, f"error: {to} needs n_layer of at least 1, got 0; export to another format\n",
    )  # fmt: skip


def test_onnxruntime_has_no_warnings(run, folder, tiny, capfd):
    options = tiny("bigram", out="runs/b", num_samples=0, ngram_order=0)
    nanochat.train(nanochat.TrainConfig(**options))
    for name in (run(), "runs/b"):
        nanochat.export(ExportConfig(run=name, to="onnx"))
    assert capfd.readouterr() == ("", "")


def test_a_bigram_and_counts_alone_are_refused(folder, tiny, cli):
    nanochat.train(
        nanochat.TrainConfig(**tiny("bigram", out="runs/b", num_samples=0, ngram_order=0))
    )
    nanochat.train(
        nanochat.TrainConfig(model_kind="ngram", data="names.txt", documents="line", out="runs/n")
    )
    bigram = cli("export", "runs/b")
    assert bigram.code == 2
    assert bigram.err.startswith("error: hf needs model_kind mini-gpt, got bigram; ")
    counts = cli("export", "runs/n")
    assert counts.code == 2
    assert counts.err.startswith("error: export needs a model with a network, got runs/n/")
    assert counts.err.endswith(", whose model_kind is ngram; train one with --portable\n")


def test_a_model_of_ones_own_is_refused(run, cli, folder):
    (folder / "own.py").write_text(
        "from nanochat.scalar.minigpt import MiniGPT\n\n\nclass ScalarModel(MiniGPT):\n    pass\n"
    )
    result = cli("export", run(model_file="own.py"), "--to", "torch")
    assert (result.code, result.err) == (
        2, "error: export does not support model_file own.py, whose code no other program has;"
        " train without it\n",
    )  # fmt: skip


def test_counts_are_left_out_only_on_request_and_with_their_worth(run, cli):
    run(ngram_order=3)
    refused = cli("export", "runs/a", "--to", "torch")
    assert (refused.code, refused.err) == (
        2,
        "error: torch holds no counted n-grams, got a model with ngram_order 3; add --network-only"
        " to export its network alone\n",
    )
    result = cli("export", "runs/a", "--to", "torch", "--network-only")
    scores = nanochat.evaluate(nanochat.EvalConfig(run="runs/a", network_only=True))
    assert (
        f"network alone: {scores.loss:.4f} nats per token; with its counts:"
        f" {scores.mixture_loss:.4f}" in result.out.splitlines()
    )


def test_network_only_needs_counts(run, cli):
    result = cli("export", run(), "--network-only")
    assert result.code == 2
    assert "network_only needs a model with counts" in result.err


def test_files_that_compute_something_else_are_not_kept(run, monkeypatch):
    run()
    kept = nanochat.export(ExportConfig(run="runs/a", to="torch")).folder
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    module_text = torch_files.module_text()
    monkeypatch.setattr(
        torch_files, "module_text", lambda: module_text.replace("eps=1e-5", "eps=0.1")
    )
    with pytest.raises(ExportError) as caught:
        nanochat.export(ExportConfig(run="runs/a", to="torch"))
    assert str(caught.value).endswith(", where 0.0001 is allowed; nothing was kept")
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
    assert [path.name for path in kept.parent.iterdir()] == ["torch"]


def test_a_failure_of_the_other_program_is_told(run, cli, monkeypatch):
    """Also one that is an OSError, as those of transformers are: it has nothing to do with out."""
    monkeypatch.setattr(
        torch_files, "module_text", lambda: "raise OSError('no such model\\nat all')"
    )
    result = cli("export", run(), "--to", "torch", "--out", "mine")
    assert (result.code, result.err) == (
        1, "error: the other program fails with the files: OSError: no such model; nothing was kept,"
        " --no-verify keeps them\n",
    )  # fmt: skip


def test_an_interrupt_leaves_the_earlier_export(run, cli, folder, monkeypatch):
    run()
    assert cli("export", "runs/a", "--to", "torch", "--out", "mine/e").code == 0
    before = {path.name: path.read_bytes() for path in (folder / "mine" / "e").iterdir()}
    rename, calls = Path.rename, []

    def interrupted(path, target):
        if path.suffix == ".tmp":
            calls.append(path)
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    assert cli("export", "runs/a", "--to", "onnx", "--out", "mine/e").code == 130
    assert len(calls) == 1
    assert [path.name for path in (folder / "mine").iterdir()] == ["e"]
    after = {path.name: path.read_bytes() for path in (folder / "mine" / "e").iterdir()}
    assert after == before


def test_out_may_be_a_link_but_not_the_current_folder(run, cli, folder, monkeypatch):
    run()
    (folder / "disk").mkdir()
    (folder / "link").symlink_to("disk")
    for _ in range(2):
        result = cli("export", "runs/a", "--to", "torch", "--out", "link")
        assert result.out.endswith("\nfiles: link\n")
        assert (folder / "link").is_symlink()
        assert (folder / "disk" / "model.py").is_file()
    (folder / "disk" / "below").mkdir()
    monkeypatch.chdir(folder / "disk" / "below")
    for out in (".", "..", "../../link"):
        assert cli("export", str(folder / "runs/a"), "--to", "torch", "--out", out).err == (
            f"error: out {out} must not be or contain the current folder; choose another out\n"
        )


def test_an_earlier_export_is_replaced_and_nothing_else(run, cli, folder):
    run()
    assert cli("export", "runs/a", "--to", "torch", "--out", "mine").code == 0
    assert cli("export", "runs/a", "--to", "onnx", "--out", "mine").code == 0
    assert sorted(path.name for path in (folder / "mine").iterdir()) == [
        "export.json", "model.onnx", "tokenizer.json",
    ]  # fmt: skip
    (folder / "other").mkdir()
    (folder / "other" / "thesis.txt").write_text("x")
    for name in ("other", "other/thesis.txt", "runs/a"):
        result = cli("export", "runs/a", "--to", "torch", "--out", name)
        assert (result.code, result.err) == (
            1, f"error: out {name} exists and is not an earlier export; remove it or choose another out\n",
        )  # fmt: skip


def test_without_its_text_the_network_writes_one(run, cli, folder):
    name = nanochat.load(run()).config.data[0]
    (folder / name).unlink()
    result = cli("export", "runs/a", "--to", "torch")
    assert result.code == 0
    assert "verifying a text that the network writes" in result.err
    assert float(result.out.splitlines()[1].split()[-1]) <= 1e-4


@pytest.mark.parametrize(
    ("to", "package"), [("hf", "transformers"), ("gguf", "gguf"), ("onnx", "onnx")]
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    run, cli, monkeypatch, to, package
):
    monkeypatch.setitem(sys.modules, package, None)
    result = cli("export", run(), "--to", to)
    assert result.code == 2
    assert f"pip install 'nanochat-lab[{to}]'" in result.err
    assert package in result.err
    if to == "hf":  # needed to verify alone
        assert cli("export", "runs/a", "--no-verify").code == 0


def test_word_pieces_and_a_large_network_have_no_program_in_c(run, cli, monkeypatch):
    assert cli("export", run(tokenizer="bpe", vocab_size=262), "--to", "c").err == (
        "error: c needs tokenizer char or byte, got bpe; export to another format\n"
    )
    monkeypatch.setattr("nanochat.exporting.c_source.MOST_PARAMETERS", 100)
    refused = cli("export", run(out="runs/b").replace("a", "b"), "--to", "c").err
    assert refused.startswith("error: c needs a network of at most 100 parameters, got ")


def test_a_missing_compiler_is_named(run, cli, monkeypatch):
    run()
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    refused = cli("export", "runs/a", "--to", "c")
    assert (refused.code, refused.err) == (
        2, "error: export to c is verified with a C compiler, and no cc, gcc or clang was found;"
        " install one, or give --no-verify\n",
    )  # fmt: skip
    assert cli("export", "runs/a", "--to", "c", "--no-verify").code == 0
    monkeypatch.setenv("CC", "missing-cc -O2")
    assert cli("export", "runs/a", "--to", "c").err == (
        "error: export to c is verified with a C compiler, and no missing-cc, which the variable CC"
        " names, was found; install one, or give --no-verify\n"
    )


def test_weights_of_fewer_bits_need_gguf(run, cli):
    result = cli("export", run(), "--to", "onnx", "--weights", "f16")
    assert (result.code, result.err) == (
        2, "error: weights f16 needs to gguf, got to onnx; leave weights out\n",
    )  # fmt: skip
    refused = cli("export", "runs/a", "--to", "gguf", "--weights", "q8_0")
    size = nanochat.load("runs/a").config.n_embd
    assert refused.err == (
        f"error: weights q8_0 needs n_embd to be a multiple of 32, got {size}; give --weights f16\n"
    )


def test_a_run_in_bfloat16_is_compared_in_float32(run):
    result = nanochat.export(
        ExportConfig(run=run(mode="tensor", threads=1, dtype="bfloat16"), to="torch")
    )
    assert result.verified is not None
    assert result.verified.difference <= 1e-4


def test_the_average_of_the_weights_is_exported(run):
    run(ema=0.5)
    result = nanochat.export(ExportConfig(run="runs/a", to="torch"))
    from safetensors.numpy import load_file

    theirs = load_file(result.folder / "model.safetensors")
    for name, ours in nonempty(nanochat.load("runs/a").weights.items()):
        np.testing.assert_array_equal(theirs[name], ours.astype(np.float32))
