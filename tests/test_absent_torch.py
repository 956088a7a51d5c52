"""Where torch is not installed: everything but `--mode tensor` works whole, and that says why."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

# Run before anything else in a process: no finder finds torch, as if it were not installed.
HIDE_TORCH = """
import sys


class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == "torch" or name.startswith("torch."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())

import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    None if name.split(".")[0] == "torch" else found(name, package)
)
"""

MISSING = (
    "mode tensor needs torch, which is not installed; pip install 'torch>=2.11,<2.14',"
    " or use mode scalar"
)


@pytest.fixture
def without_torch(python, folder):
    """`python -m nanochat …` where there is no torch; a sitecustomize reaches child processes."""
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(HIDE_TORCH)
    paths = [str(site), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def run(*words):
        return python(*words, env=environment)

    return run


def test_torch_is_hidden_here(without_torch):
    done = without_torch("-c", "import torch")
    assert "ModuleNotFoundError: No module named 'torch'" in done.stderr
    code = "import importlib.util; print(importlib.util.find_spec('torch'))"
    assert without_torch("-c", code).stdout == "None\n"


def test_mode_tensor_says_what_is_missing_and_what_would_work(without_torch, folder):
    for words in (["train", "--mode=tensor"], ["train", "--mode=tensor", "--model-kind=bigram"]):
        done = without_torch("-m", "nanochat", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: {MISSING}\n"
    assert not Path("runs").exists()


def test_mode_auto_takes_the_scalar_engine_and_says_why(without_torch, tiny, flags):
    options = {**tiny(out="run", steps=2), "mode": "auto", "documents": "file"}
    done = without_torch("-m", "nanochat", "train", *flags(**options))
    assert done.returncode == 0, done.stderr
    assert "scalar engine, cpu float64 (torch is not installed)" in done.stderr
    assert "mode=scalar " in done.stdout
    assert json.loads(Path("run/environment.json").read_text())["packages"]["torch"]


def test_the_scalar_engine_trains_samples_scores_resumes_and_ablates(without_torch, tiny, flags):
    def nanochat(*words):
        done = without_torch("-m", "nanochat", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    trained = nanochat("train", *flags(**tiny("mini-gpt", out="run")))
    assert trained.splitlines()[-1] == "run: run"
    assert nanochat("train", "--resume", "--out=run", "--quiet")
    assert nanochat("sample", "--checkpoint=run", "--prompt=an", "--quiet").startswith("an")
    assert nanochat("sample", "--checkpoint=run", "--from-counts", "--quiet")
    assert "loss=" in nanochat("eval", "--checkpoint=run", "--quiet")
    words = flags(**tiny(steps=1, num_samples=0))
    table = nanochat("ablate", *words, "--vary=tie_lm_head=true,false", "--seeds=2", "--jobs=2")
    assert "| tie_lm_head=true | 2 |" in table
    assert "engines: scalar yes, tensor no" in nanochat("info")
    assert "--mode" in nanochat("train", "--help")


def test_counted_ngrams_train_sample_score_resume_and_load_without_importing_torch(python, folder):
    code = """
import sys
import nanochat
from nanochat.cli import main

words = ["train", "names.txt", "--documents=line", "--model-kind=ngram", "--out=run", "--quiet"]
for command in (words, ["train", "--resume", "--out=run", "--quiet"], ["sample", "run", "--quiet"],
                ["eval", "run", "--quiet"], ["runs", "show", "run"]):
    assert main(command) == 0
model = nanochat.load("run")
print(model.generate("an", max_new_tokens=1)[:2], len(model.loss("anna")), model.next_tokens(k=1))
assert "torch" not in sys.modules
"""
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_counted_ngrams_train_where_there_is_no_torch(without_torch, folder):
    words = ("train", "names.txt", "--documents=line", "--model-kind=ngram", "--out=run")
    done = without_torch("-m", "nanochat", *words)
    assert done.returncode == 0, done.stderr
    assert "counted n-grams of order " in done.stderr
    assert done.stdout.splitlines()[-1] == "run: run"


def test_weights_of_the_tensor_engine_are_read_by_the_scalar_one(without_torch, folder, tiny):
    import nanochat

    options = tiny("mini-gpt", mode="tensor", threads=1, out="run", num_samples=0)
    run = nanochat.train(nanochat.TrainConfig(**options))
    done = without_torch("-m", "nanochat", "eval", "--checkpoint=run", "--quiet", "--json")
    assert (done.returncode, done.stderr) == (2, f"error: {MISSING}\n")
    words = ["eval", "--checkpoint=run", "--mode=scalar", "--quiet", "--json"]
    scored = json.loads(without_torch("-m", "nanochat", *words).stdout)
    assert scored["loss"] == pytest.approx(run.metrics["val_loss"], rel=1e-5)


def test_the_api_says_the_same(without_torch):
    code = (
        "import nanochat\n"
        "assert nanochat.TrainConfig().mode == 'scalar'\n"
        "try: nanochat.train(nanochat.TrainConfig(mode='tensor'))\n"
        "except nanochat.NanochatError as error: print(type(error).__name__, error)\n"
    )
    assert without_torch("-c", code).stdout == f"MissingDependency {MISSING}\n"


def test_a_scalar_model_loads_in_python_and_to_torch_says_what_is_missing(without_torch, tiny):
    import nanochat

    nanochat.train(nanochat.TrainConfig(**tiny("mini-gpt", out="run", num_samples=0)))
    code = (
        "import nanochat\n"
        "model = nanochat.load('run')\n"
        "print(model.generate('an', max_new_tokens=1)[:2], len(model.loss('anna')))\n"
        "print(model.write_model_py().name)\n"
        "for call in (model.to_torch, lambda: nanochat.load('run', mode='tensor')):\n"
        "    try: call()\n"
        "    except nanochat.NanochatError as error: print(type(error).__name__, error)\n"
    )
    done = without_torch("-c", code)
    assert done.stdout.splitlines() == [
        "an 5", "model.py",
        "MissingDependency to_torch needs torch, which is not installed; pip install"
        " 'torch>=2.11,<2.14'",
        f"MissingDependency {MISSING}",
    ], done.stderr  # fmt: skip
