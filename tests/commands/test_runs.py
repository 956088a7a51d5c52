"""`nanochat runs`: what the list, a run's page, a comparison and a removal say."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import nanochat
from nanochat.cli import main
from nanochat.config.keep import Keep
from nanochat.config.options import RunsConfig, TrainConfig
from nanochat.output.run_tables import age_text, size_text
from nanochat.runs.checkpoint import mark_best, read_best
from nanochat.runs.lock import locked
from nanochat.runs.prune import prune_run
from nanochat.runs.summary import summarize

HEADER = [
    "run",
    "text",
    "model",
    "parameters",
    "steps",
    "loss",
    "bits/byte",
    "size",
    "age",
    "state",
]


@pytest.fixture
def runs(trained_gpt, tmp_path, monkeypatch):
    """A working folder with the finished run `runs/kjv` of 40 steps."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_gpt.path, "runs/kjv")
    return Path("runs")


def rows(out: str) -> list[list[str]]:
    return [re.split(r"  +", line.strip()) for line in out.splitlines()]


def written(path: Path, when: float) -> None:
    """Set when the run last wrote."""
    for file in (path / "config.toml", path / "metrics.jsonl", path / "result.json",
                 *path.glob("checkpoints/step-*")):  # fmt: skip
        if file.exists():
            os.utime(file, (when, when))


# -------------------------------------------------------------------------------------------- list


def test_the_list_says_what_the_files_of_a_run_say(runs, cli, trained_gpt):
    header, row = rows(cli("runs").out)
    assert header == HEADER
    lines = [json.loads(line) for line in (runs / "kjv/metrics.jsonl").read_text().splitlines()]
    best = min((r for r in lines if r["kind"] == "eval"), key=lambda r: r["val_loss"])
    size = sum(f.stat().st_size for f in (runs / "kjv").rglob("*") if f.is_file())
    assert row[:3] == ["kjv", "names.txt", "mini-gpt microgpt"]
    assert row[3:7] == [
        str(trained_gpt.metrics["params"]), "40", f"{best['val_loss']:.3f}", f"{best['val_bpb']:.3f}"
    ]  # fmt: skip
    assert row[7] == size_text(size)
    assert row[9] == "finished"
    (record,) = json.loads(cli("runs", "--json").out)["runs"]
    assert record["bytes"] == size
    assert (record["best_val_loss"], record["best_step"]) == (best["val_loss"], best["step"])
    assert record["params"] == trained_gpt.metrics["params"]


KEYS = {
    "name": str, "path": str, "state": str, "problem": None, "data": list, "model_kind": str,
    "preset": str, "mode": str, "params": int, "table_entries": int, "count_entries": int,
    "weights_bytes": int, "steps": int, "best_step": int, "best_val_loss": float,
    "best_val_bpb": float, "bytes": int, "written_s": float,
}  # fmt: skip


def test_the_keys_of_the_json_list_are_these_for_every_state(runs, cli, trained_gpt):
    (runs / "empty").mkdir()
    shutil.copytree(runs / "kjv", runs / "half")
    (runs / "half/result.json").unlink()
    found = {r["name"]: r for r in json.loads(cli("runs", "--json").out)["runs"]}
    kinds = {key: None if kind is None else kind.__name__ for key, kind in KEYS.items()}
    whole = found["kjv"]
    assert {k: None if v is None else type(v).__name__ for k, v in whole.items()} == kinds
    assert [list(record) for record in found.values()] == [list(KEYS)] * 3
    assert whole["data"] == [str(trained_gpt.corpus)]
    assert found["empty"] | {"written_s": 0} == dict.fromkeys(KEYS) | {
        "name": "empty", "path": "runs/empty", "state": "not a run", "bytes": 0, "written_s": 0,
    }  # fmt: skip
    assert found["half"] | {"written_s": 0, "bytes": 0} == whole | {
        "name": "half", "path": "runs/half", "state": "interrupted", "table_entries": None,
        "count_entries": None, "weights_bytes": None, "written_s": 0, "bytes": 0,
    }  # fmt: skip


