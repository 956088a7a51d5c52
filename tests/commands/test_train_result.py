"""`nanochat.train` in Python: what it tells while it trains, and what its result offers after."""

from __future__ import annotations

import base64
import html.parser
import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import nanochat
from nanochat.commands.train_result import SAMPLE_COLUMNS
from nanochat.errors import CheckpointError, ConfigError, OutputError
from nanochat.output.progress import row_header
from nanochat.runs.checkpoint import load_checkpoint


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def expected_evaluations(folder: Path) -> list[tuple]:
    """(step, mean training loss since the last one, val loss, bits per byte, tokens) of the log."""
    found, since = [], []
    for record in records(folder):
        if record["kind"] == "step":
            since.append(record["loss"])
        else:
            mean = sum(since) / len(since) if since else None
            found.append(
                (record["step"], mean, record["val_loss"], record["val_bpb"], record["tokens"])
            )
            since = []
    return found


def figures(evaluations) -> list[tuple]:
    return [(e.step, e.train_loss, e.val_loss, e.val_bpb, e.tokens) for e in evaluations]


def newest_weights(folder: Path):
    newest = max((folder / "checkpoints").glob("step-*"))
    return load_checkpoint(newest).state.weights


@pytest.fixture
def train(folder, tiny):
    def run(on_evaluation=None, progress=False, **options):
        return nanochat.train(tiny(**options), on_evaluation=on_evaluation, progress=progress)

    return run


# ----------------------------------------------------------------------------------- while it trains


@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_every_evaluation_is_told_as_the_log_has_it(train, mode):
    told = []
    result = train(told.append, mode=mode, threads=1)
    expected = expected_evaluations(result.folder)
    assert [e[0] for e in expected] == [0, 2, 4, 6]
    assert figures(told) == expected
    seconds = [e.elapsed_s for e in told]
    assert seconds == [r["elapsed_s"] for r in records(result.folder) if r["kind"] == "eval"]
    assert all(type(e) is nanochat.Evaluation for e in told)


def test_an_evaluation_cannot_be_changed_and_has_one_short_line_of_text(train):
    told = []
    train(told.append, max_new_tokens=200)
    with pytest.raises(AttributeError):
        told[0].step = 5
    texts = [e.sample for e in told if e.sample is not None]
    assert texts
    assert all(text == text.strip() != "" and len(text) <= SAMPLE_COLUMNS + 1 for text in texts)


def test_being_told_changes_nothing_in_the_run(train):
    plain, told = train(out="plain"), train(lambda _: None, out="told", progress=True)
    assert np.array_equal(plain.losses, told.losses)
    assert plain.samples == told.samples
    a, b = newest_weights(plain.folder), newest_weights(told.folder)
    assert all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("mine"), KeyboardInterrupt(), ConfigError("x")]
)
def test_an_exception_ends_the_run_with_a_checkpoint_from_which_it_goes_on(train, error):
    whole = train(out="whole")

    def fail(evaluation):
        if evaluation.step == 4:
            raise error

    with pytest.raises(type(error)) as caught:
        train(fail, out="run")
    assert caught.value is error
    assert not Path("run/result.json").exists()
    assert load_checkpoint(Path("run/checkpoints/step-000004")).trainer.step == 4
    resumed = nanochat.train(nanochat.TrainConfig(resume=True, out="run"))
    assert np.array_equal(resumed.losses, whole.losses)
    assert figures(resumed.evaluations) == figures(whole.evaluations)
    a, b = newest_weights(Path("run")), newest_weights(Path("whole"))
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_false_ends_the_run_there_and_keeps_its_best(train):
    whole = train(out="whole")
    result = train(lambda e: e.step < 2, out="run")
    assert result.metrics["steps"] == 2 == len(result.losses)
    assert np.array_equal(result.losses, whole.losses[:2])
    assert figures(result.evaluations) == figures(whole.evaluations[:2])
    assert len(result.samples) == 2
    assert json.loads(Path("run/result.json").read_text())["steps"] == 2
    assert result.best.val_loss == min(e.val_loss for e in whole.evaluations[:2])


