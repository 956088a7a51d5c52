"""The Python API: what it names, that it is typed and documented, and that its examples run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import operator
import pydoc
import typing
from pathlib import Path

import pytest
from nonempty import nonempty

import nanochat
from nanochat import errors

NAMES = [
    "AblateConfig", "AblationResult", "EvalConfig", "EvalResult", "Evaluation", "ExportConfig",
    "ExportResult", "InspectConfig", "InspectResult", "LanguageModel", "Matrix", "NanochatError", "Program", "SampleConfig", "ServeConfig", "TextLoss",
    "Trace", "TrainConfig", "TrainResult", "Value", "ablate", "compile", "detached_max", "evaluate", "export",
    "info",
    "inspect", "load", "read_documents", "sample", "select", "serve", "train",
]  # fmt: skip
FUNCTIONS = ("train", "sample", "evaluate", "ablate", "info", "inspect", "export", "serve")


def test_the_package_names_exactly_its_api():
    assert nanochat.__all__ == NAMES
    assert set(NAMES) <= set(dir(nanochat))
    for name in NAMES:
        assert getattr(nanochat, name) is getattr(nanochat, name)
    with pytest.raises(AttributeError, match="^module 'nanochat' has no attribute 'trian'$"):
        nanochat.trian  # noqa: B018  # looking it up is the test


def test_help_shows_how_to_load_a_model(folder, tiny, capsys):
    lines = [line for line in nanochat.__doc__.splitlines() if "model" in line and "    " in line]
    example = "\n".join(
        line.strip() for line in lines if line.strip().startswith(("model =", "print(model"))
    )
    assert example.count("\n") == 1
    for line in example.splitlines():
        assert line in pydoc.render_doc(nanochat)
    nanochat.train(nanochat.TrainConfig(**tiny(num_samples=0)))
    exec(example, {"nanochat": nanochat})
    assert capsys.readouterr().out.startswith("an")


def test_star_imports_everything():
    names: dict[str, object] = {}
    exec("from nanochat import *", names)
    assert set(NAMES) <= set(names)


def test_the_package_is_typed():
    assert Path(nanochat.__file__).with_name("py.typed").exists()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_types_and_a_docstring(name):
    function = getattr(nanochat, name)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())
    assert "terminal" in signature.parameters
    assert function.__doc__.count("\n") >= 0 and function.__doc__.strip().endswith((".", ")", "e"))


DOCUMENTED = (
    "train", "sample", "evaluate", "ablate", "TrainConfig", "load", "LanguageModel.generate",
    "LanguageModel.stream", "LanguageModel.next_tokens", "LanguageModel.loss",
    "LanguageModel.to_torch", "LanguageModel.write_model_py", "read_documents",
)  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_example_of_the_docstring_runs(name, folder, tiny, capsys):
    if name.startswith("LanguageModel."):  # they use the newest run
        nanochat.train(nanochat.TrainConfig(**tiny(steps=1, num_samples=0)))
    thing = operator.attrgetter(name)(nanochat)
    finder = doctest.DocTestFinder(recurse=False)
    scope = {"TrainConfig": nanochat.TrainConfig} if name == "TrainConfig" else {}
    (example,) = finder.find(thing, name, globs=scope)
    assert example.examples
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
    assert results.failed == 0, capsys.readouterr().out


def test_every_public_module_says_what_it_offers():
    package = Path(nanochat.__file__).parent
    every = (path.relative_to(package).with_suffix("").parts for path in package.rglob("*.py"))
    public = (w for w in every if not w[-1].startswith("__init__") and w[0] != "__main__")
    for words in nonempty(sorted(public)):
        module = importlib.import_module(".".join(("nanochat", *words)))
        assert module.__doc__, words
        for name in module.__all__:
            assert hasattr(module, name), (words, name)


PUBLIC = {
    "training.average": ["averaged_weights", "newest_weight", "saved_average", "scored_state",
                         "split_average"],
    "training.cadence": ["Cadence", "evaluation_plan"],
    "training.saving": ["Best", "Save", "Saver"],
    "runs.retention": ["kept_steps", "newest_verified", "prune_checkpoints"],
    "runs.checkpoint": ["BEST", "BestMark", "Checkpoint", "clear_leftovers", "find_checkpoint", "load_checkpoint",
                        "mark_best", "newest_checkpoint", "newest_run", "read_best",
                        "remove_checkpoint", "resolve_checkpoint", "save_checkpoint"],
    "training.blocks": ["Block", "Blocks", "step_settings"],
    "training.engine": ["BlockEngine", "BlockMetrics", "Decoder", "Engine", "EngineState", "HasProgram",
               "RECORDED", "StepMetrics", "StepResult", "StepSettings"],
    "training.guards": ["MemoryGuard", "check_finite", "check_finite_loss", "check_finite_state",
               "check_memory_fits", "check_prompt", "check_temperature", "is_finite",
               "is_finite_loss", "most_loss", "training_bytes"],
    "training.loop": ["EvalMetrics", "LoopResult", "Observer", "evaluate", "step_settings", "train"],
    "training.metrics": ["METRIC_KEYS", "JsonlWriter", "LossTotals", "NullWriter", "RecentLosses",
                "Stopwatch", "format_metric", "metrics_line"],
    "model.changes": ["MOST_CHANGES", "MOST_ROWS", "NAME", "check_changes"],
    "model.model_file": ["CLASSES", "ModelFile", "Rule", "changes_of", "computed_too_early",
                         "kind_of", "load_model_file", "read_model_file", "short"],
    "model.parameters": ["Changes", "GROUPS", "RMSNORM_EPS", "ROPE_BASE", "Spec", "draw_matrix",
                   "initial_weights", "output_size", "parameter_specs", "rotary_angles", "table_entries"],
    "sampling.sampling": ["DrawsOwnTokens", "DrawsTokens", "OpensDecoders", "PhraseBias", "RANDOM_BLOCK", "SamplingSettings", "random_block", "sample_tokens"],
    "training.deadline": ["Deadline", "TimePlan", "exit_s"],
    "training.pace": ["Pace", "Shape", "StepPace"],
    "training.schedule": ["lr_multiplier", "lr_multiplier_between", "lr_multipliers"],
    "model.state": ["AVERAGE", "STEP", "TrainerState", "check_shapes", "moment_specs",
                    "saved_shapes"],
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_the_public_surface_of_the_common_layer_is_pinned(name):
    assert sorted(importlib.import_module(f"nanochat.{name}").__all__) == sorted(PUBLIC[name])


def test_an_engine_is_what_the_protocol_says_and_no_more():
    from nanochat.training.engine import Engine

    hints = typing.get_type_hints(Engine)
    methods = {n for n, _ in inspect.getmembers(Engine, inspect.isfunction) if n[0] != "_"}
    assert set(hints) == {"mode", "backend", "device", "share"}
    assert methods == {
        "step",
        "token_losses",
        "token_shares",
        "mixture_parts",
        "move_towards",
        "network_losses",
        "averaged",
        "notes",
        "open_decoder",
        "state_dict",
        "load_state_dict",
    }


# ------------------------------------------------------------------------------------------ behaviour


def test_nothing_is_printed_by_the_api(folder, tiny, capfd):
    run = nanochat.train(nanochat.TrainConfig(**tiny(out="run")))
    nanochat.sample(nanochat.SampleConfig(checkpoint="run", num_samples=2))
    nanochat.evaluate(nanochat.EvalConfig(checkpoint="run"))
    options = tiny(steps=1, num_samples=0)
    nanochat.ablate(nanochat.AblateConfig(vary=("tie_lm_head=true",), seeds=1), options)
    assert capfd.readouterr() == ("", "")
    assert run.run == Path("run")


def test_results_cannot_be_changed(folder, tiny):
    run = nanochat.train(nanochat.TrainConfig(**tiny(out="run", steps=1)))
    with pytest.raises(AttributeError):
        run.run = Path("other")


def test_every_error_is_caught_as_one_kind(folder):
    with pytest.raises(nanochat.NanochatError):
        nanochat.train(nanochat.TrainConfig(mode="scalar", data="no.txt"))
    with pytest.raises(nanochat.NanochatError):
        nanochat.TrainConfig(mode="no")
    assert issubclass(errors.ConfigError, nanochat.NanochatError)


def test_training_works_outside_the_main_thread(folder, tiny):
    """Where Python offers no signal handlers."""
    import threading

    results = []
    thread = threading.Thread(
        target=lambda: results.append(nanochat.train(nanochat.TrainConfig(**tiny(out="run"))))
    )
    thread.start()
    thread.join()
    assert results[0].metrics["steps"] == 6


def test_value_is_the_scalar_of_the_engine():
    a, b = nanochat.Value(2.0), nanochat.Value(-3.0)
    loss = (a * b + 10).relu() ** 2 / 4
    loss.backward()
    assert (loss.data, a.grad, b.grad) == (4.0, -6.0, 4.0)