def test_the_newest_run_is_first_and_every_state_is_told(runs, cli):
    for age, name in enumerate(["half", "broken", "busy", "text", "starting"]):
        if name in ("text", "starting"):
            (runs / name).mkdir()
        else:
            shutil.copytree(runs / "kjv", runs / name)
            written(runs / name, 1e9 - age)
    written(runs / "kjv", 1e9 + 9)
    (runs / "half" / "result.json").unlink()
    (runs / "broken" / "config.toml").write_text("[[")
    (runs / "text" / "poem.txt").write_text("x")
    (runs / "a file").write_text("x")
    written(runs / "broken", 1e9 - 1)
    with locked(runs / "busy"), locked(runs / "starting"):
        told = rows(cli("runs").out)[1:]
    states = {row[0]: row[-1] for row in told}
    assert states == {
        "kjv": "finished", "half": "interrupted", "broken": "damaged: config.toml is damaged",
        "busy": "running", "text": "not a run", "starting": "running",
    }  # fmt: skip
    named = [row[0] for row in told if row[0] in ("kjv", "half", "broken", "busy")]
    assert named == ["kjv", "half", "broken", "busy"]


def test_a_run_that_goes_on_past_its_result_is_interrupted(runs):
    last = runs / "kjv/checkpoints/step-000040"
    shutil.copytree(last, last.with_name("step-000050"))
    assert summarize(runs / "kjv").state == "interrupted"


def test_the_parameters_of_an_unfinished_run_come_from_its_weights(runs, trained_gpt):
    (runs / "kjv/result.json").unlink()
    assert summarize(runs / "kjv").params == trained_gpt.metrics["params"]


@settings(deadline=None, max_examples=40)
@example(name=".lock", content=b"[" * 5000)
@example(name="checkpoints/best", content=b"[" * 5000)
@example(name="config.toml", content=b"0=0\npreset=[]")
@example(name="config.toml", content=b"data=[[3],{}]\nmodel_kind={}\nlr=[nan]\nsteps=1e999")
@example(name="metrics.jsonl", content=b'{"kind":"eval","step":1,"val_loss":1e999}')
@example(name="result.json", content=b'{"vocab_size": [1], "split_sha256": {"a": []}}')
@example(name="metrics.jsonl", content=b'{"kind":"eval","step":1,"val_loss":1%s}' % (b"0" * 400))
@given(
    name=st.sampled_from(["config.toml", "result.json", "metrics.jsonl", "environment.json",
                          "checkpoints/step-000040/weights.safetensors", "checkpoints/best", ".lock"]),
    content=st.binary(max_size=40) | st.sampled_from(
        [b"null", b"[]", b"3", b'{"params": "x", "steps": null}', b"data = 3\npreset = []\n",
         b'{"kind":"eval","step":"x","val_loss":1}\n', b'{"kind":"eval"}', b"\xff" * 30,
         b"[" * 5000, b'{"kind":"eval","step":1,"val_loss":1e999}']),
)  # fmt: skip
def test_no_file_of_a_run_can_break_a_command(trained_gpt, tmp_path_factory, name, content):
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(trained_gpt.path, folder / "x")
    (folder / "x" / name).write_bytes(content)
    for words in (["runs"], ["runs", "show", "x"], ["runs", "compare", "x", "x"]):
        assert main([*words, f"--dir={folder}", "--quiet"]) in (0, 1)
        assert main([*words, f"--dir={folder}", "--json", "--quiet"]) in (0, 1)
    shutil.rmtree(folder)


def test_a_result_holds_single_values_and_samples(runs):
    (runs / "kjv/result.json").write_text(
        '{"vocab_size": [1], "steps": 40, "val_loss": {}, "style": null, "samples": ["a", "b"]}'
    )
    assert summarize(runs / "kjv").result == {"steps": 40, "style": None, "samples": ["a", "b"]}


