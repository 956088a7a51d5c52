"""Train, sample, evaluate and compare small language models on your own text.

Train a model on the embedded names, then use it:

    import nanochat

    run = nanochat.train(nanochat.TrainConfig(steps=200))
    print(run.metrics["val_loss"], run.samples)

    print(nanochat.sample(nanochat.SampleConfig(run=run.folder, prompt="an")))
    print(nanochat.evaluate(nanochat.EvalConfig(run=run.folder)).loss)

    model = nanochat.load()                     # the newest finished run; or load("runs/x")
    print(model.generate("an"), model.next_tokens("an"), model.loss("anna"))

For your own text, pass `data="my.txt"` to TrainConfig. Every option of the command line
(`nanochat train --help-all`) is a field of a config class, with the same name and check.

Commands as functions, each with its config and its result:

    train(TrainConfig, on_evaluation=…, progress=True) -> TrainResult
                                                train a model and write its run folder
    sample(SampleConfig) -> list of str         write text with a trained model
    evaluate(EvalConfig) -> EvalResult          loss and bits per byte of a text
    inspect(InspectConfig) -> InspectResult     every number of a model on a text
    export(ExportConfig) -> ExportResult        the network for another program
    serve(ServeConfig, on_listening=…)          a trained model behind an HTTP API, until a signal
    ablate(AblateConfig, base) -> AblationResult    a grid of options over seeds
    info() -> dict                              versions, machine, native modules
    read_documents(data) -> list of str         the documents of a text, as train reads them

A trained model as an object:

    load(run, checkpoint="best") -> LanguageModel   generate, stream, next_tokens, loss, trace, …

Scalars with gradients, in the manner of micrograd and microgpt.py:

    Value           a number that remembers how it was computed; .backward() fills .grad
    Matrix          rows of Values that are stored together
    compile         record a function of Values once and replay it at SIMD speed -> Program
    select          the element of a list that a token names, for recorded functions
    detached_max    the largest of a list as a plain number, for recorded functions

`nanochat.ops` has the fused loss and sampling ops for torch programs: cross_entropy,
linear_cross_entropy and sample.

Mistakes raise a subclass of NanochatError whose message names the thing, the rule and the value.
Importing nanochat loads neither NumPy nor torch; each name is imported when it is first used.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if {name for name in os.listdir(__path__[0]) if name.startswith("_scalar.")} <= {"_scalar.pyi"}:
    # An unbuilt checkout: use the compiled files of the installed package.
    import_module("nanochat.system.checkout").borrow_compiled_files(__path__)

if TYPE_CHECKING:
    from nanochat.api.documents import read_documents
    from nanochat.api.language_model import LanguageModel
    from nanochat.api.load import load
    from nanochat.api.text_loss import TextLoss
    from nanochat.commands.ablate import AblationResult, ablate
    from nanochat.commands.evaluate import EvalResult, evaluate
    from nanochat.commands.export import ExportResult, export
    from nanochat.commands.info import info
    from nanochat.commands.inspect import InspectResult, inspect
    from nanochat.commands.sample import sample
    from nanochat.commands.serve import serve
    from nanochat.commands.train import train
    from nanochat.commands.train_result import Evaluation, TrainResult
    from nanochat.config.options import (
        AblateConfig,
        EvalConfig,
        ExportConfig,
        InspectConfig,
        SampleConfig,
        ServeConfig,
        TrainConfig,
    )
    from nanochat.errors import NanochatError
    from nanochat.inspection.trace import Trace
    from nanochat.scalar.program import Program, compile  # noqa: A004 – nanochat.compile, as torch
    from nanochat.scalar.value import Matrix, Value, detached_max, select

_HOMES = {
    "AblateConfig": "nanochat.config.options",
    "AblationResult": "nanochat.commands.ablate",
    "EvalConfig": "nanochat.config.options",
    "ExportConfig": "nanochat.config.options",
    "ExportResult": "nanochat.commands.export",
    "export": "nanochat.commands.export",
    "InspectConfig": "nanochat.config.options",
    "InspectResult": "nanochat.commands.inspect",
    "Trace": "nanochat.inspection.trace",
    "inspect": "nanochat.commands.inspect",
    "EvalResult": "nanochat.commands.evaluate",
    "Evaluation": "nanochat.commands.train_result",
    "LanguageModel": "nanochat.api.language_model",
    "NanochatError": "nanochat.errors",
    "SampleConfig": "nanochat.config.options",
    "ServeConfig": "nanochat.config.options",
    "TextLoss": "nanochat.api.text_loss",
    "TrainConfig": "nanochat.config.options",
    "TrainResult": "nanochat.commands.train_result",
    "Matrix": "nanochat.scalar.value",
    "Program": "nanochat.scalar.program",
    "Value": "nanochat.scalar.value",
    "ablate": "nanochat.commands.ablate",
    "compile": "nanochat.scalar.program",
    "detached_max": "nanochat.scalar.value",
    "evaluate": "nanochat.commands.evaluate",
    "info": "nanochat.commands.info",
    "load": "nanochat.api.load",
    "read_documents": "nanochat.api.documents",
    "sample": "nanochat.commands.sample",
    "select": "nanochat.scalar.value",
    "serve": "nanochat.commands.serve",
    "train": "nanochat.commands.train",
}

__all__ = [
    "AblateConfig",
    "AblationResult",
    "EvalConfig",
    "EvalResult",
    "Evaluation",
    "ExportConfig",
    "ExportResult",
    "InspectConfig",
    "InspectResult",
    "LanguageModel",
    "Matrix",
    "NanochatError",
    "Program",
    "SampleConfig",
    "ServeConfig",
    "TextLoss",
    "Trace",
    "TrainConfig",
    "TrainResult",
    "Value",
    "ablate",
    "compile",
    "detached_max",
    "evaluate",
    "export",
    "info",
    "inspect",
    "load",
    "read_documents",
    "sample",
    "select",
    "serve",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    if name in ("ngram", "ops"):  # packages that are offered under their own names
        return import_module(f"nanochat.{name}")
    raise AttributeError(f"module 'nanochat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
