"""`nanochat ablate`: the grid, its runs, their tables, and that stopping it anywhere loses nothing."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import pytest
from nonempty import nonempty

import nanochat
from nanochat.commands import ablate as module
from nanochat.commands.ablate import plan_runs
from nanochat.config.options import AblateConfig, TrainConfig
from nanochat.errors import AblationError, ConfigError, OutputError, RunInterrupted
from nanochat.output.ablation_report import confidence_95
from nanochat.runs.checkpoint import newest_checkpoint
from nanochat.runs.lock import locked
from nanochat.training.metrics import METRIC_KEYS

TIMINGS = ("steps_per_sec", "tokens_per_sec")


@pytest.fixture
def base(tiny):
    """The options of every run."""

    def options(model_kind="bigram", **changes):
        values = {**tiny(model_kind, steps=3, num_samples=None), **changes}
        return {name: value for name, value in values.items() if value is not None}

    return options


def ablate(base, **options):
    return nanochat.ablate(AblateConfig(**{"seeds": 2, "out": "abl", **options}), base)


def untimed(path: str = "abl/results.csv") -> list[list[str]]:
    """The table without its last two columns, which are the timings."""
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    assert tuple(rows[0][-2:]) == TIMINGS
    return [row[:-2] for row in rows]


# ---------------------------------------------------------------------------------------- the grid


def test_the_default_grid_is_the_bigram_tied_or_not_with_and_without_norm():
    planned = plan_runs(AblateConfig(), {"mode": "scalar"})
    assert [run.name for run in planned] == [
        f"tie_lm_head={tie},input_rmsnorm={norm},seed={seed}"
        for tie in ("true", "false") for norm in ("true", "false") for seed in (1337, 1338, 1339)
    ]  # fmt: skip
    for run in planned:
        assert run.config.model_kind == "bigram"
        assert run.config.tie_lm_head is run.variant["tie_lm_head"]
        assert run.config.input_rmsnorm is run.variant["input_rmsnorm"]
        assert run.config.out == str(Path("ablations", "tie_lm_head,input_rmsnorm", run.name))


def test_a_grid_is_the_product_of_its_axes_times_the_seeds():
    config = AblateConfig(vary=("n_layer=1, 2", "lr=0.1,0.01,1e-3"), seeds=2, out="x")
    planned = plan_runs(config, {"mode": "scalar", "seed": 7, "steps": 3})
    assert [(c.config.n_layer, c.config.lr, c.config.seed) for c in planned] == [
        (layers, lr, seed) for layers in (1, 2) for lr in (0.1, 0.01, 0.001) for seed in (7, 8)
    ]
    assert len({run.name for run in planned}) == 12
    assert planned[0].name == "n_layer=1,lr=0.1,seed=7"


def test_dashes_are_underscores_in_the_name_of_an_axis():
    planned = plan_runs(AblateConfig(vary=("n-layer=1",), seeds=1), {"mode": "scalar"})
    assert planned[0].variant == {"n_layer": 1}


def test_a_value_that_the_text_decides_is_auto_in_names_and_tables(base, folder):
    result = ablate(base("mini-gpt"), vary=("ngram_order=auto,0",), seeds=1)
    names = ["ngram_order=auto", "ngram_order=0"]
    assert [each["variant"] for each in result.variants] == names
    assert all(Path("abl", f"{name},seed=1337", "result.json").exists() for name in names)
    saved = Path("abl", f"{names[0]},seed=1337", "config.toml").read_text()
    assert re.search(r"^ngram_order = \d+$", saved, re.MULTILINE)  # the order that was chosen


def test_names_of_folders_hold_nothing_that_a_file_system_minds():
    planned = plan_runs(AblateConfig(vary=("data=a/b:c.txt",), seeds=1), {"mode": "scalar"})
    assert planned[0].name == "data=a_b_c.txt,seed=1337"
    assert planned[0].config.data == ("a/b:c.txt",)


REFUSED = [
    (("n_layr=1",), {}, "vary must name a training option, got 'n_layr'"),
    (("seed=1,2",), {}, "vary must name a training option, got 'seed'"),
    (("out=a",), {}, "vary must name a training option, got 'out'"),
    (("n_layer",), {}, "vary n_layer must list values, as in n_layer=a,b, got 'n_layer'"),
    (("n_layer=,",), {}, "vary n_layer must list values, as in n_layer=a,b, got 'n_layer=,'"),
    (("n_layer=1,x",), {}, "n_layer must be a whole number between 0 and 256, got x"),
    (("n_layer=1,1",), {}, "vary n_layer must list each value once, got 1 twice"),
    (("lr=0.1,.1",), {}, "vary lr must list each value once, got 0.1 twice"),
    (("ngram_order=auto,-1",), {}, "vary ngram_order must list each value once, got auto twice"),
    (("n_layer=1", "n_layer=2"), {}, "vary must name an option once, got n_layer twice"),
    (("n_layer=1,2",), {"n_layer": 3}, "vary n_layer must not be given as an option too, got 3"),
    (("mode=scalar,scaler",), {}, "mode must be one of auto, scalar, tensor, got scaler"
     " (did you mean 'scalar'?)"),
    (("data=a/b,a_b",), {}, "vary must give each run a different name, got data=a_b,seed=1337"
     " twice"),
]  # fmt: skip


@pytest.mark.parametrize(("vary", "options", "message"), REFUSED)
def test_a_grid_that_cannot_be_built_is_refused_before_any_run(
    vary, options, message, folder, refused, flags
):
    with pytest.raises(ConfigError) as caught:
        ablate({"mode": "scalar", **options} if "mode" not in vary[0] else options, vary=vary)
    assert str(caught.value).split(" (did")[0] == message.split(" (did")[0]
    words = [f"--vary={axis}" for axis in vary]
    assert refused("ablate", *words, *flags(**options), "--out=abl") == str(caught.value)
    assert not Path("abl").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "x"}, "out must not be an option of the runs, got x"),
        ({"resume": True}, "resume must not be an option of the runs, got true"),
        ({"seed": "x"}, "seed must be a whole number between 0 and 4294967295, got x"),
        ({"seed": 2**32 - 1}, "seed must be a whole number between 0 and 4294967295, got"
         " 4294967296"),
        ({"n_embd": 30, "n_head": 4}, "n_embd must be a multiple of n_head, got n_embd 30 and"
         " n_head 4; give both"),
    ],
)  # fmt: skip
def test_options_that_the_runs_cannot_have_are_refused(options, message, folder):
    with pytest.raises(ConfigError) as caught:
        ablate({"mode": "scalar", **options}, vary=("lr=0.1",))
    assert str(caught.value) == message
    assert not Path("abl").exists()


# -------------------------------------------------------------------------------------- the tables


def test_an_ablation_writes_csv_jsonl_markdown_and_a_picture(folder, base):
    result = ablate(base(), vary=("tie_lm_head=true,false",), seeds=3)
    assert result.folder == Path("abl")
    assert len(result.runs) == 6 and len(result.variants) == 2
    rows = untimed()
    columns = ["tie_lm_head", "seed", *(k for k in METRIC_KEYS if k not in TIMINGS)]
    assert set(rows[0]) == {
        *columns,
        "table_entries",
        "count_entries",
        "weights_bytes",
        "split_sha256",
    }
    assert rows[0][:2] == ["tie_lm_head", "seed"]
    assert len(rows) == 7
    lines = [json.loads(line) for line in Path("abl/results.jsonl").read_text().splitlines()]
    assert lines == list(result.runs)
    for line, row in zip(lines, rows[1:], strict=True):
        assert float(row[rows[0].index("val_loss")]) == line["val_loss"]
        saved = json.loads(
            Path("abl", f"tie_lm_head={str(line['tie_lm_head']).lower()},seed={line['seed']}",
                 "result.json").read_text()
        )  # fmt: skip
        assert saved == {key: line[key] for key in saved}
    assert Path("abl/losses.png").read_bytes().startswith(b"\x89PNG")


def test_the_markdown_table_is_mean_and_interval_over_the_seeds(folder, base):
    result = ablate(base(), vary=("tie_lm_head=true,false",), seeds=4)
    lines = Path("abl/table.md").read_text().splitlines()
    assert lines[:2] == [
        "| variant | seeds | validation loss, nats/token | bits per byte |",
        "|---|---:|---:|---:|",
    ]
    for line, tie in zip(lines[2:], (True, False), strict=True):
        runs = [run for run in result.runs if run["tie_lm_head"] is tie]
        columns = [f"tie_lm_head={str(tie).lower()}", "4"]
        for key in ("val_loss", "val_bpb"):
            values = [run[key] for run in runs]
            mean, half = statistics.fmean(values), confidence_95(values)
            columns.append(f"{mean:.4f} ± {half:.4f}")
        assert line == f"| {' | '.join(columns)} |"


def test_a_run_of_the_grid_is_the_run_that_train_makes(folder, base, tiny):
    result = ablate(base(), vary=("tie_lm_head=true",), seeds=1)
    alone = nanochat.train(
        nanochat.TrainConfig(**tiny(steps=3, tie_lm_head=True, out="alone", num_samples=0))
    )
    assert result.runs[0]["val_loss"] == alone.metrics["val_loss"]


def test_stdout_is_the_table_and_the_folder_or_one_object(folder, base, cli, flags):
    words = ["ablate", *flags(**base()), "--vary=tie_lm_head=true,false", "--seeds=1", "--out=abl"]
    result = cli(*words)
    assert result.code == 0
    assert result.out == Path("abl/table.md").read_text() + "ablation: abl\n"
    assert "run 1/2  tie_lm_head=true,seed=1337" in result.err
    again = cli(*words, "--json")
    assert set(json.loads(again.out)) == {"runs", "variants", "folder"}
    assert "2 of 2 runs are finished already" in again.err
    assert cli(*words, "--quiet").err == ""


def test_the_runs_say_that_their_preset_does_not_depend_on_the_text(folder, tiny, cli, flags):
    options = tiny("mini-gpt", steps=1, num_samples=None, mode="tensor", preset=None)
    given = {name: value for name, value in options.items() if value is not None}
    words = ["ablate", *flags(**given), "--vary=dropout=0.1", "--seeds=1", "--out=abl"]
    note = "preset mini, by the engine and not by the text; give another one with --preset"
    assert note in cli(*words).err.splitlines()
    assert "by the engine" not in cli(*words, "--preset=mini").err


# --------------------------------------------------------------------------- again, beside, cut off


def test_a_rerun_keeps_what_is_finished_and_writes_the_same_tables(folder, base, monkeypatch):
    ablate(base(), vary=("tie_lm_head=true,false",))
    files = ("results.csv", "results.jsonl", "table.md")
    before = {name: Path("abl", name).read_bytes() for name in files}
    monkeypatch.setattr(module, "train", lambda config: pytest.fail("trained again"))
    ablate(base(), vary=("tie_lm_head=true,false",))
    assert {name: Path("abl", name).read_bytes() for name in files} == before


def test_an_identical_ablation_elsewhere_has_identical_untimed_columns(folder, base):
    for out in ("first", "second"):
        ablate(base("mini-gpt"), vary=("init_std=0.08,0.2",), out=out)
    assert untimed("first/results.csv") == untimed("second/results.csv")


def test_more_jobs_give_the_same_untimed_columns(folder, base):
    ablate(base(), vary=("tie_lm_head=true,false",), out="one")
    ablate(base(), vary=("tie_lm_head=true,false",), out="two", jobs=2)
    assert untimed("one/results.csv") == untimed("two/results.csv")


def test_more_seeds_and_values_keep_the_runs_that_are_there(folder, base):
    ablate(base(), vary=("tie_lm_head=true",), seeds=1)
    before = Path("abl/tie_lm_head=true,seed=1337/result.json").stat().st_mtime_ns
    assert len(ablate(base(), vary=("tie_lm_head=true,false",), seeds=2).runs) == 4
    assert Path("abl/tie_lm_head=true,seed=1337/result.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("content", ["", "garbage", "{}", "[]", '{"val_loss": 1.0}', "[" * 99_999])
def test_a_run_with_a_damaged_result_is_finished_again(folder, base, content):
    expected = ablate(base(), vary=("tie_lm_head=true",), seeds=1).runs
    Path("abl/tie_lm_head=true,seed=1337/result.json").write_text(content)
    again = ablate(base(), vary=("tie_lm_head=true",), seeds=1).runs
    assert [run["val_loss"] for run in again] == [run["val_loss"] for run in expected]


def test_a_folder_of_other_options_is_refused_before_any_run(folder, base):
    ablate(base(), vary=("tie_lm_head=true",), seeds=1)
    with pytest.raises(ConfigError) as caught:
        ablate(base(lr=0.5), vary=("tie_lm_head=true",), seeds=2)
    assert str(caught.value) == (
        "abl/tie_lm_head=true,seed=1337 holds a run with lr 0.02, got 0.5; choose another out"
    )
    assert not Path("abl/tie_lm_head=true,seed=1338").exists()


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_an_interrupted_ablation_ends_at_once_and_goes_on_where_it_was(
    folder, base, stop_after, step
):
    ablate(base(), vary=("tie_lm_head=true,false",), out="whole")
    stop_after(step)
    with pytest.raises(RunInterrupted, match=rf"^stopped after step {step}; saved cut/"):
        ablate(base(), vary=("tie_lm_head=true,false",), out="cut")
    assert [p.name for p in Path("cut").iterdir()] == ["tie_lm_head=true,seed=1337"]
    stop_after(10**9)
    ablate(base(), vary=("tie_lm_head=true,false",), out="cut")
    assert untimed("cut/results.csv") == untimed("whole/results.csv")


def test_a_run_cut_off_before_its_first_checkpoint_starts_over(folder, base):
    Path("abl/tie_lm_head=true,seed=1337/checkpoints").mkdir(parents=True)
    assert len(ablate(base(), vary=("tie_lm_head=true",), seeds=1).runs) == 1


@pytest.mark.parametrize("saved", [False, True])
def test_a_run_that_another_process_writes_is_left_alone_and_told(folder, base, saved):
    name = "tie_lm_head=true,seed=1337"
    out = Path("abl", name)
    if saved:
        ablate(base(), vary=("tie_lm_head=true",), seeds=1)
        (out / "result.json").unlink()
    else:
        out.mkdir(parents=True)
        (out / "metrics.jsonl").write_text("")
    before = sorted(out.rglob("*"))
    with locked(out), pytest.raises(AblationError) as caught:
        ablate(base(), vary=("tie_lm_head=true",), seeds=1)
    assert str(caught.value).startswith(
        f"1 of 1 run failed, the first: {name}: process {os.getpid()} on host"
    )
    assert sorted(out.rglob("*")) == before
    assert len(ablate(base(), vary=("tie_lm_head=true",), seeds=1).runs) == 1


def test_a_folder_that_holds_something_else_is_never_cleared(folder, base):
    diary = Path("abl/tie_lm_head=true,seed=1337/diary.txt")
    diary.parent.mkdir(parents=True)
    diary.write_text("dear diary")
    with pytest.raises(AblationError, match=r"holds diary.txt, which no run wrote; choose another"):
        ablate(base(), vary=("tie_lm_head=true",), seeds=1)
    assert diary.read_text() == "dear diary"


# A worker that takes the first two signals for one request to save, as a run does that is saving. It
# ignores the rest: Python restores the default of a signal that it handles while it ends.
DEAF = """
import signal, time
heard = []
def hear(*_):
    heard.append(1)
    if len(heard) > 2:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit
signal.signal(signal.SIGTERM, hear)
open(path, "w").close()
while True:
    time.sleep(0.01)
"""


def test_a_worker_that_saves_its_run_is_asked_until_it_ends(tmp_path):
    spawn = get_context("spawn")
    ready = [tmp_path / "one", tmp_path / "other"]
    workers = [spawn.Process(target=exec, args=(DEAF, {"path": str(path)})) for path in ready]
    for worker in workers:
        worker.start()
    while not all(path.exists() for path in ready):
        assert all(worker.is_alive() for worker in workers)
        time.sleep(0.02)
    module.end_workers(workers)
    assert [worker.exitcode for worker in workers] == [0, 0]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_signal_ends_an_ablation_with_its_run_saved(folder, base, flags, jobs):
    options = base("mini-gpt", checkpoint_every=5, steps=3000, eval_every=1500, lr=None, keep="all")
    words = ["ablate", *flags(**options), "--seeds=2", "--vary=lr=0.01,0.02", "--out=abl",
             f"--jobs={jobs}"]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "nanochat", *words], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while len(list(Path().glob("abl/*/checkpoints/step-000010"))) < jobs:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.02)
            # Ctrl-C reaches every process of the terminal's foreground group.
            os.killpg(process.pid, signal.SIGINT)
            _, err = process.communicate(timeout=120)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in err, err
    last = err.splitlines()[-1]
    if jobs == 1:
        assert re.fullmatch(
            r"stopped after step \d+; saved abl/\S+; run the same command again to go on", last
        )
        assert process.returncode == 1
    else:
        assert last == "interrupted" or last.startswith("stopped after step ")
        assert process.returncode in (1, 130)
    assert len(list(Path("abl").iterdir())) == jobs
    assert not list(Path().glob("abl/*/result.json"))


def parent_and_workers(process) -> list[int]:
    """The numbers of a process and of those below it, the resource tracker included."""
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [process.pid]
    for pid in found:
        found += children.get(pid, [])
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_to_the_parent_alone_saves_the_runs_and_leaves_no_process(
    folder, base, flags, number
):
    options = base("mini-gpt", checkpoint_every=5, steps=10**6, eval_every=10**6, lr=None)
    words = ["ablate", *flags(**options), "--seeds=2", "--vary=lr=0.01,0.02", "--out=abl",
             "--jobs=2"]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "nanochat", *words], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: [signal.signal(n, signal.SIG_DFL) for n in (1, 2, 15)],
    ) as process:  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while len({p.parent for p in Path().glob("abl/*/checkpoints/step-*")}) < 2:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.02)
            processes = parent_and_workers(process)
            assert len(processes) >= 3
            process.send_signal(number)
            _, err = process.communicate(timeout=120)
            while any(map(is_running, processes)):
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            if any(map(is_running, parent_and_workers(process))):
                os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in err, err
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert err.splitlines()[-1].startswith("interrupted")
    for run in Path("abl").iterdir():
        _, skipped = newest_checkpoint(run / "checkpoints")
        assert skipped == []


def test_a_module_of_the_folder_that_is_named_like_pythons_does_not_end_the_workers(
    folder, base, python, flags
):
    Path("signal.py").write_text("raise RuntimeError('not the module of Python')\n")
    code = (
        "import sys; sys.path = [p for p in sys.path if p]\n"  # as the console script has it
        "from nanochat.__main__ import main; sys.exit(main())\n"
    )
    words = ["ablate", *flags(**base()), "--seeds=1", "--vary=tie_lm_head=true,false", "--jobs=2"]
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    done = python("-c", code, *words, env=environment)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


def test_a_grid_of_many_runs_is_planned_in_linear_time(monkeypatch):
    """By the comparisons of names, not by the clock."""
    compared = 0

    class Name(str):
        def __eq__(self, other):
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    name_of = module._run_name
    monkeypatch.setattr(module, "_run_name", lambda *parts: Name(name_of(*parts)))
    config = AblateConfig(vary=("tie_lm_head=true,false",), seeds=500)
    assert len(plan_runs(config, {"mode": "scalar", "model_kind": "bigram"})) == 1000
    assert compared < 1000


def test_the_configs_of_many_seeds_are_those_of_each_seed_alone():
    config = AblateConfig(vary=("lr=0.1,0.2",), seeds=4, out="abl")
    for run in nonempty(plan_runs(config, {"mode": "scalar", "model_kind": "bigram", "seed": 7})):
        alone = TrainConfig(
            mode="scalar", model_kind="bigram", num_samples=0, baseline=False, out=f"abl/{run.name}",
            lr=run.variant["lr"], seed=int(run.name.rpartition("=")[2]),
        )  # fmt: skip
        assert (run.config, run.config.given) == (alone, alone.given)


def test_an_ablation_in_several_processes_is_refused(folder, base, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError) as caught:
        ablate(base(), vary=("tie_lm_head=true",))
    assert str(caught.value) == (
        "ablate must be one process, got WORLD_SIZE 2; use --jobs to train several runs at once, or"
        " unset WORLD_SIZE"
    )
    assert not Path("abl").exists()


# ------------------------------------------------------------------------------------------ failures


def test_a_variant_that_fails_is_told_at_the_end_and_the_others_are_kept(folder, base, cli, flags):
    options = base(
        optimizer="sgd", input_rmsnorm=False, dtype="float32", lr_schedule="constant", steps=40,
        lr=None,
    )  # fmt: skip
    with pytest.raises(AblationError) as caught:
        ablate(options, vary=("lr=0.01,10000",))
    message = str(caught.value)
    assert re.match(
        r"2 of 4 runs failed, the first: lr=10000.0,seed=1337: (after )?step \d+: (loss|gradient"
        r" norm|validation loss) .*; change the options of such runs or leave them out, as they"
        r" would fail again$",
        message,
    )
    assert [row[0] for row in untimed()] == ["lr", "0.01", "0.01"]
    assert "lr=0.01 | 2 |" in Path("abl/table.md").read_text()
    words = [*flags(**options), "--vary=lr=0.01,10000", "--seeds=2", "--out=abl"]
    result = cli("ablate", *words, "--quiet")
    assert result.code == 1
    assert result.err.splitlines()[-1].startswith("error: 2 of 4 runs failed")
    assert "| lr=0.01 | 2 |" in result.out


@pytest.mark.parametrize("jobs", [1, 2])
def test_each_kind_of_failure_has_its_own_advice(folder, base, jobs):
    """A record of a parameter that one layer lacks cannot succeed; an absent text can."""
    options = base("mini-gpt", record="layer1.attn_wq[0,0]", data=None)
    with pytest.raises(AblationError) as caught:
        ablate(options, vary=("n_layer=1,2", "data=names.txt,no.txt"), jobs=jobs)
    assert str(caught.value) == (
        "6 of 8 runs failed, 2 of them as n_layer=1,data=names.txt,seed=1337: record must name"
        " matrices of the model, which are wte, wpe, lm_head, layer0.attn_wq, layer0.attn_wk,"
        " layer0.attn_wv, layer0.attn_wo, layer0.mlp_fc1, layer0.mlp_fc2, got layer1.attn_wq; change"
        " the options of such runs or leave them out, as they would fail again; 4 of them as"
        " n_layer=1,data=no.txt,seed=1337: no such file or folder: no.txt; mend the cause and run"
        " the same command again"
    )


def test_a_run_that_failed_before_its_first_checkpoint_begins_anew(folder, base):
    """With other options too: nothing that was trained is lost."""
    run = Path("abl/tie_lm_head=true,seed=1337")
    ablate(base(lr=0.5), vary=("tie_lm_head=true",), seeds=1)
    first = (run / "result.json").read_text()
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ConfigError, match="holds a run with lr 0.5, got 0.02; choose another out"):
        ablate(base(lr=0.02), vary=("tie_lm_head=true",), seeds=1)
    (run / "result.json").unlink()
    ablate(base(lr=0.02), vary=("tie_lm_head=true",), seeds=1)
    assert (run / "result.json").read_text() != first
    assert "lr = 0.02\n" in (run / "config.toml").read_text()


def test_a_grid_of_which_every_run_fails_still_ends_in_one_clear_error(folder, base):
    with pytest.raises(AblationError, match="^1 of 1 run failed, the first: lr=0.1,seed=1337: "):
        ablate(base(data="missing.txt", lr=None), vary=("lr=0.1",), seeds=1)
    assert Path("abl/results.csv").read_text() == ""


def die(config, threads):
    """As a process does when the kernel runs out of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_fails_its_runs_in_words(folder, base, monkeypatch):
    monkeypatch.setattr(module, "_train_one", die)
    monkeypatch.setattr(module, "_become_worker", int)
    with pytest.raises(AblationError) as caught:
        ablate(base(), vary=("tie_lm_head=true,false",), jobs=2)
    assert str(caught.value).startswith("4 of 4 runs failed, the first: tie_lm_head=")
    assert "its process was killed, possibly because memory ran out; lower jobs" in str(
        caught.value
    )


def test_a_validation_part_of_nothing_leaves_the_scores_out(folder, base):
    result = ablate(base(val_fraction=0.0), vary=("tie_lm_head=true",), seeds=2)
    assert result.variants[0]["val_loss_mean"] is None
    assert "| none | none |" in Path("abl/table.md").read_text()


def test_a_folder_that_cannot_be_made_is_one_clear_line(folder, base):
    with pytest.raises(OutputError) as caught:
        ablate(base(), vary=("tie_lm_head=true",), out="names.txt/abl")
    assert str(caught.value) == "cannot write names.txt/abl: Not a directory; choose a writable out"