def test_names_cannot_command_the_terminal(runs, cli):
    shutil.copytree(runs / "kjv", runs / "a\x1b[2Jb\nc")
    out = cli("runs").out
    assert "\x1b" not in out and "a\\x1b[2Jb" in out


def test_an_empty_or_absent_folder_of_runs_is_a_note(folder, cli):
    for _ in range(2):
        result = cli("runs")
        assert (result.code, result.out) == (0, "")
        assert result.err == "runs holds no runs; train one with `nanochat train`\n"
        Path("runs").mkdir(exist_ok=True)
    assert json.loads(cli("runs", "--json", "--quiet").out) == {"runs": []}


def test_another_folder_of_runs_is_listed_with_dir(runs, cli):
    runs.rename("models")
    assert rows(cli("runs", "--dir=models").out)[1][0] == "kjv"
    assert [run.name for run in nanochat_list("models")] == ["kjv"]


def nanochat_list(folder):
    from nanochat.commands.runs import list_runs

    return list_runs(RunsConfig(dir=folder))


class TerminalText(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_a_terminal_shows_all_figures_within_its_width(runs, cli, monkeypatch, columns):
    shutil.copytree(runs / "kjv", runs / "20260101-120000-mini-gpt-scalar")
    plain = rows(cli("runs").out)[1:]
    seen = TerminalText()
    monkeypatch.setattr(sys, "stdout", seen)
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["runs"]) == 0
    text = seen.getvalue()
    assert text.startswith("run ") and "x1b" not in text
    assert max(map(len, text.splitlines())) <= columns
    flat = re.sub(r"\s+", " ", text)
    for row in plain:
        for cell in (*row[1:7], row[7], row[9]):
            assert cell in flat


def test_a_narrow_terminal_breaks_the_names_of_compared_runs_after_a_hyphen(runs, cli, monkeypatch):
    names = ["20260101-120000-mini-gpt-scalar", "20260101-120001-mini-gpt-scalar"]
    for name in names:
        shutil.copytree(runs / "kjv", runs / name)
    seen = TerminalText()
    monkeypatch.setattr(sys, "stdout", seen)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["runs", "compare", *names]) == 0
    first, second = seen.getvalue().splitlines()[:2]
    assert first.split() == ["20260101-120000-", "20260101-120001-"]
    assert second.split() == ["mini-gpt-scalar", "mini-gpt-scalar"]


def test_the_text_of_a_run_from_standard_input_is_named_so(runs, cli):
    config = runs / "kjv" / "config.toml"
    text = config.read_text(encoding="utf-8")
    config.write_text(re.sub(r"^data = \[.*?\]", 'data = ["-"]', text, flags=re.M | re.S))
    assert "standard input" in rows(cli("runs").out)[1]
    assert "text: standard input\n" in cli("runs", "show", "kjv").out


def test_the_list_loads_no_library_for_numbers(python, runs):
    code = (
        "import sys; from nanochat.cli import main; main(['runs']);"
        "print(sorted({'numpy', 'torch', 'numba', 'rich', 'safetensors', 'difflib'}"
        " & set(sys.modules)))"
    )
    assert python("-c", code).stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("size", "text"), [
    (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (412_345, "412 kB"), (12_000_000, "12 MB"),
    (3_210_000_000, "3.21 GB"),
])  # fmt: skip
def test_sizes_have_a_unit(size, text):
    assert size_text(size) == text