def test_a_run_that_was_ended_can_be_resumed_to_its_last_step(train):
    whole = train(out="whole")
    train(lambda e: e.step < 2, out="run")
    resumed = nanochat.train({"resume": True, "out": "run"})
    assert np.array_equal(resumed.losses, whole.losses)


@pytest.mark.parametrize("answer", [None, True, 0, "", []])
def test_every_other_answer_lets_the_run_go_on(train, answer):
    assert train(lambda _: answer).metrics["steps"] == 6


@pytest.mark.parametrize("step", [0, 6])
def test_the_run_can_be_ended_before_the_first_step_and_at_the_last(train, step):
    assert train(lambda e: e.step != step).metrics["steps"] == step


def test_what_cannot_be_called_is_refused_before_any_work(train, folder, monkeypatch):
    with pytest.raises(ConfigError, match="^on_evaluation must be a function, got 5$"):
        train(5, out="run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="^on_evaluation needs a single process, got 2 processes"):
        train(print, out="run")
    assert not (folder / "run").exists()


# ----------------------------------------------------------------------------------------- progress


def test_progress_prints_the_rows_of_the_terminal_in_plain_lines(train, capsys):
    result = train(progress=True)
    seen = capsys.readouterr()
    assert seen.err == ""
    lines = seen.out.splitlines()
    first = lines.index(row_header(6))
    rows = [line for line in lines[first + 1 :] if re.match(r" *\d+/6 ", line)]
    assert [row.split()[0] for row in rows] == ["0/6", "2/6", "4/6", "6/6"]
    for row, evaluation in zip(rows, result.evaluations, strict=True):
        assert f"{evaluation.val_loss:.4f}" in row
        assert f"{evaluation.val_bpb:.4f}" in row
    assert "\r" not in seen.out and "\x1b" not in seen.out
    assert not any(line.startswith(("sample ", "mode=", "run: ")) for line in lines)
    assert any(line.startswith("bigram ") for line in lines)


def test_progress_shows_the_sample_that_on_evaluation_gets(train, capsys):
    told = []
    train(told.append, progress=True)
    shown = [line[4:] for line in capsys.readouterr().out.splitlines() if line.startswith("  > ")]
    texts = [" ".join(e.sample.split()) for e in told if e.sample]
    assert shown and len(shown) == len(texts)
    assert all(
        text.startswith(line.removesuffix("...")) for line, text in zip(shown, texts, strict=True)
    )


def test_an_early_end_says_who_asked_for_it(train, capsys):
    train(lambda e: e.step < 4, progress=True)
    note = "stopped after step 4 of 6: on_evaluation returned False"
    assert note in capsys.readouterr().out.splitlines()


def test_a_stdout_that_cannot_be_written_does_not_end_the_run(train, monkeypatch):
    class Full:
        def write(self, text):
            raise OSError(28, "No space left on device")

        def flush(self):
            pass

        def isatty(self):
            return False

    monkeypatch.setattr("sys.stdout", Full())
    assert train(progress=True).metrics["steps"] == 6


# ------------------------------------------------------------------------------------------- result


def test_losses_are_those_of_the_steps_in_order(train):
    result = train()
    expected = [r["loss"] for r in records(result.folder) if r["kind"] == "step"]
    assert result.losses.dtype == np.float64
    assert result.losses.tolist() == expected
    assert len(expected) == 6
    assert result.losses[-1] == result.metrics["final_loss"]
    with pytest.raises(ValueError, match="read-only"):
        result.losses[0] = 1.0


def test_best_is_the_evaluation_that_the_run_kept(train):
    result = train(steps=40, eval_every=5, lr=0.5)
    scores = {e.step: e.val_loss for e in result.evaluations}
    assert result.best.step == result.metrics["best_step"] == min(scores, key=scores.__getitem__)
    assert result.best.val_loss == result.metrics["best_val_loss"]
    assert result.best.val_bpb == next(
        e.val_bpb for e in result.evaluations if e.step == result.best.step
    )


def test_without_validation_text_there_is_no_best(train):
    result = train(val_fraction=0.0)
    assert result.best is None
    assert [e.val_loss for e in result.evaluations] == [None] * len(result.evaluations)


def test_the_plot_is_the_curve_of_the_folder_and_can_be_saved(train, folder):
    result = train()
    plot = result.plot()
    assert plot._repr_svg_() == (result.folder / "loss.svg").read_text(encoding="utf-8")
    assert plot.save("curve.SVG") == Path("curve.SVG")
    assert ElementTree.parse(folder / "curve.SVG").getroot().tag.endswith("svg")
    assert len(repr(plot)) < 40
    assert not list(folder.glob(".*"))


def test_a_plot_is_saved_as_svg_alone_and_a_refusal_leaves_nothing(train, folder):
    plot = train(out="run").plot()
    with pytest.raises(
        ConfigError, match=r"^the loss curve is an SVG; path must end in \.svg, got c\.png$"
    ):
        plot.save("c.png")
    (folder / "d.svg").mkdir()
    for path, reason in (("no/c.svg", "No such file"), ("d.svg", "Is a directory")):
        with pytest.raises(OutputError, match=f"^cannot write {path}: {reason}"):
            plot.save(path)
    assert sorted(p.name for p in folder.iterdir()) == ["d.svg", "names.txt", "run"]


class Table(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.cells, self.images = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attributes)["src"])

    def handle_data(self, data):
        self.cells.append(data)


