"""Bad input through the command line: one clear line, exit code 1 or 2, and no file changed.

Covers every mistake with a file, a folder or a text, and raises each error class through a real
command. Numbers out of range are in config/test_options.py.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from commands.run_files import rewrite
from error_classes import error_classes

import nanochat
from nanochat import errors, native
from nanochat.data.sources.decoding import utf8
from nanochat.data.sources.records import Wanted, read_parquet
from nanochat.data.tokenizer import CharTokenizer
from nanochat.exporting.network import Network, Run
from nanochat.exporting.verification import verify
from nanochat.sampling.count_bigram import CountBigram
from nanochat.sampling.draw import draw

EMPTY = "dataset must contain at least one token pair"


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def write(path: str, content: bytes) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content)


CORPORA = [
    ("no.txt", {}, "no such file or folder: no.txt"),
    ("empty.txt", {"empty.txt": b""}, "empty.txt contains no text; give a text of at least one character"),
    ("texts", {"texts/.hidden": b"x"}, "texts contains no text that can be read; skipped 1 hidden file"),
    ("a.bin", {"a.bin": b"ab\0cd"}, "a.bin is not text: NUL at byte 2; give UTF-8 text"),
    ("a.txt", {"a.txt": b"ab\xffcd"},
     "a.txt is not UTF-8: byte 0xff at byte 2; convert it, for example with iconv -f latin1 -t utf-8"),
    ("texts", {"texts/c.txt": "é".encode("latin-1")},
     "texts contains no text that can be read; skipped 1 file that is not UTF-8"),
    ("a.jsonl", {"a.jsonl": b'{"text": "a"}\n{"txt": "b"}'},
     "a.jsonl line 2 must have a column text or content or messages, got txt; choose one with"
     " --text-column"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "files", "message"), CORPORA, ids=[c[2][:40] for c in CORPORA])
@pytest.mark.parametrize("command", ["train", "eval"])
def test_a_text_that_cannot_be_read_is_one_clear_line(
    command, data, files, message, folder, refused, tiny, flags, trained_gpt
):
    for path, content in files.items():
        write(path, content)
    before = snapshot(folder)
    if command == "eval":
        words = [f"--checkpoint={trained_gpt.path}", f"--data={data}", "--documents=file"]
    else:
        words = flags(**tiny(data=data, documents="file"))
    assert refused(command, *words, "--quiet") == message
    assert snapshot(folder) == before
    assert not Path("runs").exists()


def test_an_ablation_of_a_text_that_cannot_be_read_fails_in_one_line(folder, cli, tiny, flags):
    words = [*flags(**tiny(data="no.txt")), "--vary=tie_lm_head=true", "--seeds=1", "--quiet"]
    result = cli("ablate", *words)
    assert result.code == 1
    assert result.err == (
        "error: 1 of 1 run failed, the first: tie_lm_head=true,seed=1337: no such file or folder:"
        " no.txt; mend the cause and run the same command again\n"
    )


@pytest.mark.parametrize("content", ["a", "aaaaaaaaaaaaaaaa", "ab", "\n", " "])
@pytest.mark.parametrize("batching", ["windows", "packed", "documents"])
@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_the_shortest_texts_are_trained_on(content, batching, mode, folder, cli, tiny, flags):
    write("a.txt", content.encode())
    options = tiny(data="a.txt", documents="file", batching=batching, mode=mode, out="run",
                   steps=2)  # fmt: skip
    result = cli("train", *flags(**options))
    assert result.code == 0, result.err
    metrics = json.loads(Path("run/result.json").read_text())
    assert math.isfinite(metrics["val_loss"])
    assert ("warning: " in result.err) == (metrics["val_source"] == "train")


def test_a_missing_registry_dataset_names_the_places_searched(folder, refused, monkeypatch):
    import pooch

    def offline(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(pooch, "retrieve", offline)
    monkeypatch.setenv("NCLAB_CACHE", str(folder / "cache"))
    message = refused("train", "--data=shakespeare", f"--data-dir={folder}", "--quiet")
    assert message == (
        f"data shakespeare is not on this machine: it is not in data_dir {folder}, it is not in"
        f" the cache {folder / 'cache'}, and its download failed (ConnectionError); put"
        " https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
        " into a folder and name the folder with --data-dir or NCLAB_DATA_DIR"
    )


def test_paths_that_are_not_text_are_refused_by_name(refused, folder):
    surrogate = os.fsdecode(b"caf\xe9.txt")
    for option in ("data", "out", "data-dir"):
        message = refused("train", f"--{option}={surrogate}", "--quiet")
        name = option.replace("-", "_")
        assert message.startswith(f"{name} must be Unicode text without NUL, got caf")


# ------------------------------------------------------------ every error class, once on a real path


def test_every_public_error_class_is_listed():
    public = {kind.__name__ for kind in error_classes() if kind.__module__ == errors.__name__}
    assert public == set(errors.__all__) - {"NanochatError"}


def of_another_version(run: Path) -> str:
    """Copy a checkpoint and give its config an option that this version does not know."""
    checkpoint = max((run / "checkpoints").glob("step-*"))
    copied = Path("other", checkpoint.name)
    shutil.copytree(checkpoint, copied)
    config = json.loads((copied / "config.json").read_text(encoding="utf-8"))
    rewrite(copied, "config.json", {**config, "n_experts": 3})
    return str(copied)


def test_every_error_class_is_raised_on_a_real_path(folder, tiny, trained, monkeypatch, stop_after):
    """The exact words are pinned in the tests of the file that raises the error."""
    train, sample = nanochat.train, nanochat.sample
    write("empty.txt", b"")
    config, checkpoint = nanochat.TrainConfig, str(trained.path)
    overflow = {"lr": 1e4, "optimizer": "sgd", "dtype": "float32", "input_rmsnorm": False,
                "lr_schedule": "constant", "steps": 99}  # fmt: skip
    ways = {
        "ConfigError": lambda: config(steps=-1),
        "UnsupportedOption": lambda: config(mode="scalar", dropout=0.1),
        "UnsupportedModelKind": lambda: config(preset="mini", model_kind="bigram"),
        "UnsupportedDevice": lambda: config(mode="scalar", device="cuda"),
        "UnsupportedDtype": lambda: config(mode="scalar", dtype="bfloat16"),
        "UnsupportedOptimizer": lambda: config(mode="scalar", optimizer="muon"),
        "UnsupportedActivation": lambda: config(model_kind="bigram", activation="relu2"),
        "MissingDependency": lambda: train(config(**tiny(data="a.parquet"))),
        "KernelError": lambda: native.take_buffer(-1),
        "LogitsError": lambda: draw(np.full((1, 2), np.nan), np.zeros(1, np.uint64)),
        "ProgramError": lambda: nanochat.compile(lambda tokens: [], []),
        "CorpusError": lambda: train(config(**tiny(data="empty.txt"))),
        "OtherVersion": lambda: sample(
            nanochat.SampleConfig(checkpoint=of_another_version(trained.path))
        ),
        "NotFound": lambda: train(config(**tiny(data="no.txt"))),
        # Folders count these two; other commands raise their base classes.
        "Unreadable": lambda: list(utf8([b"\xff"], "a.txt")),
        "MissingReader": lambda: list(read_parquet(io.BytesIO(b"PAR1"), "a.parquet", Wanted(None))),
        "TooShort": lambda: train(
            config(data="names.txt", time_budget="1s", preset="pico"), elapsed_s=1e6
        ),
        "TokenizerError": lambda: sample(nanochat.SampleConfig(checkpoint=checkpoint, prompt="Z")),
        "PromptTooLong": lambda: sample(
            nanochat.SampleConfig(checkpoint=checkpoint, prompt="a" * 99)
        ),
        "ExportError": lambda: verify(
            lambda *_: Run(program="x", logits=np.full((1, 1, 2), np.nan), ids=None),
            Path("."),
            Network(
                name="a",
                config=config(),
                weights={},
                tokenizer=CharTokenizer("a"),
                opens_with_bos=True,
            ),
            CountBigram(np.ones((2, 2), np.int64)),
            np.zeros((1, 1), np.int64),
            rounded=False,
        ),
        "OutputError": lambda: train(config(**tiny(out="names.txt"))),
        "CheckpointError": lambda: sample(nanochat.SampleConfig(checkpoint="no")),
        "NonFiniteStep": lambda: train(config(**tiny(**overflow))),
        "MemoryDrift": lambda: train(config(**tiny(memory_drift=1e-9))),
        "AblationError": lambda: nanochat.ablate(
            nanochat.AblateConfig(vary=("tie_lm_head=true",), seeds=1), tiny(data="no.txt")
        ),
        "RunInterrupted": lambda: stop_after(2) or train(config(**tiny())),
        "ProcessGroupError": lambda: alone_of_two(),
        "ModelFileError": lambda: (
            write("my.py", b"1 / 0\n") or train(config(**tiny("mini-gpt", model_file="my.py")))
        ),
        "OutOfMemory": lambda: starve() or train(config(**tiny(mode="tensor", threads=1))),
    }

    def alone_of_two():
        group = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}
        with monkeypatch.context() as patch:
            for name, value in group.items():
                patch.setenv(name, value)
            train(config(**tiny(mode="tensor", threads=1)))

    def starve():
        def no_memory(*arguments, **options):
            raise MemoryError

        monkeypatch.setattr("nanochat.tensor.engine.TensorEngine._accumulate", no_memory)

    kinds = {kind.__name__: kind for kind in error_classes()}
    assert set(ways) == set(kinds)
    write("a.parquet", b"PAR1")
    monkeypatch.setattr("nanochat.training.guards.DRIFT_BYTES", -1)
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # not installed
    for name, way in ways.items():
        with pytest.raises(errors.NanochatError) as caught:
            way()
        assert type(caught.value) is kinds[name], (name, caught.value)
        message = str(caught.value)
        assert message and "\n" not in message
        assert message[0] != message[0].upper() or not message[0].isalpha()
        assert not message.endswith(".")


def test_memory_that_grows_ends_a_run_in_words(folder, refused, tiny, flags, monkeypatch):
    monkeypatch.setattr("nanochat.training.guards.DRIFT_BYTES", -1)
    message = refused("train", *flags(**tiny(out="run", memory_drift=1e-9)), "--quiet", code=1)
    assert re.fullmatch(
        r"resident memory must stay within 1e-09 times its lowest of the last \d evaluations?,"
        r" \d+ MiB, got \d+ MiB; raise memory_drift, or set it to 0 to turn this check off",
        message,
    )
    assert nanochat.train(nanochat.TrainConfig(resume=True, out="run", memory_drift=0)).samples


def test_a_model_too_large_for_the_machine_is_refused_before_it_is_built(refused, folder):
    words = ["--mode=scalar", "--n-layer=256", "--n-embd=65536", "--n-head=1", "--quiet"]
    message = refused("train", *words)
    assert re.fullmatch(
        r"model needs \d+\.\d GiB for weights, gradients and optimizer state, \d+\.\d GiB are"
        r" available; lower n_embd or n_layer",
        message,
    )
    assert not Path("runs").exists()


def test_a_batch_too_large_for_the_machine_is_one_clear_line(refused, folder, tiny, flags):
    options = tiny(batch_size=1 << 20, block_size=1 << 20, data="long.txt", documents="file",
                   batching="windows", mode="tensor", device="cpu")  # fmt: skip
    write("long.txt", b"ab" * (1 << 20))
    assert refused("train", *flags(**options), "--quiet", code=1) == (
        "not enough memory; lower batch_size, block_size, n_embd or num_samples"
    )


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("train", "TrainConfig"),
        ("sample", "SampleConfig"),
        ("evaluate", "EvalConfig"),
        ("inspect", "InspectConfig"),
        ("ablate", "AblateConfig"),
        ("serve", "ServeConfig"),
    ],
)
def test_a_command_takes_its_own_kind_of_config_only(folder, command, kind):
    for wrong in ([("steps", 5)], 5, nanochat.errors):
        with pytest.raises(
            nanochat.NanochatError, match=f"^config must be a {kind} or a dict of its options, got "
        ):
            getattr(nanochat, command)(wrong)
    for name, near in (("threats", " (did you mean 'threads'?)"), (5, "")):
        near = "" if command == "ablate" else near
        with pytest.raises(nanochat.NanochatError) as caught:
            getattr(nanochat, command)({name: 1})
        assert str(caught.value) == f"{name} is not an option of {kind}{near}"


def test_a_misspelt_option_of_the_runs_of_an_ablation_is_suggested(folder):
    with pytest.raises(
        nanochat.NanochatError,
        match=r"^unknown option stepz of the runs \(did you mean 'steps'\?\)",
    ):
        nanochat.ablate(nanochat.AblateConfig(seeds=1), {"stepz": 1})
