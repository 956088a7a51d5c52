"""A model of the user's own: a Python file that defines ScalarModel, TensorModel or both.

Owns reading, importing and checking the file, and what the user is told about a fault in it.
Nothing here takes a path from a run folder: only a file that the user has named is imported.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from nanochat.config.given_file import read_given_file
from nanochat.config.option import shown
from nanochat.config.options import TrainConfig
from nanochat.errors import ConfigError, ModelFileError, NanochatError
from nanochat.model.changes import MOST_CHANGES, check_changes
from nanochat.model.parameters import Changes
from nanochat.system import torch_import
from nanochat.system.streams import prints_as_progress
from nanochat.system.wording import counted, printable

__all__ = [
    "CLASSES", "ModelFile", "Rule", "changes_of", "computed_too_early", "kind_of",
    "load_model_file", "read_model_file", "short",
]  # fmt: skip

CLASSES = {"scalar": "ScalarModel", "tensor": "TensorModel"}
_PARAMETERS = "parameters"  # the optional function
_MOST_CALLS = 12  # of a traceback that are shown

# What a method that the user overrides must return: a reason why a result is wrong, or "".
Rule = Callable[[Any, Any], str]  # result and first argument


@dataclass(frozen=True, slots=True, eq=False)
class ModelFile:
    """A file that was imported."""

    path: str  # as the user wrote it
    source: bytes
    sha256: str
    module: ModuleType
    _changes: dict[TrainConfig, Changes] = field(default_factory=dict, init=False, repr=False)

    def defines(self, mode: str) -> bool:
        return hasattr(self.module, CLASSES[mode])

    def check_defines(self, mode: str) -> None:
        """Raise ConfigError if the file has no model for an engine."""
        if not self.defines(mode):
            other = next(each for each in CLASSES if each != mode)
            raise ConfigError(
                f"model_file {printable(self.path)} must define {CLASSES[mode]} for mode {mode},"
                f" got only {CLASSES[other]}; define it, or use mode {other}"
            )

    def model_class(self, mode: str, base: type, base_block: type) -> type:
        """Return the model of an engine. Raises ConfigError for one of the wrong kind."""
        self.check_defines(mode)
        name = CLASSES[mode]
        found = getattr(self.module, name)
        self._check_subclass(name, found, base)
        self._check_subclass(f"block of {name}", found.block, base_block)
        return found  # type: ignore[no-any-return]  # checked above

    def _check_subclass(self, name: str, found: Any, base: type) -> None:
        if not (isinstance(found, type) and issubclass(found, base)):
            got = found.__name__ if isinstance(found, type) else shown(found)
            raise ConfigError(
                f"{name} of model_file {printable(self.path)} must be a subclass of"
                f" {base.__module__}.{base.__qualname__}, got {got}"
            )

    def parameters(self, config: TrainConfig) -> Changes:
        """Return what the file's `parameters(config)` changes of the model's matrices, by name.

        The function is called once per config. Raises ConfigError for a result that no model has.
        """
        if config not in self._changes:
            self._changes[config] = self._called(config)
        return self._changes[config]

    def _called(self, config: TrainConfig) -> Changes:
        function = getattr(self.module, _PARAMETERS, None)
        if function is None:
            return {}
        with self.faults():
            found = function(config)
        where = f"{_PARAMETERS} of model_file {printable(self.path)}"
        if not isinstance(found, Mapping) or len(found) > MOST_CHANGES:
            got = f"{len(found):,}" if isinstance(found, Mapping) else shown(found)
            raise ConfigError(
                f"{where} must return a dict of at most {MOST_CHANGES:,} names with their shapes,"
                f" got {got}"
            )
        check_changes(where, found, config)
        return {
            str(name): None if shape is None else (int(shape[0]), int(shape[1]))
            for name, shape in sorted(found.items())
        }

    def record(self, config: TrainConfig) -> dict[str, Any]:
        """Return what a checkpoint keeps: enough to verify it without running the file."""
        return {"sha256": self.sha256, "parameters": dict(self.parameters(config))}

    # ------------------------------------------------------------------------------------- faults

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Run the user's code: what it prints goes to stderr, and an exception becomes a
        ModelFileError, which keeps it as its cause."""
        try:
            with prints_as_progress():
                yield
        except (NanochatError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            raise self.fault(error) from error

    def fault(self, error: BaseException) -> ModelFileError:
        """Return the error that shows the user's own lines of a traceback, and no others."""
        what = traceback.format_exception_only(type(error), error)
        frames = [
            (line, frame.f_code.co_name)
            for frame, line in traceback.walk_tb(error.__traceback__)
            if frame.f_code.co_filename == self.path
        ]
        last = frames[-1][0] if frames else 0
        if isinstance(error, SyntaxError) and error.filename == self.path and error.lineno:
            last = error.lineno
        details = "\n".join([*self._excerpt(frames), "".join(what).rstrip("\n")])
        # A syntax error's lines come first, the notes of another exception last.
        reason = what[-1 if isinstance(error, SyntaxError) else 0].strip().splitlines()
        if isinstance(error, SystemExit):
            reason = [f"a model file must not end the program, got {reason[0]}; raise an error"]
        return ModelFileError(f"{self._place(last)}: {' '.join(reason)}", details)

    def _excerpt(self, frames: Sequence[tuple[int, str]]) -> list[str]:
        """Return the traceback of lines of this file. Of a deep recursion, the middle is left
        out."""
        lines = self.source.decode("utf-8-sig", errors="replace").splitlines()
        shown_lines = ["Traceback (most recent call last):"] if frames else []
        left_out = range(_MOST_CALLS // 2, len(frames) - _MOST_CALLS // 2)
        for index, (line, name) in enumerate(frames):
            if index not in left_out:
                shown_lines.append(f'  File "{self.path}", line {line}, in {name}')
                if 0 < line <= len(lines):
                    shown_lines.append(f"    {lines[line - 1].strip()}")
            elif index == left_out.start:
                shown_lines.append(f"  … {counted(len(left_out), 'call')} left out …")
        return shown_lines

    def place_of(self, *methods: object) -> str:
        """Return the file and the line of the first method that it has."""
        for method in methods:
            code = getattr(method, "__code__", None)
            if isinstance(code, CodeType) and code.co_filename == self.path:
                return self._place(code.co_firstlineno)
        return self._place(0)

    def _place(self, line: int) -> str:
        return f"{printable(self.path)}, line {line}" if line else printable(self.path)

    def guarded(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method whose exceptions are those of `faults`."""

        @wraps(method)
        def call(*arguments: Any, **named: Any) -> Any:
            with self.faults():
                return method(*arguments, **named)

        return call

    def checked(self, kind: type, base: type, rules: Mapping[str, Rule], **attributes: Any) -> type:
        """Return a subclass in which the results of overridden methods are checked."""
        checked = type(kind.__name__, (kind,), {"__module__": kind.__module__, **attributes})
        for name, rule in rules.items():
            if getattr(kind, name) is not getattr(base, name):
                setattr(checked, name, self._checked_method(checked, name, rule))
        return checked

    def _checked_method(self, checked: Any, name: str, rule: Rule) -> Callable[..., Any]:
        overridden = getattr(super(checked, checked), name)
        place = self.place_of(overridden)

        @wraps(overridden)
        def call(model: Any, *arguments: Any, **named: Any) -> Any:
            method = getattr(super(checked, model), name)  # bound, unless it is a staticmethod
            result = method(*arguments, **named)
            if wrong := rule(result, arguments[0] if arguments else _first(method, named)):
                raise ModelFileError(f"{place}: {name} of {checked.__name__} must return {wrong}")
            return result

        return call


def _first(method: Callable[..., Any], named: Mapping[str, Any]) -> Any:
    """Return the first argument of a call in which all have names."""
    return next(iter(inspect.signature(method).bind(**named).arguments.values()))


def kind_of(value: Any) -> str:
    """Return the type of a value for a message."""
    return "None" if value is None else type(value).__name__


def computed_too_early(place: str, path: str) -> str:
    """Return the message about a number that `__init__` computes from the weights."""
    return (
        f"{place}: {path} must not be computed from the weights by __init__, because it keeps its"
        " first numbers while they are trained; compute it in the method that uses it"
    )


def changes_of(own: ModelFile | None, config: TrainConfig) -> Changes:
    """Return what a model file, if there is one, changes of the model's matrices."""
    return {} if own is None else own.parameters(config)


# --------------------------------------------------------------------------------------- loading


def short(sha256: str) -> str:
    """Return the first digits of a SHA-256, as messages show it."""
    return f"{sha256[:12]}…"


def read_model_file(path: str) -> bytes:
    """Return the content of a file without running it. Raises ConfigError."""
    content = read_given_file("model_file", path, "a Python file", "a file that defines a model")
    try:
        content.decode("utf-8-sig")
        is_text = b"\0" not in content
    except UnicodeDecodeError:
        is_text = False
    if not is_text:
        raise ConfigError(
            f"model_file must be Python text in UTF-8, got {printable(path)}, which is not text;"
            " name another file, or leave model_file out"
        )
    return content


def load_model_file(path: str, sha256: str | None = None, of: str = "") -> ModelFile:
    """Import a file that the user has named, and check that it defines a model.

    With the SHA-256 of the file that the run `of` was trained with, any other file is refused
    before it is run. Raises ConfigError, and ModelFileError for a fault in the file.
    """
    source = read_model_file(path)
    found = hashlib.sha256(source).hexdigest()
    if sha256 is not None and found != sha256:
        raise ConfigError(
            f"model_file {printable(path)} must be the file that {of} was trained with (SHA-256"
            f" {short(sha256)}), got {short(found)}; name that file, or train a new run with this"
            " one"
        )
    # The same text under the same path is one module, so that its classes stay the same.
    name = f"nanochat_model_{hashlib.sha256(path.encode() + b':' + source).hexdigest()[:16]}"
    module = sys.modules.get(name)
    own = ModelFile(path, source, found, module or ModuleType(name))
    if module is None:
        _run(own)
    if not any(own.defines(mode) for mode in CLASSES):
        raise ConfigError(
            f"model_file {printable(path)} must define {' or '.join(CLASSES.values())}, got"
            " neither; see docs/change-the-model.md"
        )
    return own


def _run(own: ModelFile) -> None:
    """Run the text of a file as its module."""
    module = own.module
    module.__file__ = str(Path(own.path).absolute())
    sys.modules[module.__name__] = module  # dataclasses and pickle look it up
    torch_import.wait()  # the file may import parts of torch
    try:
        with own.faults():
            text = own.source.decode("utf-8-sig")
            exec(compile(text, own.path, "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[module.__name__]
        raise