def test_a_notebook_shows_the_figures_and_the_curve(train):
    result = train()
    table = Table(result._repr_html_())
    assert set(table.tags) == {"table", "tr", "th", "td", "img"}
    rows = dict(zip(table.cells[::2], table.cells[1::2], strict=True))
    metrics = result.metrics
    assert rows["run"] == str(result.folder)
    assert (
        rows["validation"]
        == f"{metrics['val_loss']:.4f} nats per token, {metrics['val_bpb']:.4f} bits per byte"
    )
    assert rows["steps"] == f"6 (best: {metrics['best_step']})"
    counting = json.loads((result.folder / "result.json").read_text())["baseline_bpb"]
    assert rows["counting"].endswith(f"{counting:.4f} bits per byte")
    (image,) = table.images
    data = image.removeprefix("data:image/svg+xml;base64,")
    assert base64.b64decode(data) == (result.folder / "loss.svg").read_bytes()


def test_a_result_is_printed_as_the_table_of_a_notebook(train):
    result = train()
    lines = repr(result).splitlines()
    assert (lines[0], lines[-1]) == ("TrainResult(", ")")
    rows = dict(line.strip().split(":", 1) for line in lines[1:-1])
    cells = Table(result._repr_html_()).cells
    assert {name: text.strip() for name, text in rows.items()} == dict(
        zip(cells[::2], cells[1::2], strict=True)
    )


def test_text_of_the_user_is_escaped(train):
    name = '<script>alert("&")</script>'.replace("/", "-")
    result = train(out=name)
    table = Table(result._repr_html_())
    assert "script" not in table.tags
    assert name in table.cells


def test_a_result_whose_folder_is_gone_still_shows_its_figures(train):
    result = train(out="run")
    shutil.rmtree("run")
    table = Table(result._repr_html_())
    assert "img" not in table.tags
    assert "validation" in table.cells
    for ask in (lambda: result.losses, lambda: result.best, result.plot):
        with pytest.raises(
            CheckpointError, match=r"^cannot read run/.*: No such file or directory; "
        ):
            ask()


def test_options_may_be_given_as_a_dict(folder, tiny):
    result = nanochat.train(tiny(out="run"))
    assert result.metrics["steps"] == 6
    same = nanochat.train(nanochat.TrainConfig(**tiny(out="same")))
    assert np.array_equal(result.losses, same.losses)
