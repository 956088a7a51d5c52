"""Every option of every command with hostile values, by flag, variable and TOML file."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import TEXT
from faults.commands import Commands, Done

from nanochat.config.flags import COMMANDS, command_options, flag_of
from nanochat.config.option import Option
from nanochat.config.options import TrainConfig, options_of
from nanochat.errors import ConfigError

LONG = "a" * 10_000
VALUES = (
    "", " ", "nan", "inf", "-inf", "-1", "0", "1e999", "1e-999", "9" * 400, "\u0663", "\uff11\uff12",
    "1_000", "0x10", "true", "none", "-", "--", "[1]", "{}", "\U0001f642", "\x1b[2J", "a\nb", LONG,
    "./nothing", "/dev/null", ".",
)  # fmt: skip
# A small run that succeeds; an option under test replaces its own.
TRAIN = {
    "data": "names.txt", "mode": "scalar", "preset": "microgpt", "n_embd": "4", "n_head": "2",
    "steps": "2", "eval_tokens": "60", "num_samples": "1", "max_new_tokens": "4", "threads": "1",
}  # fmt: skip
BASE = {
    "train": TRAIN,
    "sample": {"run": "run", "num_samples": "1", "max_new_tokens": "4"},
    "eval": {"run": "run", "data": "names.txt"},
    "ablate": {**TRAIN, "vary": "lr=0.01,0.02", "seeds": "1", "jobs": "1"},
    "runs show": {"run": "run"},
    "runs compare": {"runs": "run second"},
    "runs remove": {"runs": "gone"},
    "runs prune": {"runs": "run"},
}
LIMITS = {"memory": 3 << 30, "file_size": 64 << 20, "timeout_s": 60.0}


class Case(NamedTuple):
    command: str
    name: str
    value: str
    source: str  # flag, variable or TOML


def cases() -> Iterator[Case]:
    for command in COMMANDS:
        for name in command_options(command):
            for value in VALUES:
                for source in ("flag", "variable", "TOML"):
                    if source == "flag" or not command.startswith("runs"):
                        yield Case(command, name, value, source)


ALL = list(cases())


class Folder:
    def __init__(self, commands: Commands, folder: Path) -> None:
        self.commands, self.folder = commands, folder
        folder.mkdir()
        (folder / "names.txt").write_text(TEXT, encoding="utf-8")
        done = commands.run(*self.words("train", TRAIN), "--out=run", cwd=folder)
        assert done.code == 0, done
        shutil.copytree(folder / "run", folder / "second")
        shutil.copytree(folder, folder.parent / "kept")

    @staticmethod
    def words(command: str, options: dict[str, str]) -> list[str]:
        named = [f"{flag_of(name)}={text}" for name, text in options.items() if name != "runs"]
        return [*command.split(), *named, *options.get("runs", "").split()]

    def run(self, case: Case) -> Done:
        options = {**BASE.get(case.command, {})}
        options.pop(case.name, None)
        request: dict[str, Any] = dict(LIMITS)
        if case.source == "flag":
            words = [*self.words(case.command, options), *self.flag(case)]
        elif case.source == "variable":
            words = self.words(case.command, options)
            request["environment"] = {f"NCLAB_{case.name.upper()}": case.value}
        else:
            (self.folder / "hostile.toml").write_text(
                f"{case.name} = {json.dumps(case.value, ensure_ascii=False)}\n", encoding="utf-8"
            )
            words = [*self.words(case.command, options), "--config=hostile.toml"]
        return self.commands.run(*words, cwd=self.folder, **request)

    @staticmethod
    def flag(case: Case) -> list[str]:
        return [f"{flag_of(case.name)}={case.value}"]

    def restore(self) -> None:
        for path in self.folder.iterdir():
            if path.name not in ("names.txt", "run", "second"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in ("run", "second"):
            if not (self.folder / name / "result.json").exists():
                shutil.rmtree(self.folder / name, ignore_errors=True)
                shutil.copytree(self.folder.parent / "kept" / name, self.folder / name)

    def complaint(self, case: Case) -> str | None:
        """Return what is wrong with the answer to a case: a traceback, several lines, an option
        that is not named, a value that is repeated in full."""
        done = self.run(case)
        self.restore()
        found = done.complaint()
        if found is None and done.code == 2:
            words = done.err.replace("-", "_")
            # A separator changes the documents, which may have characters that the model lacks.
            is_of_text = "unknown token" in done.err
            # A word of the message may have a short value in it by chance.
            is_quoted = len(case.value) > 3 and case.value[:20] in done.err
            is_quoted |= case.value == "-" and "standard input" in done.err
            # An empty grid is the default one, which does not fit the other options of this run.
            is_default = case.name == "vary" and not case.value.strip() and "model_kind" in words
            if case.name not in words and not (is_quoted or is_of_text or is_default):
                found = f"the option is not named: {done.err[-300:]}"
        if found is None and LONG in done.err + done.out:
            found = "the value is repeated in full"
        return f"{case._replace(value=case.value[:20])}: {found}" if found else None


@pytest.fixture(scope="module")
def folder(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(commands, tmp_path_factory.mktemp("options") / "work")


def test_some_hostile_values_of_each_option_get_one_clear_line(folder: Folder) -> None:
    assert [text for case in ALL[::41] if (text := folder.complaint(case))] == []


@pytest.mark.long
def test_every_hostile_value_of_each_option_gets_one_clear_line(
    folder: Folder, tried: Callable[..., None]
) -> None:
    assert [text for case in ALL if (text := folder.complaint(case))] == []
    tried(commands=len(ALL))


def choices(option: Option) -> tuple[Any, ...]:
    return (True, False) if option.kind is bool else option.choices or ()


def test_every_pair_of_choices_is_a_config_or_one_clear_line(tried: Callable[..., None]) -> None:
    options = {name: choices(option) for name, option in options_of(TrainConfig).items()}
    tries = 0
    for first, second in itertools.combinations([name for name in options if options[name]], 2):
        for values in itertools.product(options[first], options[second]):
            given = dict(zip((first, second), values, strict=True))
            tries += 1
            try:
                config = TrainConfig(**given)
            except ConfigError as error:
                assert "\n" not in str(error) and any(name in str(error) for name in given), given
            else:
                kept = {name: value for name, value in given.items() if value != "auto"}
                assert {name: getattr(config, name) for name in kept} == kept
    assert tries > 1_000
