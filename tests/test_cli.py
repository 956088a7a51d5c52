"""The command line: exit codes, one-line errors, help, completion, and a snapshot of all options.

After a deliberate change of options, `python tests/test_cli.py` writes the snapshot again.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nonempty import nonempty

from nanochat import cli as module
from nanochat.cli import main
from nanochat.config.completion import SHELLS, completion_script
from nanochat.config.flags import COMMANDS as TABLE
from nanochat.config.flags import command_options, read_flags
from nanochat.config.options import (
    AUTO,
    PRESETS,
    AblateConfig,
    ChatConfig,
    EvalConfig,
    ExportConfig,
    InfoConfig,
    InspectConfig,
    RunsCompareConfig,
    RunsConfig,
    RunsPruneConfig,
    RunsRemoveConfig,
    RunsShowConfig,
    SampleConfig,
    ServeConfig,
    TrainConfig,
    options_of,
)
from nanochat.errors import ConfigError
from nanochat.output.progress import Screen

SNAPSHOT = Path(__file__).parent / "snapshots" / "cli.json"
RUNS = ("runs", "runs show", "runs compare", "runs remove", "runs prune")
COMMANDS = ("train", "sample", "chat", "eval", "inspect", "export", "ablate", *RUNS, "info")
GENERAL = {"--config", "--quiet", "--json", "--help", "--help-all"}


def surface() -> dict[str, dict[str, object]]:
    """Return every option of every command: its flag, kind, default, choices and range."""
    commands: dict[str, dict[str, object]] = {}
    for command in COMMANDS:
        options = {}
        for name, option in command_options(command).items():
            options["--" + name.replace("_", "-")] = {
                "kind": option.kind.__name__,
                "default": list(option.default)
                if type(option.default) is tuple
                else option.default,
                "choices": list(option.choices) if option.choices else None,
                "low": option.low,
                "high": option.high,
                "low_open": option.low_open,
                "group": option.group,
                "common": option.common,
                "path": option.path,
                **({"also": [f"--{other}" for other in option.also]} if option.also else {}),
            }
        commands[command] = options
    return commands


def test_the_surface_is_the_one_in_the_snapshot():
    assert surface() == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


# ---------------------------------------------------------------------------------------- help pages


def flags_in(help_text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", help_text))


def words_of(help_text: str) -> str:
    return " ".join(help_text.split())


def default_on(page: str, flag: str) -> str:
    """The default that a help page shows for an option."""
    entry = re.search(rf"^  {flag}[ ,].*?(?=^  \S|^\S|\Z)", page, re.MULTILINE | re.DOTALL)
    assert entry, (flag, page)
    found = re.search(r"\[default: (.*)\]", words_of(entry[0]))
    return found[1] if found else ""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_all_shows_every_option_of_the_snapshot_and_no_other(command, cli):
    result = cli(*command.split(), "--help-all")
    assert (result.code, result.err) == (0, "")
    options = surface()[command]
    negatives = {"--no-" + f[2:] for f, o in options.items() if o["kind"] == "bool"}
    also = {flag for option in options.values() for flag in option.get("also", ())}
    assert flags_in(result.out) == {*options, *negatives, *also, *GENERAL}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_the_common_options_in_groups(command, cli):
    result = cli(*command.split(), "--help")
    assert (result.code, result.err) == (0, "")
    options = surface()[command]
    common = {flag for flag, option in options.items() if option["common"]}
    assert {f for f in flags_in(result.out) if f in options} == common
    for group in {options[flag]["group"] for flag in common}:
        assert f"\n{group}:\n" in result.out
    pointer = f"`nanochat {command} --help-all` shows every option."
    assert (pointer in result.out) == (command not in (*RUNS, "info"))


def test_train_shows_about_twenty_options():
    common = [flag for flag, option in surface()["train"].items() if option["common"]]
    assert 18 <= len(common) + 3 <= 24  # and --config, --quiet, --json


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_choices_of_every_option(command, cli):
    text = words_of(cli(*command.split(), "--help-all").out)
    choices = [each["choices"] for each in surface()[command].values() if each["choices"]]
    assert [each for each in choices if f"[{', '.join(each)}]" not in text] == []


def shown_default(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return " ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("command", ["sample", "eval"])
def test_help_shows_the_default_of_every_option(command, cli):
    page = cli(command, "--help-all").out
    for flag, option in nonempty(surface()[command].items()):
        expected = (
            "" if option["default"] in (None, "", (), []) else shown_default(option["default"])
        )
        assert default_on(page, flag) == expected


PAGES = [
    ([], "pico"),
    (["--mode", "tensor"], "mini"),
    (["--mode=scalar"], "pico"),
    (["--preset", "nano"], "nano"),
    (["--preset=microgpt", "--steps=3"], "microgpt"),
    (["--model-kind=bigram"], "bigram"),
    (["my.txt"], "mini"),  # a file is one long document, which trains faster in torch
    (["my.txt", "--preset=auto"], "mini"),
    (["my.txt", "--documents=line"], "pico"),
]


@pytest.mark.parametrize("order", ["after", "before"])
@pytest.mark.parametrize(("words", "preset"), PAGES)
def test_help_of_train_shows_the_defaults_of_the_preset_that_applies(words, preset, order, cli):
    asked = [*words, "--help-all"] if order == "after" else ["--help-all", *words]
    page = cli("train", *asked).out
    assert f"The defaults are those of preset {preset}." in words_of(page)
    is_open = not any(word.startswith(("--preset", "--model-kind")) for word in words)
    by_text = is_open or "--preset=auto" in words
    assert ("Preset auto chooses by the text" in words_of(page)) == by_text
    for name, option in options_of(TrainConfig).items():
        default = PRESETS[preset].get(name, option.default)
        expected = "" if default is None else shown_default(default)
        if option.auto and default == AUTO:
            expected = "auto"
        assert default_on(page, "--" + name.replace("_", "-")) == expected


def test_the_preset_of_help_may_come_from_a_file_or_a_variable(cli, folder, monkeypatch):
    Path("run.toml").write_text('preset = "nano"\n', encoding="utf-8")
    assert default_on(cli("train", "--config=run.toml", "--help").out, "--n-embd") == "96"
    monkeypatch.setenv("NCLAB_PRESET", "microgpt")
    assert default_on(cli("train", "--help").out, "--n-embd") == "16"


@pytest.mark.parametrize(
    "words", [["--stpes=3"], ["--preset=no"], ["--steps"], ["--config=no.toml"],
              ["--preset=nano", "--model-kind=bigram"]],
)  # fmt: skip
def test_help_is_shown_even_if_other_words_are_wrong(words, cli, folder):
    result = cli("train", "--help", *words)
    assert (result.code, result.err) == (0, "")
    assert default_on(result.out, "--n-embd") == "40"


def test_help_of_ablate_shows_the_defaults_of_its_runs(cli):
    page = cli("ablate", "--help-all").out
    assert (default_on(page, "--model-kind"), default_on(page, "--num-samples")) == ("bigram", "0")
    page = cli("ablate", "--vary=n_layer=1,2", "--help-all").out
    assert (default_on(page, "--model-kind"), default_on(page, "--n-embd")) == ("mini-gpt", "40")


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_the_terminal(command, columns, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = cli(*command.split(), "--help-all").out.splitlines()
    assert max(len(line) for line in lines) <= columns
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize(
    ("columns", "widest"),
    [("0", 100), ("1", 40), ("2", 40), ("-1", 100), ("x", 100), ("70", 70), ("100000", 100)],
)
def test_help_is_readable_at_any_columns(columns, widest, cli, monkeypatch):
    page = cli("train", "--help").out
    monkeypatch.setenv("COLUMNS", columns)
    result = cli("train", "--help")
    assert result.code == 0
    assert words_of(result.out) == words_of(page)
    assert max(len(line) for line in result.out.splitlines()) <= widest


def test_the_front_page_lists_the_commands(cli):
    for words in ([], ["--help"], ["-h"]):
        result = cli(*words)
        assert result.code == 0
        for command in COMMANDS:
            listed = " " not in command
            assert bool(re.search(rf"^    {command} ", result.out, re.MULTILINE)) == listed
    assert len(cli("--help").out.splitlines()) < 30


def test_the_usage_of_train_shows_the_path(cli):
    assert cli("train", "--help").out.startswith("Usage: nanochat train [OPTIONS] [PATH...]\n")
    assert cli("sample", "--help").out.startswith("Usage: nanochat sample [OPTIONS] [RUN]\n")
    assert cli("runs", "--help").out.startswith("Usage: nanochat runs [OPTIONS]\n")
    assert cli("runs", "remove", "-h").out.startswith(
        "Usage: nanochat runs remove [OPTIONS] [RUN...]\n"
    )


def test_the_page_of_runs_lists_its_commands(cli):
    page = cli("runs", "--help").out
    for command in RUNS[1:]:
        assert re.search(rf"^    {command.split()[1]} +[A-Z]", page, re.MULTILINE)


def test_version_is_the_installed_one(cli):
    from importlib.metadata import version

    assert cli("--version").out == f"{version('nanochat-lab')}\n"


def test_every_config_is_a_command():
    assert {command.config for command in TABLE.values() if command.config} == {
        TrainConfig, SampleConfig, ChatConfig, EvalConfig, InspectConfig, ExportConfig, ServeConfig, AblateConfig, RunsConfig,
        RunsShowConfig, RunsCompareConfig, RunsRemoveConfig, RunsPruneConfig, InfoConfig,
    }  # fmt: skip
    assert set(surface()["ablate"]) == {
        "--" + name.replace("_", "-")
        for name in {**options_of(AblateConfig), **options_of(TrainConfig)}
        if name not in (
            "resume", "init_from", "extend_vocabulary", "final_on_all", "rank_timeout", "show_mask",
        )
    }  # fmt: skip


# ------------------------------------------------------------------------------ exit codes and errors


USAGE = [
    (
        ["trian"],
        "unknown command trian (did you mean 'train'?)",
    ),
    (
        ["x" * 99],
        f"unknown command {'x' * 60}…; the commands are train, sample, chat, eval, inspect, export, serve, ablate, runs, info",
    ),
    (["--quiet", "train"], "unknown option --quiet of nanochat; put a command first"),
    (["--versoin"], "unknown option --versoin of nanochat (did you mean '--version'?)"),
    (
        ["--print-completion"],
        "option --print-completion needs a value, as in --print-completion=VALUE",
    ),
    (
        ["--print-completion", "ksh"],
        "shell must be one of bash, zsh, fish, tcsh, got ksh (did you mean 'zsh'?)",
    ),
    (["ablate", "extra"], "nanochat ablate takes options only, got extra"),
    (["sample", "a", "b"], "sample takes one run, got a b"),
    (["sample", "a", "--run=b"], "the run must be given once, got a and --run b; leave one out"),
    (["runs", "shwo"], "unknown command runs shwo (did you mean 'show'?)"),
    (["runs", "x"], "unknown command runs x; the commands are show, compare, remove, prune"),
    (
        ["runs", "--dir=x", "show"],
        "nanochat runs takes options only, got show; put the options after it: nanochat runs show"
        " …",
    ),
    (
        ["runs", "remove", "--ys"],
        "unknown option --ys of nanochat runs remove (did you mean '--yes'?)",
    ),
    (
        ["runs", "compare", "a"],
        "runs compare needs two runs or more, got 1; `nanochat runs` lists the runs",
    ),
    (["runs", "remove"], "runs remove needs a run; `nanochat runs` lists the runs"),
    (["runs", "--dir=no"], "dir must be a folder that holds runs, got no"),
    (
        ["runs", "prune", "--keep=lots"],
        "keep must be all, best, or like last:2,best, got lots",
    ),
    (
        ["train", "a.txt", "--data", "b.txt"],
        "the text must be given once, got a.txt and --data b.txt; leave one out",
    ),
    (
        ["train", "--data=b.txt", "a.txt", "--data=c", "d.txt"],
        "the text must be given once, got a.txt d.txt and --data b.txt c; leave one out",
    ),
    (["train", "--steps"], "option --steps needs a value, as in --steps=VALUE"),
    (["train", "--steps", "--quiet"], "option --steps needs a value, as in --steps=VALUE"),
    (["train", "--out", "-x"], "option --out needs a value, as in --out=VALUE"),
    (["train", "--stpes=3"], "unknown option --stpes of nanochat train (did you mean '--steps'?)"),
    (
        ["train", "--stpes", "3"],
        "unknown option --stpes of nanochat train (did you mean '--steps'?)",
    ),
    (
        ["train", "--no-tie-lm-haed"],
        "unknown option --no-tie-lm-haed of nanochat train (did you mean '--no-tie-lm-head'?)",
    ),
    (["train", "--step=3"], "unknown option --step of nanochat train (did you mean '--steps'?)"),
    (
        ["train", "--no-steps"],
        "unknown option --no-steps of nanochat train (did you mean '--steps'?)",
    ),
    (["train", "-q"], "unknown option -q of nanochat train"),
    (["train", "--steps=1", "--steps=1"], "option --steps must be given once"),
    (["train", "--n-embd=1", "--n_embd=1"], "option --n-embd must be given once"),
    (["train", "--tie-lm-head", "--no-tie-lm-head"], "option --tie-lm-head must be given once"),
    (["train", "--quiet", "--quiet"], "option --quiet must be given once"),
    (["train", "--quiet=1"], "option --quiet takes no value"),
    (["train", "--no-tie-lm-head=true"], "option --tie-lm-head/--no-tie-lm-head takes no value"),
    (["train", "--tie-lm-head=maybe"], "tie_lm_head must be true or false, got maybe"),
    (["train", "--tie-lm-head="], "tie_lm_head must be true or false, got ''"),
    (
        ["info", "--steps=3"],
        "unknown option --steps of nanochat info; it is an option of train and ablate",
    ),
    (["eval", "--resume"], "unknown option --resume of nanochat eval; it is an option of train"),
    (["train", "--lr", "-1"], "lr must be finite and > 0, got -1"),
    (["train", "--lr", "-.5e3"], "lr must be finite and > 0, got -.5e3"),
    (["train", "--lr", "-inf"], "lr must be finite and > 0, got -inf"),
    (["train", "--lr", "-NaN"], "lr must be finite and > 0, got -NaN"),
    (
        ["sample", "--temperature", "nan"],
        "temperature must be finite and between 0 and 10000, got nan",
    ),
    (["train", "--steps="], "steps must be a whole number between 0 and 1000000000, got ''"),
]


@pytest.mark.parametrize(("words", "message"), USAGE)
def test_a_mistake_of_usage_is_one_line_and_exit_code_2(words, message, refused, folder):
    assert refused(*words) == message


def test_negative_numbers_are_values_and_not_options(refused, folder):
    assert refused("train", "--steps", "-5") == (
        "steps must be a whole number between 0 and 1000000000, got -5"
    )


def test_python_m_nanochat_is_the_same_command(python, folder, tiny, flags):
    done = python("-m", "nanochat", "train", *flags(**tiny(out="run")), "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "run: run"
    done = python("-m", "nanochat", "train", "--steps=x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("error: steps must be a whole number between 0 and 1000000000, got x\n")
    done = python("-m", "nanochat", "sample", "--checkpoint=no")
    assert done.returncode == 1


def test_the_installed_command_is_the_same_main(monkeypatch):
    from importlib.metadata import entry_points

    (command,) = (e for e in entry_points(group="console_scripts") if e.name == "nanochat")
    codes: list[int] = []
    monkeypatch.setattr(module, "main", lambda: 7)
    monkeypatch.setattr("nanochat.__main__._leave", codes.append)
    command.load()()
    assert codes == [7]


def test_an_interrupt_outside_training_is_one_line_and_exit_code_130(monkeypatch, cli, folder):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("nanochat.commands.info.info", interrupt)
    result = cli("info")
    assert (result.code, result.out, result.err) == (130, "", "interrupted\n")


def test_a_lack_of_memory_is_one_line_and_exit_code_1(monkeypatch, refused):
    def refuse(*args, **kwargs):
        raise MemoryError("Unable to allocate 7.00 EiB")

    monkeypatch.setattr("nanochat.commands.info.info", refuse)
    assert refused("info", code=1) == (
        "not enough memory; lower batch_size, block_size, n_embd or num_samples"
    )


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EIO, "Input/output error", "a.txt"),
         "the system refused a.txt: Input/output error; check the disk, its permissions and limits"),
        (OSError(errno.EMFILE, "Too many open files"),
         "the system refused the system call: Too many open files; check the disk, its permissions"
         " and limits"),
        (ConnectionResetError(),
         "the system refused the system call: ConnectionResetError; check the disk, its permissions"
         " and limits"),
        (RecursionError("maximum recursion depth exceeded"),
         "the input is nested too deeply to be read; give one of fewer levels"),
    ],
)  # fmt: skip
def test_what_no_command_has_expected_is_one_line_and_exit_code_1(
    monkeypatch, refused, error, message
):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("nanochat.commands.info.info", fail)
    assert refused("info", code=1) == message


def test_an_error_of_several_lines_is_told_in_one(monkeypatch, refused):
    def fail(*args, **kwargs):
        raise module.NanochatError("first\nsecond")

    monkeypatch.setattr("nanochat.commands.info.info", fail)
    assert refused("info") == "first second"


def test_a_reader_that_leaves_early_is_no_traceback(folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "nanochat", "sample", "--from-counts", "--num-samples=10000",
         "--quiet"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        process.wait(timeout=60)
    assert err == b""
    assert process.returncode in (0, 1)


def test_a_terminal_that_lacks_a_letter_shows_it_escaped(folder, python, tiny, flags):
    Path("names.txt").write_text("üü\nüüü\nüüüü\n", encoding="utf-8")
    words = flags(**tiny(out="run", num_samples=4))
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = python("-m", "nanochat", "train", *words, env=environment)
    assert done.returncode == 0, done.stderr
    assert "\\xfc" in done.stdout
    words = [
        "ablate",
        "--vary=tie_lm_head=true",
        "--out=abl",
        *flags(**tiny(steps=1, num_samples=0)),
    ]
    assert python("-m", "nanochat", *words, env=environment).returncode == 0


@pytest.mark.parametrize("options", [["--quiet"], ["--json"], ["--quiet", "--json"]])
def test_errors_are_told_however_quiet_the_command(options, refused, folder):
    assert refused("train", "--data=no.txt", *options) == "no such file or folder: no.txt"


# ------------------------------------------------------------------------------------------ progress


def on_a_terminal(words: list[str], cwd: Path) -> tuple[int, str, str]:
    """Exit code, stdout and what a terminal on stderr got to see."""
    import pty  # POSIX only

    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "nanochat", *words], cwd=cwd, stdout=subprocess.PIPE, stderr=child,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(child)
    seen = b""
    with process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if not select.select([parent], [], [], 0.2)[0]:
                continue
            try:
                piece = os.read(parent, 65536)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            seen += piece
        os.close(parent)
        out = process.stdout.read()
        process.wait(timeout=60)
    return process.returncode, out.decode(), seen.decode()


class TerminalText(io.StringIO):
    """What a terminal is sent."""

    def isatty(self) -> bool:
        return True


def without_controls(seen: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen).replace("\r", "\n")


ROW = r"^ *{step}/300 +\S+ +\d+\.\d{{4}} +\d+\.\d{{4}} .*$"


def test_a_terminal_shows_a_bar_with_loss_speed_and_time_left(folder, tiny, flags, monkeypatch):
    seen = TerminalText()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", seen)
    monkeypatch.setattr(Screen, "AFTER_S", 0.0)  # as if the run had lasted
    words = ["train", *flags(**tiny("mini-gpt", out="run", steps=300, eval_every=100))]
    assert main(words) == 0
    assert "\x1b[" in seen.getvalue() and "━" in seen.getvalue()
    plain = without_controls(seen.getvalue())
    assert re.search(r"step \d+/300  loss \d\.\d{4} [━╸╺ ]+ [\d,]+ tokens/s .* left", plain)
    for step in (0, 100, 200, 300):
        assert len(re.findall(ROW.format(step=step), plain, re.MULTILINE)) == 1


def test_a_run_that_is_over_at_once_leaves_its_evaluations_on_the_terminal(
    folder, tiny, flags, monkeypatch
):
    seen = TerminalText()
    monkeypatch.setattr(sys, "stderr", seen)
    monkeypatch.setattr(Screen, "AFTER_S", 1e9)
    words = ["train", *flags(**tiny("mini-gpt", out="run", steps=300, eval_every=100))]
    assert main(words) == 0
    assert "━" not in seen.getvalue() and "\x1b" not in seen.getvalue()
    for step in (0, 100, 200, 300):
        assert len(re.findall(ROW.format(step=step), seen.getvalue(), re.MULTILINE)) == 1


def test_results_in_a_pipe_are_plain_text_though_progress_is_on_a_terminal(folder, tiny, flags):
    words = ["train", *flags(**tiny("mini-gpt", out="run", steps=300, eval_every=100))]
    code, out, seen = on_a_terminal(words, folder)
    assert code == 0
    assert re.search(ROW.format(step=300), without_controls(seen), re.MULTILINE)
    assert "\x1b" not in out and out.splitlines()[-1] == "run: run"
    assert out.splitlines()[-2].startswith("mode=scalar ")


# --------------------------------------------------------------------------------- words to options


def spellings(name: str, option) -> st.SearchStrategy[tuple[list[str], object]]:
    """Words that give an option, and the text or boolean that they mean."""
    dashes = "--" + name.replace("_", "-")
    flag = st.sampled_from([dashes, "--" + name])
    if option.kind is bool:
        yes, no = ["", "=true", "=TRUE", "=1"], ["=false", "=0", "=False"]
        forms = [(f"{dashes}{end}".split(), True) for end in yes]
        forms += [(f"{dashes}{end}".split(), False) for end in no]
        forms += [([dashes, "true"], True), ([dashes, "false"], False)]
        forms += [(["--no-" + dashes[2:]], False), ([f"--no-{name}"], False)]
        return st.sampled_from(forms)
    texts = ["1", "0.5", "a b", "x=y", "é", "", "-1", "-.5", "-1e-3", "-inf", "- a", "-", "a.txt"]
    value = st.sampled_from(texts)
    joined = st.builds(lambda f, v: ([f"{f}={v}"], v), flag, value)
    apart = st.builds(lambda f, v: ([f, v], v), flag, value)
    if option.kind is tuple:
        return st.lists(joined | apart, min_size=1, max_size=3).map(
            lambda each: ([word for words, _ in each for word in words], [v for _, v in each])
        )
    return joined | apart


@st.composite
def requests(draw, command: str) -> tuple[list[str], dict[str, object]]:
    """A list of options, each once, in any order and spelling, and what it means."""
    known = command_options(command)
    names = draw(st.lists(st.sampled_from(sorted(known)), max_size=6, unique=True))
    given = {name: draw(spellings(name, known[name])) for name in names}
    general = {"quiet": (["--quiet"], True), "json": (["--json"], True),
               "config": (["--config", "x.toml"], "x.toml")}  # fmt: skip
    for name in draw(st.sets(st.sampled_from(sorted(general)))):
        given[name] = general[name]
    groups = [words for words, _ in given.values()]
    meant = {name: value for name, (_, value) in given.items()}
    if command == "train" and "data" not in given and draw(st.booleans()):
        paths = st.sampled_from(["my.txt", "folder/", "names", "a b", "é"])
        meant["data"] = draw(st.lists(paths, min_size=1, max_size=3))
        groups.insert(draw(st.integers(0, len(groups))), meant["data"])
    return [word for words in draw(st.permutations(groups)) for word in words], meant


@pytest.mark.parametrize("command", ["train", "sample", "eval", "ablate", "runs remove"])
@settings(deadline=None)
@given(data=st.data())
def test_options_are_read_in_any_order_and_spelling(command, data):
    words, meant = data.draw(requests(command))
    assert read_flags(command, words) == meant


@pytest.mark.parametrize("command", COMMANDS)
@settings(deadline=None)
@given(data=st.data())
def test_any_words_are_read_or_refused_in_one_line(command, data):
    flags = [*surface()[command], "--no-tie-lm-head", "--quiet", "--config", "--", "-", "-x", "--x"]
    word = st.sampled_from(flags) | st.text(max_size=6) | st.sampled_from(["--n_embd=", "a", "-1"])
    words = data.draw(st.lists(word, max_size=5))
    try:
        flags = read_flags(command, words)
    except ConfigError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert all(name.isidentifier() for name in flags)


@pytest.mark.parametrize("name", ["steps", "n-embd", "tie-lm-head", "model-kind", "time-budget"])
def test_no_option_can_be_abbreviated(name, refused, folder):
    shorter = {"--" + name[:length] for length in range(3, len(name))}
    for flag in nonempty(shorter - surface()["train"].keys()):
        assert refused("train", f"{flag}=1").startswith(f"unknown option {flag} of nanochat train")


def test_the_path_of_train_is_its_data(folder, cli, tiny, flags):
    options = tiny(out="run")
    data = options.pop("data")
    assert cli("train", *flags(**options), data).code == 0
    assert cli("train", data, *flags(**{**options, "out": "again"})).code == 0
    first, again = (json.loads(Path(run, "result.json").read_text()) for run in ("run", "again"))
    assert first["val_loss"] == again["val_loss"]
    assert 'data = [\n    "names.txt",\n]' in Path("run/config.toml").read_text()


def test_paths_of_train_are_sources_in_order_wherever_they_are(folder, cli, tiny, flags):
    Path("b.txt").write_text("zoe\nyan\n", encoding="utf-8")
    options = tiny(out="run")
    del options["data"]
    assert cli("train", "names.txt", *flags(**options), "b.txt").code == 0
    assert (
        cli(
            "train", "--data=names.txt", "--data", "b.txt", *flags(**{**options, "out": "two"})
        ).code
        == 0
    )
    first, again = (json.loads(Path(run, "result.json").read_text()) for run in ("run", "two"))
    assert first["split_sha256"] == again["split_sha256"]
    assert cli("train", "--config=run/config.toml", "--out=three").code == 0
    assert read_flags("train", ["a", "--steps=1", "b"])["data"] == ["a", "b"]


def test_a_single_text_in_a_config_file_is_one_source(folder, cli, tiny, flags):
    Path("my names.txt").write_text("zoe\nyan\n", encoding="utf-8")
    Path("run.toml").write_text('data = "my names.txt"\n', encoding="utf-8")
    options = tiny(out="run")
    del options["data"]
    assert cli("train", "--config=run.toml", *flags(**options)).code == 0
    assert 'data = [\n    "my names.txt",\n]' in Path("run/config.toml").read_text()


def test_a_path_that_starts_with_a_dash_follows_two_dashes():
    assert read_flags("train", ["--steps", "3", "--", "-odd.txt"]) == {
        "steps": "3", "data": ["-odd.txt"],
    }  # fmt: skip
    assert read_flags("train", ["--", "--help"]) == {"data": ["--help"]}


def test_the_path_overrides_the_data_of_a_variable_or_file(folder, cli, tiny, flags, monkeypatch):
    monkeypatch.setenv("NCLAB_DATA", "no.txt")
    options = tiny(out="run")
    del options["data"]
    assert cli("train", "names.txt", *flags(**options)).code == 0


def test_a_command_loads_neither_help_nor_completion(python, folder, tiny, flags):
    words = ["train", *flags(**tiny(out="run")), "--quiet"]
    code = f"import sys; from nanochat.cli import main; main({words!r})\n"
    code += (
        "unwanted = {'rich_argparse', 'rich', 'shtab', 'matplotlib', 'torch', 'numba', 'psutil',"
    )
    code += " 'pooch', 'difflib', 'importlib.metadata'}\n"
    code += "print(sorted(unwanted & set(sys.modules)))"
    assert python("-c", code).stdout.splitlines()[-1] == "[]"


def test_quiet_shows_a_terminal_nothing(folder, tiny, flags):
    words = ["train", *flags(**tiny(out="run")), "--quiet"]
    code, out, seen = on_a_terminal(words, folder)
    assert (code, seen) == (0, "")
    assert out


# ---------------------------------------------------------------------------------------- completion


def install(shell: str, home: Path, python, *words: str, **variables: str):
    environment = {**os.environ, "HOME": str(home), "SHELL": f"/bin/{shell}", **variables}
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        if name not in variables:
            environment.pop(name, None)
    return python("-m", "nanochat", "--install-completion", *words, env=environment)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_completion_script_knows_every_command_option_and_choice(shell, cli):
    result = cli("--print-completion", shell)
    assert (result.code, result.err) == (0, "")
    for command, options in surface().items():
        assert re.search(rf"\b{command.split()[-1]}\b", result.out)
        for flag, option in options.items():
            assert flag.removeprefix("--") in result.out
            for choice in option["choices"] or ():
                assert choice in result.out


PLACES = {
    "bash": ".local/share/bash-completion/completions/nanochat",
    "zsh": ".zfunc/_nanochat",
    "fish": ".config/fish/completions/nanochat.fish",
}


@pytest.mark.parametrize("shell", PLACES)
def test_completion_is_installed_where_the_shell_looks(shell, python, tmp_path):
    done = install(shell, tmp_path, python)
    assert (done.returncode, done.stderr) == (0, "")
    (script,) = (path for path in tmp_path.rglob("*nanochat*") if path.is_file())
    assert script == tmp_path / PLACES[shell]
    assert script.read_text(encoding="utf-8") == completion_script(shell) + "\n"
    assert done.stdout.startswith(f"wrote {script}\n")


def test_the_shell_of_completion_can_be_named_and_its_folder_moved(python, tmp_path):
    done = install("bash", tmp_path, python, "fish", XDG_CONFIG_HOME=str(tmp_path / "x"))
    assert done.returncode == 0
    assert (tmp_path / "x/fish/completions/nanochat.fish").is_file()


def test_completion_that_cannot_be_installed_says_why(python, tmp_path):
    done = install("tcsh", tmp_path, python)
    assert (done.returncode, done.stderr) == (2, (
        "error: shell must be bash, zsh or fish, got tcsh; use --print-completion tcsh and save the"
        " script\n"
    ))  # fmt: skip
    done = install("", tmp_path, python, SHELL="")
    assert done.stderr == "error: shell must be one of bash, zsh, fish, tcsh, got ''\n"
    (tmp_path / ".zfunc").write_text("")
    done = install("zsh", tmp_path, python)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: cannot write {tmp_path}/.zfunc/_nanochat: ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_well_formed(shell, tmp_path):
    text = completion_script(shell)
    program = shutil.which(shell)
    if program:
        script = tmp_path / "script"
        script.write_text(text, encoding="utf-8")
        done = subprocess.run([program, "-n", script], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        return
    # Without the shell: quotes pair on every line of options, and the script registers itself.
    if shell == "zsh":
        assert text.startswith("#compdef nanochat\n")
        entries = [line for line in text.splitlines() if re.match(r'  ("|\{)-', line)]
        for line in entries:
            assert len(re.findall(r'(?<!\\)"', line)) % 2 == 0, line
            assert re.fullmatch(r'  ("--?[\w-]+\[.*"|\{[\w,-]+\}"\[.*")', line), line
    else:
        entries = [line for line in text.splitlines() if line.startswith("complete -c nanochat")]
        for line in entries:
            assert shlex.split(line)[:3] == ["complete", "-c", "nanochat"], line
    assert len(entries) >= sum(map(len, surface().values()))


BASH = """
source "$1"
COMP_WORDS=("${@:2}"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
_shtab_nanochat nanochat "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["tr"], ["train"]),
        (["train", "--pres"], ["--preset"]),
        (["train", "--preset", "n"], ["nano", "ngram"]),
        (["train", "na"], ["names.txt"]),
        (["train", "--tie-lm-head", "na"], ["names.txt"]),
        (["train", "--data", "na"], ["names.txt"]),
        (["eval", "--checkpoint", "na"], ["names.txt"]),
        (["eval", "na"], ["names.txt"]),
        (["ru"], ["runs"]),
        (["runs", "re"], ["remove"]),
        (["runs", "remove", "--y"], ["--yes"]),
        (["runs", "remove", "na"], ["names.txt"]),
        (["train", "names.txt", "--no-tie"], ["--no-tie-lm-head"]),
        (["--print-completion", "z"], ["zsh"]),
    ],
)
def test_bash_completes_commands_options_choices_and_files(words, offered, folder):
    Path("completion.bash").write_text(completion_script("bash"), encoding="utf-8")
    done = subprocess.run(["bash", "-c", BASH, "bash", "./completion.bash", "nanochat", *words],
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout.split() == offered, done.stderr


def test_a_signal_before_training_ends_the_command(folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "nanochat", "sample", "--from-counts", "--num-samples=1000000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell starts its background jobs, this suite perhaps, with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    with process:
        assert process.stderr.readline().startswith("sampling from the counted bigram")
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert process.returncode == 130


# ------------------------------------------------------------------------------ the end of a process


def test_a_process_that_ends_runs_what_was_registered_for_its_end(python):
    code = (
        "import atexit, sys\n"
        "from nanochat.__main__ import main\n"
        "atexit.register(print, 'registered')\n"
        "sys.argv = ['nanochat', '--version']\n"
        "main()\n"
        "print('never')\n"
    )
    done = python("-c", code)
    assert (done.returncode, done.stdout.splitlines()[1:], done.stderr) == (0, ["registered"], "")


def test_a_profiler_gets_to_report_on_a_command(python):
    done = python("-m", "cProfile", "-m", "nanochat", "--version")
    assert "function calls" in done.stdout


if __name__ == "__main__":
    SNAPSHOT.parent.mkdir(exist_ok=True)
    SNAPSHOT.write_text(json.dumps(surface(), indent=1) + "\n", encoding="utf-8")


@pytest.mark.parametrize("word", ["nan", "yes", "NO", "off", "2", "-1", "0.5", "none"])
def test_a_wrong_value_after_a_boolean_flag_names_the_option(word, refused, folder):
    message = f"tie_lm_head must be true or false, got {word}"
    assert refused("train", f"--tie-lm-head={word}") == message
    if not word.startswith("-"):
        assert refused("train", "--tie-lm-head", word) == message


def test_a_path_after_a_boolean_flag_is_a_path_whatever_its_name(folder):
    (folder / "nan").write_text("a text")
    (folder / "runs" / "2").mkdir(parents=True)
    assert read_flags("train", ["--deduplicate", "nan"]) == {"deduplicate": True, "data": ["nan"]}
    assert read_flags("sample", ["--explain", "2"]) == {"explain": True, "run": "2"}
    assert read_flags("train", ["--deduplicate", "my.txt"])["data"] == ["my.txt"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "--data=--"), "data '--' is neither a file or folder nor a registry name"),
        (("train", "names", "--data=--"),
         "the text must be given once, got names and --data --; leave one out"),
        (("sample", "--prompt=--", "--top-k=--"), "top_k must be a whole number between 0 and"),
        (("ablate", "--vary=--"), "vary must name a training option, got '__'"),
    ],
)  # fmt: skip
def test_two_dashes_are_a_value_like_any_other(folder, cli, words, message):
    """argparse makes [] of them."""
    result = cli(*words)
    assert result.err.splitlines()[-1].startswith(f"error: {message}")