@pytest.mark.parametrize(("seconds", "text"), [
    (-5, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (7200, "2 h"), (200_000, "2 d"),
])  # fmt: skip
def test_ages_have_a_unit(seconds, text):
    assert age_text(seconds) == text


# -------------------------------------------------------------------------------------------- show


def test_the_page_of_a_run_shows_what_was_chosen_its_result_and_its_checkpoints(runs, cli):
    page = cli("runs", "show", "kjv").out
    record = json.loads(cli("runs", "show", "--json").out)  # the newest finished run
    result = json.loads((runs / "kjv/result.json").read_text())
    assert record["result"] == result
    assert record["options"]["lr"] == 0.02 and record["options"]["n_embd"] == 4
    assert not {"n_layer", "out", "mode", "preset", "beta1"} & record["options"].keys()
    assert [c["step"] for c in record["checkpoints"]] == [0, 20, 40]
    assert [c["last"] for c in record["checkpoints"]] == [False, False, True]
    assert [c["best"] for c in record["checkpoints"]] == [True, False, False]
    assert read_best(runs / "kjv/checkpoints").step == record["best_step"] == 0
    for checkpoint in record["checkpoints"]:
        files = Path(checkpoint["path"]).iterdir()
        assert checkpoint["bytes"] == sum(file.stat().st_size for file in files)
    assert re.search(r"^lr +0\.02$", page, re.MULTILINE)
    assert re.search(rf"^val_loss +{result['val_loss']:.6g}$", page, re.MULTILINE)
    assert "state: finished\n" in page


def test_the_page_names_the_source_of_a_run(runs, cli):
    nanochat.train(TrainConfig(init_from="kjv@last", out="runs/tuned", steps=1, num_samples=0))
    page = cli("runs", "show", "tuned").out
    assert re.search(
        r"^started from: runs/kjv/checkpoints/step-000040, weights SHA-256 [0-9a-f]{12}…$",
        page, re.MULTILINE,
    )  # fmt: skip


def test_a_missing_run_is_one_line(runs, refused):
    assert refused("runs", "show", "kvj", code=1) == (
        "no run kvj here or in runs (did you mean 'kjv'?)"
    )
    (runs / "photos").mkdir()
    assert refused("runs", "show", "photos", code=1).startswith("runs/photos holds no run")


# ----------------------------------------------------------------------------------------- compare


@pytest.fixture
def two(runs, trained_gpt):
    """A second run that differs in lr and steps."""
    options = {**trained_gpt.options, "out": "runs/slow", "lr": 0.01, "steps": 30, "eval_every": 10}
    nanochat.train(TrainConfig(**options))
    return runs


def test_a_comparison_shows_exactly_the_options_that_differ(two, cli):
    out = cli("runs", "compare", "kjv", "slow").out
    table = {row[0]: row[1:] for row in rows(out)}
    assert table["lr"] == ["0.02", "0.01"]
    record = json.loads(cli("runs", "compare", "kjv", "slow", "--json").out)
    assert record["options"] == {"lr": [0.02, 0.01], "steps": [40, 30], "eval_every": [20, 10]}
    for number, name in enumerate(["kjv", "slow"]):
        lines = (two / name / "metrics.jsonl").read_text().splitlines()
        losses = [json.loads(r)["val_loss"] for r in lines if '"eval"' in r]
        assert record["results"][number]["best validation loss"] == min(losses)
        assert table["best validation loss"][number] == f"{min(losses):.4f}"
    assert "curves: runs/compare.svg\n" in out


def test_the_picture_has_a_curve_for_each_run(two, cli):
    assert cli("runs", "compare", "kjv", "slow", "--out=new/curves.svg").code == 0
    picture = ET.parse("new/curves.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    dots = [dot.get("fill") for dot in picture.iter(f"{space}circle")]
    evals = [
        sum('"eval"' in line for line in (two / name / "metrics.jsonl").read_text().splitlines())
        for name in ("kjv", "slow")
    ]
    assert [dots.count(color) for color in dict.fromkeys(dots)] == evals
    texts = [text.text for text in picture.iter(f"{space}text")]
    assert any(text.startswith("kjv (") for text in texts)
    assert any(text.startswith("slow (") for text in texts)


def test_runs_with_other_tokens_are_compared_in_bits_per_byte(two, cli, trained_gpt):
    options = {**trained_gpt.options, "out": "runs/bytes", "tokenizer": "byte"}
    nanochat.train(TrainConfig(**options))
    result = cli("runs", "compare", "kjv", "bytes")
    assert "compare bits per byte, not losses per token" in result.err
    assert "loss, bits per byte" in Path("runs/compare.svg").read_text()


def test_runs_that_validate_on_other_texts_are_told(two, cli, trained_gpt):
    nanochat.train(TrainConfig(**{**trained_gpt.options, "out": "runs/other", "seed": 3}))
    assert "validate on different texts" in cli("runs", "compare", "kjv", "other").err
    assert cli("runs", "compare", "kjv", "slow").err == ""


# -------------------------------------------------------------------------------- remove and prune


def answer(monkeypatch, text):
    stdin = TerminalText(text)
    monkeypatch.setattr(sys, "stdin", stdin)


@pytest.mark.parametrize(
    ("text", "left"), [("y\n", []), ("YES\n", []), ("n\n", ["kjv"]), ("", ["kjv"])]
)
def test_a_removal_asks_on_a_terminal(runs, cli, monkeypatch, text, left):
    answer(monkeypatch, text)
    result = cli("runs", "remove", "kjv")
    assert result.code == 0
    assert os.listdir(runs) == left
    assert "Remove this run? [y/N]" in result.err
    assert ("nothing removed" in result.err) == bool(left)


def test_a_removal_without_a_terminal_needs_yes(runs, cli, refused, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert refused("runs", "remove", "kjv") == (
        "runs remove asks on a terminal; add --yes to remove without asking"
    )
    size = summarize(runs / "kjv").size_bytes
    assert cli("runs", "remove", "kjv", "--yes").out == f"removed runs/kjv, {size_text(size)}\n"
    assert os.listdir(runs) == []


def test_nothing_is_removed_if_one_of_the_runs_is_refused(runs, refused):
    shutil.copytree(runs / "kjv", runs / "busy")
    (runs / "photos").mkdir()
    refused("runs", "remove", "kjv", "photos", "--yes", code=1)
    with locked(runs / "busy"):
        assert refused("runs", "remove", "kjv", "busy", "--yes", code=1) == (
            "runs/busy is being written; wait for the run or stop it first"
        )
    assert sorted(os.listdir(runs)) == ["busy", "kjv", "photos"]


def test_a_run_named_twice_is_removed_once(runs, cli):
    record = json.loads(cli("runs", "remove", "kjv", "runs/kjv", "--yes", "--json").out)
    assert record["removed"] == ["runs/kjv"]


def test_pruning_goes_through_all_runs_and_tells_what_it_freed(runs, cli):
    for name in ("a", "b"):
        shutil.copytree(runs / "kjv", runs / name)
    (runs / "link").symlink_to("kjv")
    for name, best in (("a", 20), ("b", 40), ("kjv", 40)):
        shutil.rmtree(runs / name / "checkpoints/step-000000")
        mark_best(runs / name / f"checkpoints/step-{best:06d}", 2.5)
    before = sum(summarize(runs / name).size_bytes for name in ("a", "b", "kjv"))
    out = cli("runs", "prune", "--keep=best").out.splitlines()
    after = sum(summarize(runs / name).size_bytes for name in ("a", "b", "kjv"))
    assert out[0] == "runs/a: kept all 2 checkpoints"
    assert out[1].startswith("runs/b: removed 1 of 2 checkpoints (step 20), freed ")
    assert out[2].startswith("runs/kjv: removed 1 of 2 checkpoints (step 20), freed ")
    assert out[3] == f"freed {size_text(before - after)}"
    assert cli("sample", "kjv", "--quiet").code == 0


def test_pruning_leaves_the_age_of_a_run_as_it_was(runs):
    written(runs / "kjv", 1e9)
    prune_run(runs / "kjv", Keep(1))
    assert summarize(runs / "kjv").written_s == 1e9


def test_a_link_or_a_checkpoint_is_not_pruned(runs, refused):
    (runs / "link").symlink_to("kjv")
    assert refused("runs", "prune", "link", code=1) == (
        "runs/link is a link; name the folder that it points to"
    )
    path = "runs/kjv/checkpoints/step-000020"
    assert refused("runs", "prune", path, code=1) == f"{path} is one checkpoint; name its run"
