"""`--model-file` through every command: training, resuming, and opening a run, which never runs code
by itself."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands.run_files import rewrite
from nonempty import nonempty

import nanochat
from nanochat.errors import CheckpointError, ConfigError, ModelFileError, RunInterrupted
from nanochat.runs.checkpoint import newest_checkpoint

EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"
TORCH = "import torch.nn.functional as F\n"
GATED = (EXAMPLES / "gated_mlp.py").read_text(encoding="utf-8")


@pytest.fixture
def options(folder, tiny):
    """Options of a tiny run with the gated MLP in `my.py`, by engine."""
    (folder / "my.py").write_text(GATED, encoding="utf-8")

    def of(mode: str = "scalar", **changes):
        more = {"dtype": "float64", "device": "cpu"} if mode == "tensor" else {}
        return tiny("mini-gpt", **{
            "mode": mode, "out": "run", "model_file": "my.py", "checkpoint_every": 2, "keep": "all",
            **more, **changes,
        })  # fmt: skip

    return of


@pytest.fixture
def train(options):
    def run(mode: str = "scalar", **changes) -> Path:
        return nanochat.train(nanochat.TrainConfig(**options(mode, **changes))).run

    return run


def weights_of(run: Path) -> dict[str, bytes]:
    state = newest_checkpoint(run / "checkpoints")[0].state
    return {name: array.tobytes() for name, array in {**state.weights, **state.optimizer}.items()}


def best_of(run: Path, folder: str = "run") -> str:
    """The path of the best checkpoint, which every command but --resume opens."""
    step = json.loads((run / "checkpoints" / "best").read_text())["step"]
    return f"{folder}/checkpoints/step-{step:06d}"


def opened_by(command: str, run: Path) -> str:
    return "run/checkpoints/step-000006" if command == "resume" else best_of(run)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --------------------------------------------------------------------------------------- training


def test_a_run_keeps_the_file_its_hash_and_its_new_matrices(train, mode, folder):
    run = train(mode)
    assert (run / "model.py").read_text(encoding="utf-8") == GATED
    assert 'model_file = "my.py"\n' in (run / "config.toml").read_text(encoding="utf-8")
    checkpoint = newest_checkpoint(run / "checkpoints")[0]
    assert checkpoint.config["model_file"] == "my.py"
    assert checkpoint.data["model_file"] == {
        "sha256": sha256(folder / "my.py"), "parameters": {"layer0.mlp_gate": [16, 4]},
    }  # fmt: skip
    assert checkpoint.state.weights["layer0.mlp_gate"].shape == (16, 4)
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert result["params"] == sum(array.size for array in checkpoint.state.weights.values())
    assert result["backend"] == {"scalar": "cpp-program", "tensor": "torch"}[mode]


def test_training_says_that_the_model_is_the_users_own(options, cli, flags):
    printed = cli("train", *flags(**options()))
    assert printed.code == 0, printed.err
    assert "the model is that of my.py, in plain scalars\n" in printed.err


def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(train, mode, stop_after):
    whole = weights_of(train(mode, out="whole"))
    stop_after(4)
    with pytest.raises(nanochat.errors.RunInterrupted):
        train(mode, out="cut")
    stop_after(1000)
    nanochat.train({"out": "cut", "resume": True, "model_file": "cut/model.py"})
    assert weights_of(Path("cut")) == whole


def test_mode_auto_takes_the_engine_that_the_file_has(options, folder):
    for name, mode in (("tensor.model", "tensor"), ("scalar.minigpt", "scalar")):
        kind = f"{mode.capitalize()}Model"
        (folder / "my.py").write_text(f"from nanochat.{name} import MiniGPT as {kind}\n")
        given = {k: v for k, v in options().items() if k != "mode"}
        run = nanochat.train(nanochat.TrainConfig(**{**given, "out": mode}))
        assert run.metrics["mode"] == mode


def test_an_engine_that_the_file_has_not_is_refused_before_the_text_is_read(
    options, folder, refused, flags
):
    (folder / "my.py").write_text("from nanochat.scalar.minigpt import MiniGPT as ScalarModel\n")
    (folder / "names.txt").unlink()
    assert refused("train", *flags(**options("tensor"))) == (
        "model_file my.py must define TensorModel for mode tensor, got only ScalarModel; define it,"
        " or use mode scalar"
    )


def test_a_time_budget_times_the_users_model(options, folder):
    (folder / "my.py").write_text(GATED.partition("class TensorBlock")[0].replace(TORCH, ""))
    given = options(num_samples=0)
    for name in ("steps", "eval_every", "checkpoint_every"):
        del given[name]
    run = nanochat.train(nanochat.TrainConfig(**given, time_budget="10s"))
    assert "layer0.mlp_gate" in newest_checkpoint(run.run / "checkpoints")[0].state.weights


def test_a_fault_shows_the_users_lines_and_one_line_of_error(options, folder, cli, flags):
    (folder / "my.py").write_text(
        "from nanochat.scalar.minigpt import Block, MiniGPT\n"
        "class Own(Block):\n"
        "    def mlp(self, x):\n"
        "        return [h.gelu() for h in x]\n"
        "class ScalarModel(MiniGPT):\n"
        "    block = Own\n"
    )
    printed = cli("train", "--quiet", *flags(**options()))
    assert (printed.code, printed.out) == (1, "")
    what = "AttributeError: 'nanochat._scalar.Value' object has no attribute 'gelu'"
    lines = printed.err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1:3] == ['  File "my.py", line 4, in mlp', "    return [h.gelu() for h in x]"]
    assert lines[-2:] == [what, f"error: my.py, line 4: {what}"]
    assert "nanochat/" not in printed.err
    with pytest.raises(ModelFileError) as caught:
        nanochat.train(nanochat.TrainConfig(**options()))
    assert isinstance(caught.value.__cause__, AttributeError)


def test_a_file_that_ends_the_program_is_one_line_of_error(options, folder, cli, flags):
    (folder / "my.py").write_text("import sys\n\nsys.exit()\n")
    printed = cli("train", *flags(**options()))
    assert (printed.code, printed.out) == (1, "")
    assert printed.err.splitlines()[-1] == (
        "error: my.py, line 3: a model file must not end the program, got SystemExit; raise an"
        " error"
    )


def test_prints_of_a_file_leave_the_results_alone(options, folder, cli, flags, mode):
    (folder / "my.py").write_text(
        f"print('imported')  # {mode}: a text that this process has not imported yet\n"
        + GATED.replace(
            "        see, weights = self.see, self.weights\n",
            "        print('forward')\n        see, weights = self.see, self.weights\n",
        )
    )
    trained = cli("train", "--json", "--quiet", *flags(**options(mode)))
    assert trained.code == 0, trained.err
    assert json.loads(trained.out)["metrics"]["steps"] == 6
    assert set(trained.err.splitlines()) == {"imported", "forward"}
    for command in (["sample"], ["eval", "--data=names.txt"], ["inspect", "--text=anna"]):
        printed = cli(*command, "run", "--model-file=my.py", "--json", "--quiet")
        assert printed.code == 0, printed.err
        assert isinstance(json.loads(printed.out), dict)
        assert "forward" in printed.err.splitlines()


def test_a_config_file_alone_runs_no_code(options, folder, refused, cli, train):
    run = train()
    (folder / "my.py").write_text("import pathlib\npathlib.Path('ran').touch()\n" + GATED)
    words = ["train", "--config=run/config.toml", "--out=again"]
    assert refused(*words) == (
        "model_file my.py of config file run/config.toml is code; if you trust it, add --model-file"
        " my.py"
    )
    assert not (folder / "ran").exists()
    again = cli(*words, "--model-file=run/model.py")
    assert again.code == 0, again.err
    assert weights_of(Path("again")) == weights_of(run)


def test_the_way_on_after_a_stop_names_the_file(train, stop_after):
    stop_after(1)
    with pytest.raises(RunInterrupted) as caught:
        train()
    assert str(caught.value).endswith(
        "resume with: nanochat train --resume --out run --model-file my.py"
    )


def test_an_ablation_in_a_config_file_alone_runs_no_code(folder, refused):
    (folder / "my.py").write_text("import pathlib\npathlib.Path('ran').touch()\n" + GATED)
    (folder / "grid.toml").write_text('vary = ["lr=0.1,0.2", "model_file = my.py"]\n')
    assert refused("ablate", "--config=grid.toml", "--data=names.txt") == (
        "vary model_file = my.py of config file grid.toml is code; if you trust it, add --vary"
        " 'model_file = my.py'"
    )
    assert not (folder / "ran").exists()


def test_the_command_to_copy_is_quoted(train, folder, refused):
    """A checkpoint may come from somebody else."""
    run = train()
    (run / "model.py").unlink()
    for name, shown in (("x; touch pwned", "'x; touch pwned'"), ("x" * 500, "FILE")):
        for step in nonempty((run / "checkpoints").glob("step-*")):
            record = json.loads((step / "config.json").read_bytes())
            rewrite(step, "config.json", {**record, "model_file": name})
        assert refused("sample", str(run), code=1).endswith(
            f"is code; if you trust it, add --model-file {shown}"
        )


# ------------------------------------------------------------------------------------ opening runs


@pytest.fixture
def hostile(train, folder):
    """A run whose recorded file, and whose copy of it, would leave a file `ran`."""
    run = train()
    code = "import pathlib\npathlib.Path('ran').touch()\n"
    (folder / "my.py").write_text(code + GATED)
    (run / "model.py").write_text(code + GATED)
    return run


OPENING = {
    "sample": ["sample", "run"],
    "eval": ["eval", "run", "--data=names.txt"],
    "inspect": ["inspect", "run", "--text=anna"],
    "resume": ["train", "--resume", "--out=run"],
    "init_from": ["train", "--init-from=run"],
    "final_on_all": ["train", "--final-on-all=run"],
}


@pytest.mark.parametrize("command", OPENING)
def test_no_command_runs_code_that_a_run_names(command, hostile, folder, refused):
    assert refused(*OPENING[command], "--quiet", code=1) == (
        f"{opened_by(command, hostile)} uses the model in my.py, which is code; if you trust it, add"
        " --model-file run/model.py"
    )
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("command", OPENING)
def test_no_command_runs_another_file_than_that_of_the_training(command, hostile, folder, refused):
    kept, now = sha256(EXAMPLES / "gated_mlp.py"), sha256(folder / "my.py")
    assert refused(*OPENING[command], "--quiet", "--model-file=run/model.py") == (
        f"model_file run/model.py must be the file that {opened_by(command, hostile)} was trained"
        f" with (SHA-256 {kept[:12]}…), got {now[:12]}…; name that file, or train a new run with this one"
    )
    assert not (folder / "ran").exists()


def test_the_python_api_runs_no_code_that_a_run_names(hostile, folder):
    with pytest.raises(CheckpointError, match="is code; if you trust it, add --model-file"):
        nanochat.load("run")
    with pytest.raises(ConfigError, match="must be the file that run/checkpoints/step-0"):
        nanochat.load("run", model_file=Path("run/model.py"))
    assert not (folder / "ran").exists()


def test_a_link_in_the_place_of_the_copy_is_not_suggested(hostile, refused):
    (hostile / "model.py").unlink()
    (hostile / "model.py").symlink_to("/etc/passwd")
    assert refused("sample", "run", code=1) == (
        f"{best_of(hostile)} uses the model in my.py, which is code; if you trust it, add"
        " --model-file my.py"
    )


def test_info_names_the_file_and_does_not_run_it(hostile, folder, cli):
    shown = cli("info", "run")
    assert "model file: my.py, code that was not run\n" in shown.out
    assert json.loads(cli("info", "run", "--json").out)["model_file"] == "my.py"
    now, kept = sha256(folder / "my.py"), sha256(EXAMPLES / "gated_mlp.py")
    assert shown.code == 1  # the copy was changed
    assert (
        f"run/model.py is damaged: it must have the SHA-256 {kept[:12]}… of the file that"
        f" run/checkpoints/step-000006 was trained with, got {now[:12]}…"
    ) in shown.out
    (hostile / "model.py").write_text(GATED)
    assert cli("info", "run").code == 0
    assert not (folder / "ran").exists()


def test_commands_about_runs_do_not_run_the_file(hostile, folder, cli):
    for words in (["runs"], ["runs", "show", "run"], ["sample", "run", "--from-counts"]):
        assert cli(*words).code == 0
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data.pop("model_file"),
         "model_file of config.json must have its record in data.json"),
        (lambda data: data["model_file"].update(sha256="x"),
         "sha256 of model_file of data.json must be a SHA-256 of 64 hexadecimal digits, got x"),
        (lambda data: data["model_file"]["parameters"].update({"layer0.mlp_gate": [0, 4]}),
         "each item of layer0.mlp_gate of parameters of model_file of data.json must be a whole"
         " number between 1 and 16777216, got 0"),
        (lambda data: data["model_file"]["parameters"].update({"../x": [1, 4]}),
         "parameters of model_file of data.json must not have ../x"),
        (lambda data: data["model_file"]["parameters"].update({"wte": [1, 4]}),
         "model_file of data.json must not change wte, whose rows belong to tokens or positions;"
         " choose another name"),
        (lambda data: data["model_file"]["parameters"].update({"layer1.gate": [1, 4]}),
         "model_file of data.json must name layers below n_layer 1, got layer1.gate"),
    ],
)  # fmt: skip
def test_a_wrong_record_of_the_file_is_refused_without_running_it(
    train, folder, refused, change, reason
):
    path = newest_checkpoint(train() / "checkpoints")[0].path
    data = json.loads((path / "data.json").read_text())
    change(data)
    rewrite(path, "data.json", data)
    message = refused("sample", str(path), "--model-file=my.py", code=1)
    assert message == f"{path} was not written by nanochat: {reason}"


@pytest.mark.parametrize("command", ["sample", "eval", "inspect"])
def test_a_file_for_a_run_without_one_is_refused(trained_gpt, folder, refused, command):
    (folder / "my.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    assert refused(command, str(trained_gpt.path), "--model-file=my.py") == (
        f"model_file needs a run that was trained with one, got"
        f" {best_of(trained_gpt.path, str(trained_gpt.path))}; leave it out"
    )
    assert not (folder / "ran").exists()


# -------------------------------------------------------------------------------- using the model


def test_both_engines_use_a_run_alike(train, mode):
    run = train(mode, steps=30, zero_init=False)
    other = {"scalar": "tensor", "tensor": "scalar"}[mode]
    ours = nanochat.load(run, model_file="my.py", dtype="float64")
    theirs = nanochat.load(run, model_file=run / "model.py", mode=other, dtype="float64")
    assert ours.generate("an", temperature=0) == theirs.generate("an", temperature=0)
    np.testing.assert_allclose(ours.loss("anna").nats, theirs.loss("anna").nats, rtol=1e-9)
    for (token, one), (same, another) in zip(
        ours.next_tokens("a"), theirs.next_tokens("a"), strict=True
    ):
        assert token == same
        assert one == pytest.approx(another, rel=1e-9)
    traces = [each.trace("anna") for each in (ours, theirs)]
    assert sorted(traces[0]) == sorted(traces[1])
    assert "layer0.mlp.gate" in traces[0]
    for name in nonempty(traces[0]):
        for arrays in ([each[name] for each in traces], [each.gradients[name] for each in traces]):
            np.testing.assert_allclose(*arrays, rtol=1e-7, atol=1e-9, err_msg=name)
    assert traces[0].mean == pytest.approx(ours.loss("anna").mean, rel=1e-12)


def test_sample_eval_and_inspect_take_the_file(train, cli, mode):
    train(mode, steps=30)
    words = ["run", "--model-file=run/model.py"]
    sampled = cli("sample", *words, "--prompt=an", "--seed=3")
    model = nanochat.load("run", model_file="my.py")
    assert sampled.out == model.generate("an", seed=3) + "\n"
    scored = json.loads(cli("eval", *words, "--json", "--data=names.txt").out)
    assert scored["loss"] == pytest.approx(model.loss(Path("names.txt").read_text()).mean)
    seen = cli("inspect", *words, "--text=anna", "--view=forward")
    assert seen.code == 0, seen.err
    (line,) = [each for each in seen.out.splitlines() if each.startswith("layer0.mlp.gate")]
    file = GATED.splitlines()
    assert line.split()[-1].startswith("run/model.py:")
    assert '"mlp.gate"' in file[int(line.rpartition(":")[2]) - 1]


def test_an_adapting_eval_takes_the_file(train, cli):
    train(steps=10)
    words = ["eval", "run", "--model-file=my.py", "--data=names.txt", "--adapt", "--json"]
    assert json.loads(cli(*words).out)["adaptive"] is True


def test_inspect_compares_a_run_of_a_file_with_one_without(train, trained_gpt, cli):
    train()
    words = ["inspect", str(trained_gpt.path), "--text=anna", "--view=compare", "--out=page.html"]
    against = ["--against=run", "--against-model-file=my.py"]
    shown = cli(*words, *against)
    assert shown.code == 0, shown.err
    assert "layer0.mlp.gate" in shown.out
    assert cli(*words, "--against=run").err.endswith(
        "uses the model in my.py, which is code; if you trust it, add --model-file run/model.py\n"
    )
    shown = cli("inspect", "run", "--model-file=my.py", "--text=anna", "--view=compare",
                "--against-dtype=float32", "--dtype=float64")  # fmt: skip
    assert shown.code == 0, shown.err


def test_a_new_run_starts_from_the_weights_of_a_run_with_a_file(train, mode):
    run = train(mode, steps=20)
    new = nanochat.train({
        "init_from": str(run), "model_file": "run/model.py", "out": "new", "steps": 0,
        "num_samples": 0,
    })  # fmt: skip
    ours, theirs = (newest_checkpoint(each / "checkpoints")[0] for each in (run, new.run))
    best = nanochat.load(run, model_file="my.py").weights
    for name in nonempty(best):
        np.testing.assert_allclose(theirs.state.weights[name], best[name], rtol=1e-6)
    assert theirs.data["model_file"] == ours.data["model_file"]
    assert (new.run / "model.py").read_text() == GATED


def test_a_file_does_not_change_the_model_of_a_run_without_one(trained_gpt, folder, refused):
    (folder / "my.py").write_text(GATED)
    message = refused("train", f"--init-from={trained_gpt.path}", "--model-file=my.py")
    assert message == (
        f"model_file needs a run that was trained with one, got"
        f" {best_of(trained_gpt.path, str(trained_gpt.path))}; leave it out"
    )


def test_a_run_on_all_text_takes_the_file(train):
    run = train(steps=20)
    new = nanochat.train({"final_on_all": str(run), "model_file": "my.py", "out": "all"})
    assert "layer0.mlp_gate" in newest_checkpoint(new.run / "checkpoints")[0].state.weights


def test_the_plain_torch_module_is_refused(train):
    train()
    model = nanochat.load("run", model_file="my.py")
    message = (
        "model.py does not support model_file my.py; use nanochat.load(...) itself, which computes"
        " it"
    )
    with pytest.raises(nanochat.errors.UnsupportedOption, match=f"^{re.escape(message)}$"):
        model.to_torch()
    with pytest.raises(nanochat.errors.UnsupportedOption, match=f"^{re.escape(message)}$"):
        model.write_model_py()


def test_a_moved_run_is_opened_with_its_copy(train, folder):
    shutil.move(train(), folder / "moved")
    (folder / "my.py").unlink()
    assert nanochat.load("moved", model_file="moved/model.py").params > 0


# ---------------------------------------------------------------------------------------- ablations


@pytest.fixture
def ablation(folder, options):
    for name in ("gelu", "unchanged"):
        shutil.copy(EXAMPLES / f"{name}.py", folder / f"{name}.py")
    base = {
        k: v for k, v in options(num_samples=0).items()
        if k not in ("model_file", "out", "num_samples")
    }  # fmt: skip

    def run(**more):
        grid = {"vary": ("model_file=unchanged.py,gelu.py,my.py", "n_layer=1,2"), "seeds": 2}
        return nanochat.ablate({**grid, "out": "grid", **more}, base)

    return run


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_ablation_compares_model_files(ablation, jobs, train):
    result = ablation(jobs=jobs)
    assert len(result.runs) == 12
    by_file = {}
    for record in result.runs:
        by_file.setdefault(record["model_file"], []).append((record["params"], record["val_loss"]))
    sizes = {name: [params for params, _ in found] for name, found in by_file.items()}
    assert sizes["unchanged.py"] == sizes["gelu.py"] == [328, 328, 520, 520]
    assert sizes["my.py"] == [392, 392, 648, 648]  # 64 more per layer
    assert by_file["unchanged.py"] != by_file["gelu.py"]
    again = ablation(jobs=1)  # nothing is left to train
    assert again.runs == result.runs


def test_an_ablation_resumes_an_unfinished_run_and_refuses_a_changed_file(ablation, folder):
    vary = {"vary": ("model_file=gelu.py",), "seeds": 1}
    first = ablation(**vary)
    run = folder / "grid" / "model_file=gelu.py,seed=1337"
    (run / "result.json").unlink()
    assert [{**r, "steps_per_sec": 0, "tokens_per_sec": 0} for r in ablation(**vary).runs] == [
        {**r, "steps_per_sec": 0, "tokens_per_sec": 0} for r in first.runs
    ]
    before = sha256(folder / "gelu.py")
    (folder / "gelu.py").write_text("# changed\n" + (folder / "gelu.py").read_text())
    with pytest.raises(ConfigError) as caught:
        ablation(**vary)
    assert str(caught.value) == (
        "grid/model_file=gelu.py,seed=1337 holds a run with another model_file gelu.py (SHA-256"
        f" {before[:12]}…), got {sha256(folder / 'gelu.py')[:12]}…; choose another out"
    )


def test_an_ablation_with_an_absent_file_is_refused_before_any_run(ablation, folder):
    with pytest.raises(ConfigError, match="must be a Python file that can be read, got nope.py"):
        ablation(vary=("model_file=gelu.py,nope.py",))
    assert not (folder / "grid").exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_fault_in_one_file_fails_its_runs_alone(ablation, folder, jobs):
    (folder / "bad.py").write_text(
        "from nanochat.scalar.minigpt import MiniGPT\n"
        "class ScalarModel(MiniGPT):\n"
        "    def logits(self, *rest):\n"
        "        return 1 / 0\n"
    )
    with pytest.raises(nanochat.errors.AblationError) as caught:
        ablation(vary=("model_file=gelu.py,bad.py",), seeds=1, jobs=jobs)
    assert str(caught.value) == (
        "1 of 2 runs failed, the first: model_file=bad.py,seed=1337: bad.py, line 4:"
        " ZeroDivisionError: division by zero; mend the cause and run the same command again"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must define ScalarModel or TensorModel, got neither; see docs/change-the-model.md"),
        ("from nanochat.tensor.model import MiniGPT as TensorModel\n",
         "must define ScalarModel for mode scalar, got only TensorModel; define it, or use mode"
         " tensor"),
    ],
)  # fmt: skip
def test_an_ablation_of_a_file_without_the_model_advises_to_change_it(
    ablation, folder, text, reason
):
    (folder / "bad.py").write_text(text)
    with pytest.raises(nanochat.errors.AblationError) as caught:
        ablation(vary=("model_file=gelu.py,bad.py",), seeds=1)
    assert str(caught.value) == (
        f"1 of 2 runs failed, the first: model_file=bad.py,seed=1337: model_file bad.py {reason};"
        " change the options or the model file of such runs or leave them out, as they would fail"
        " again"
    )
    shutil.copy(folder / "gelu.py", folder / "bad.py")
    assert len(ablation(vary=("model_file=gelu.py,bad.py",), seeds=1).runs) == 2


def test_an_ablation_goes_on_with_a_file_that_was_mended(ablation, folder):
    """As after a fault that came before the first checkpoint, when the folder has the file."""
    (folder / "bad.py").write_text(f"# faulty\n{(folder / 'gelu.py').read_text()}")
    vary = {"vary": ("model_file=bad.py",), "seeds": 1}
    run = folder / "grid" / "model_file=bad.py,seed=1337"
    ablation(**vary)
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints")
    shutil.copy(folder / "gelu.py", folder / "bad.py")
    assert len(ablation(**vary).runs) == 1
    assert (run / "model.py").read_text() == (folder / "gelu.py").read_text()


def test_the_history_of_a_new_matrix_is_recorded_and_verified_without_the_file(train, mode, cli):
    run = train(mode, record="layer0.mlp_gate[1,2]")
    one = nanochat.load(run, model_file="my.py", checkpoint="last").history.parameter(
        "layer0.mlp_gate", 1, 2
    )
    assert one.steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert one.gradient.any()
    assert cli("info", "run").code == 0
    seen = cli("inspect", "run", "--model-file=my.py", "--text=anna")
    assert seen.code == 0, seen.err
