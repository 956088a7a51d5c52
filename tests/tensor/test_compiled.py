"""`--compile`: equal steps with and without torch.compile, when `auto` compiles, and failures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensor.batch_makers import (
    everything,
    make_engine,
    packed,
    settings,
    small_config,
    total_nats,
    windows,
)

from nanochat.errors import UnsupportedOption
from nanochat.tensor.compiled import GPU_STEPS, compile_pays, has_one_shape

# torch's compiler emits these while it is imported.
IMPORT_WARNINGS = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
BATCHES = {"windows": windows, "packed": lambda rows, width, seed: packed(seed)}


def walk(steps: int = 6, dtype: str = "float64", kind: str = "windows", **options: Any) -> Any:
    """Return losses and norms of some steps, and the engine."""
    engine = make_engine(small_config(grad_clip=1.0, **options), dtype=dtype)
    found = []
    for seed in range(steps):
        metrics = engine.step([BATCHES[kind](4, 8, seed=seed)], settings()).read()
        found.append((metrics.loss, metrics.grad_norm))
    return found, engine


def check_same(dtype: str = "float64", rtol: float = 1e-10, **options: Any) -> None:
    expected, plain = walk(dtype=dtype, **options)
    found, engine = walk(dtype=dtype, compile="on", **options)
    assert (plain.backend, engine.backend) == ("torch", "torch-compiled")
    np.testing.assert_allclose(found, expected, rtol=rtol)
    assert total_nats(engine, packed(99)) == pytest.approx(total_nats(plain, packed(99)), rel=rtol)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make torch.compile trace and differentiate, but run the result with torch instead of code."""
    torch.compiler.reset()
    whole = partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr("torch.compile", lambda function, mode: whole(function))


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "relu", "positions": "learned", "qk_norm": False, "input_rmsnorm": False},
        {"logit_softcap": 5.0, "tie_lm_head": True, "loss": "torch", "output_rmsnorm": True},
        {"kind": "packed", "prev_token_tables": 1, "hash_embed_rows": 16},
        {"dropout": 0.3, "optimizer": "muon"},
        {"model_kind": "bigram"},
    ],
    ids=["classic", "tied", "bags", "dropout", "bigram"],
)
def test_compiled_steps_have_the_losses_of_plain_steps(
    traced: None, options: dict[str, Any]
) -> None:
    check_same(**options)


@IMPORT_WARNINGS
def test_steps_of_generated_code_have_the_losses_of_plain_steps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    check_same(dtype="float32", rtol=1e-5, dropout=0.1, n_layer=1)


def test_native_steps_with_dropout_have_the_losses_of_plain_steps() -> None:
    """Both draw the same dropout, for microbatches with segments and padding."""
    for dtype, rtol in (("float64", 1e-12), ("float32", 1e-5), ("bfloat16", 0.01)):
        runs = [
            walk(dtype=dtype, kind="packed", dropout=0.3, loss=loss) for loss in ("fused", "torch")
        ]
        found, expected = (np.array(metrics) for metrics, _ in runs)
        np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=rtol)
        # The rounding errors of earlier steps move later gradients by more than the losses.
        steps = 1 if dtype == "bfloat16" else len(found)
        np.testing.assert_allclose(found[:steps, 1], expected[:steps, 1], rtol=rtol)
        if dtype == "float64":
            np.testing.assert_allclose(
                *(np.concatenate([a.ravel() for a in weights(engine)]) for _, engine in runs),
                rtol=1e-9, atol=1e-12,
            )  # fmt: skip


def weights(engine: Any) -> list[Any]:
    return list(engine.state_dict().weights.values())


@pytest.mark.parametrize(
    ("compile_option", "device", "steps", "expected"),
    [
        ("auto", "cpu", 10**6, False),
        ("auto", "cuda", GPU_STEPS - 1, False),
        ("auto", "cuda", GPU_STEPS, True),
        ("on", "cpu", 1, True),
        ("off", "cuda", 10**6, False),
    ],
)
def test_auto_compiles_long_runs_on_a_gpu(
    compile_option: str, device: str, steps: int, expected: bool
) -> None:
    assert compile_pays(small_config(compile=compile_option, steps=steps), device) is expected


def test_cuda_graphs_serve_batches_of_one_shape() -> None:
    assert has_one_shape(small_config(batching="windows"))
    assert not has_one_shape(small_config(batching="packed"))
    assert not has_one_shape(small_config(batching="windows", prev_token_tables=1))


@IMPORT_WARNINGS
def test_a_missing_compiler_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    import torch._inductor.config as inductor  # takes seconds

    torch.compiler.reset()
    engine = make_engine(small_config(model_kind="bigram", compile="on"), dtype="float32")
    before = everything(engine)
    # MonkeyPatch would leave the settings deleted: torch does not keep them in the module.
    with (
        inductor.patch({"cpp.cxx": ("no-such-compiler",), "compile_threads": 1}),
        pytest.raises(UnsupportedOption) as caught,
    ):
        engine.step([windows(4, 8)], settings())
    message = str(caught.value)
    assert message.startswith("compile on does not work on this machine: ") and message.endswith(
        "; use compile off"
    )
    assert "\n" not in message
    assert everything(engine) == before
