"""The command line: exit codes, one-line errors, help, completion, and its whole surface pinned.

After a deliberate change of options: `python tests/test_cli.py` writes the snapshot anew.
"""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import cli as module
from nanochat.cli import main
from nanochat.config.options import AblateConfig, EvalConfig, SampleConfig, TrainConfig, options_of
from nanochat.output.terminal import _Bar

SNAPSHOT = Path(__file__).parent / "snapshots" / "cli.json"
COMMANDS = ("train", "sample", "eval", "ablate", "info")
OUTPUT_OPTIONS = {"train": 3, "sample": 3, "eval": 3, "ablate": 3, "info": 2}


def surface() -> dict[str, dict[str, object]]:
    """Every option of every command: its flag, kind, default, choices and range."""
    commands: dict[str, dict[str, object]] = {}
    for command in COMMANDS:
        options = {}
        for name, option in module._command_options(command).items():
            options["--" + name.replace("_", "-")] = {
                "kind": option.kind.__name__,
                "default": list(option.default) if option.kind is tuple else option.default,
                "choices": list(option.choices) if option.choices else None,
                "low": option.low,
                "high": option.high,
                "low_open": option.low_open,
                "group": option.group,
                "common": option.common,
            }
        commands[command] = options
    return commands


def test_the_surface_is_the_one_in_the_snapshot():
    assert surface() == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def flags_in(help_text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", help_text))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_all_shows_every_option_of_the_snapshot_and_no_other(command, cli):
    result = cli(command, "--help-all")
    assert (result.code, result.err) == (0, "")
    options = surface()[command]
    negatives = {"--no-" + f[2:] for f, o in options.items() if o["kind"] == "bool"}
    output = {"--quiet", "--json"} | ({"--config"} if options else set())
    shown = flags_in(result.out) - {"--help-all"}
    assert shown == {*options, *negatives, *output}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_the_common_options_in_groups(command, cli):
    result = cli(command, "--help")
    assert (result.code, result.err) == (0, "")
    options = surface()[command]
    common = {flag for flag, option in options.items() if option["common"]}
    assert {f for f in flags_in(result.out) if f in options} == common
    for group in {options[flag]["group"] for flag in common}:
        assert f"─ {group} ─" in result.out
    assert "`nanochat COMMAND --help-all` shows every option." in result.out


def test_train_shows_about_twenty_options():
    common = [flag for flag, option in surface()["train"].items() if option["common"]]
    assert 18 <= len(common) + OUTPUT_OPTIONS["train"] <= 24


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_default_and_choices_of_what_it_shows(command, cli):
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", cli(command, "--help-all").out).split())
    for option in surface()[command].values():
        default = option["default"]
        if default not in (None, "", []):
            shown = str(default).lower() if isinstance(default, bool) else str(default)
            assert f"[default: {shown}]" in text
        if option["choices"]:
            assert f"[{', '.join(option['choices'])}]" in text


def test_the_front_page_lists_the_commands(cli):
    for words in ([], ["--help"], ["-h"]):
        result = cli(*words)
        assert result.code == 0
        for command in COMMANDS:
            assert re.search(rf"│ {command} ", result.out)
    assert len(cli("--help").out.splitlines()) < 30


def test_version_is_the_installed_one(cli):
    from importlib.metadata import version

    assert cli("--version").out == f"{version('nanochat-lab')}\n"


def test_every_config_is_a_command():
    assert {c for c in module._CONFIGS.values() if c} == {
        TrainConfig, SampleConfig, EvalConfig, AblateConfig,
    }  # fmt: skip
    assert set(surface()["ablate"]) == {
        "--" + name.replace("_", "-")
        for name in {**options_of(AblateConfig), **options_of(TrainConfig)} if name != "resume"
    }  # fmt: skip


# ------------------------------------------------------------------------------ exit codes and errors


USAGE = [
    (["trian"], 'Unknown command "trian". Did you mean "train"?'),
    (["train", "extra"], "Unused Tokens: ['extra']."),
    (["train", "--steps"], "parameter --steps requires an argument"),
    (["train", "--stpes=3"], "Unknown option: --stpes. Did you mean --steps?"),
    (["train", "--tie-lm-head=maybe"], "maybe"),
    (["info", "--steps=3"], "--steps"),
    (["eval", "--resume"], "--resume"),
    (["train", "--lr", "-1"], "lr must be finite and > 0, got -1"),
    (["train", "--lr", "-inf"], "lr must be finite and > 0, got -inf"),
    (["sample", "--temperature", "nan"], "temperature must be finite and > 0, got nan"),
]


@pytest.mark.parametrize(("words", "message"), USAGE)
def test_a_mistake_of_usage_is_one_line_and_exit_code_2(words, message, refused, folder):
    assert message in refused(*words)


def test_negative_numbers_are_values_and_no_flags(refused, folder):
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


def test_the_installed_command_is_the_same_main():
    from importlib.metadata import entry_points

    (command,) = (e for e in entry_points(group="console_scripts") if e.name == "nanochat")
    assert command.load() is main


def test_an_interrupt_outside_training_is_one_line_and_exit_code_130(monkeypatch, cli, folder):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("nanochat.commands.info.info", interrupt)
    result = cli("info")
    assert (result.code, result.out, result.err) == (130, "", "error: interrupted\n")


def test_a_lack_of_memory_is_one_line_and_exit_code_1(monkeypatch, refused):
    def refuse(*args, **kwargs):
        raise MemoryError("Unable to allocate 7.00 EiB")

    monkeypatch.setattr("nanochat.commands.info.info", refuse)
    assert refused("info", code=1) == (
        "not enough memory; lower batch_size, block_size, n_embd or num_samples"
    )


def test_an_error_of_several_lines_is_told_in_one(monkeypatch, refused):
    def fail(*args, **kwargs):
        raise module.NanochatError("first\nsecond")

    monkeypatch.setattr("nanochat.commands.info.info", fail)
    assert refused("info") == "first second"


def test_a_reader_that_leaves_early_is_no_traceback(folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "nanochat", "sample", "--baseline=counts", "--num-samples=10000",
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


FIGURES = r"step 300/300  loss \d\.\d+  val loss \d\.\d+  [\d,]+ tokens/s"


class TerminalText(io.StringIO):
    """What a terminal is sent."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_with_losses_speed_and_time_left(folder, tiny, flags, monkeypatch):
    seen = TerminalText()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", seen)
    monkeypatch.setattr(_Bar, "AFTER_S", 0.0)  # as if the run had lasted
    words = ["train", *flags(**tiny("mini-gpt", out="run", steps=300, eval_every=100))]
    assert main(words) == 0
    assert "\x1b[" in seen.getvalue() and "━" in seen.getvalue()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.getvalue())
    assert re.search(FIGURES, plain)
    assert re.search(r"\d\d:\d\d left", plain)


def test_a_run_that_is_over_at_once_leaves_its_last_figures_on_the_terminal(
    folder, tiny, flags, monkeypatch
):
    seen = TerminalText()
    monkeypatch.setattr(sys, "stderr", seen)
    monkeypatch.setattr(_Bar, "AFTER_S", 1e9)
    words = ["train", *flags(**tiny("mini-gpt", out="run", steps=300, eval_every=100))]
    assert main(words) == 0
    assert "━" not in seen.getvalue()
    assert len(re.findall(rf"^{FIGURES}$", seen.getvalue(), re.MULTILINE)) == 1


def test_results_on_a_terminal_are_plain_text(folder, tiny, flags):
    words = ["train", *flags(**tiny("mini-gpt", out="run", steps=300, eval_every=100))]
    code, out, seen = on_a_terminal(words, folder)
    assert code == 0
    assert re.search(FIGURES, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen))
    assert "\x1b" not in out and out.splitlines()[-1] == "run: run"


# ------------------------------------------------------------------------ plain words, read at once


def plain_words(command: str) -> st.SearchStrategy[list[str]]:
    """Well-formed options of a command, each once, in any order and spelling."""
    each = []
    for name, option in module._command_options(command).items():
        flag = "--" + name.replace("_", "-")
        if option.kind is bool:
            each.append(st.sampled_from([[flag], ["--no-" + flag[2:]]]))
        elif option.kind is not tuple:
            value = st.sampled_from(["1", "0.5", "a b", "x=y", "é"])
            each.append(st.builds(lambda f, v: [f"{f}={v}"], st.just(flag), value))
            each.append(st.builds(lambda f, v: [f, v], st.just(flag), value))
    each += [st.just(["--quiet"]), st.just(["--json"]), st.just(["--config", "x.toml"])]

    def option(words: list[str]) -> str:
        return words[0].split("=")[0].replace("--no-", "--")

    lists = st.lists(st.one_of(each), max_size=6, unique_by=option)
    return lists.map(lambda options: [word for option in options for word in option])


@pytest.mark.parametrize("command", ["train", "sample", "eval", "ablate"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_plain_words_are_read_as_cyclopts_reads_them(command, data):
    words = [command, *data.draw(plain_words(command))]
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_call", lambda command, flags: calls.append((command, flags)) or 0)
        quick = module._plain_flags(words)
        assert module._parse_and_call(words) == 0
    (read,) = calls
    if quick is not None:  # else one flag was there in two spellings
        assert read == (command, quick)


ODD = [
    [], ["--help"], ["train", "--help"], ["train", "--steps"], ["train", "--steps="],
    ["train", "--steps", "-1"], ["train", "--steps=-1"], ["train", "--nope=1"], ["train", "1"],
    ["train", "--steps=1", "--steps=2"], ["train", "--tie-lm-head", "--no-tie-lm-head"],
    ["train", "--tie-lm-head=true"], ["train", "--n_embd=4"], ["train", "-q"],
    ["ablate", "--vary=n_layer=1,2"], ["trian"],
]  # fmt: skip


@pytest.mark.parametrize("words", ODD, ids=" ".join)
def test_any_other_words_are_left_to_cyclopts(words):
    assert module._plain_flags(words) is None


def test_a_plain_command_does_not_load_the_parser(python, folder, tiny, flags):
    words = ["train", *flags(**tiny(out="run")), "--quiet"]
    code = f"import sys; from nanochat.cli import main; main({words!r})\n"
    code += "unwanted = {'cyclopts', 'rich', 'matplotlib', 'torch', 'numba', 'psutil', 'pooch'}\n"
    code += "print(sorted(unwanted & set(sys.modules)))"
    assert python("-c", code).stdout.splitlines()[-1] == "[]"


def test_quiet_shows_a_terminal_nothing(folder, tiny, flags):
    words = ["train", *flags(**tiny(out="run")), "--quiet"]
    code, out, seen = on_a_terminal(words, folder)
    assert (code, seen) == (0, "")
    assert out


# ---------------------------------------------------------------------------------------- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_installed_and_knows_every_option(shell, python, tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "SHELL": f"/bin/{shell}",
                   "ZDOTDIR": str(tmp_path)}  # fmt: skip
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        environment.pop(name, None)
    done = python("-m", "nanochat", "--install-completion", "--shell", shell, env=environment)
    assert done.returncode == 0, done.stderr
    (script,) = (path for path in tmp_path.rglob("*nanochat*") if path.is_file())
    text = script.read_text()
    for command in COMMANDS:
        assert command in text
    for flag in surface()["train"]:
        assert flag.removeprefix("--") in text


def test_a_signal_before_training_ends_the_command(folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "nanochat", "sample", "--baseline=counts", "--num-samples=1000000"],
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
    assert err.endswith("error: interrupted\n")
    assert "Traceback" not in err
    assert process.returncode == 130


if __name__ == "__main__":
    SNAPSHOT.parent.mkdir(exist_ok=True)
    SNAPSHOT.write_text(json.dumps(surface(), indent=1) + "\n", encoding="utf-8")
