"""The tensor engine: the torch models of this package behind the shared Engine protocol.

This file decides the order of a step and where it runs. A step queues its work and returns; the
caller that reads its result waits. The models, the optimizer and `ops` do the computing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanochat import native
from nanochat.config.options import TrainConfig
from nanochat.data.batches import IGNORE, Batch
from nanochat.errors import KernelError, OutOfMemory, UnsupportedDevice, UnsupportedDtype
from nanochat.model.model_file import ModelFile, changes_of
from nanochat.model.parameters import initial_weights, output_size, parameter_specs
from nanochat.model.state import check_shapes
from nanochat.ngram.share import (
    NETWORK_WEIGHT,
    given_share,
    mixed_losses,
    shares_of_parts,
    start_offset,
)
from nanochat.ops import linear_cross_entropy
from nanochat.ops.launch import TORCH_DTYPES
from nanochat.ops.mixture import linear_mixed_cross_entropy, linear_mixture_parts
from nanochat.tensor import distributed
from nanochat.tensor.average import WeightAverage
from nanochat.tensor.compiled import compile_pays, compiled, has_one_shape
from nanochat.tensor.decoder import open_decoder
from nanochat.tensor.dropout import Dropout
from nanochat.tensor.inputs import InputsMaker, LabeledInputs
from nanochat.tensor.native import trains
from nanochat.tensor.native.model import MiniGPT as NativeMiniGPT
from nanochat.tensor.optimizer import FlatOptimizer
from nanochat.tensor.own_model import model_of
from nanochat.tensor.parts import in_parts, is_out_of_memory
from nanochat.tensor.recording import Recording
from nanochat.tensor.weights import FlatWeights
from nanochat.training.average import split_average
from nanochat.training.engine import Decoder, EngineState, StepMetrics, StepSettings

__all__ = ["QueuedStep", "TensorEngine", "resolve_device"]

# From this hidden size on, a step in bfloat16 is faster than in float32.
BFLOAT16_N_EMBD = 96


def resolve_device(config: TrainConfig) -> tuple[str, str]:
    """Return device and dtype with `auto` replaced. Raises UnsupportedDevice, UnsupportedDtype."""
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    device = config.device
    if device == "auto":
        device = "cpu"
        if available["cuda"]:
            device = "cuda"
        elif sys.platform == "darwin" and available["mps"] and _suits_mps(config):
            device = "mps"
    if not available[device]:
        raise UnsupportedDevice(f"device {device} is not available on this machine; use device cpu")
    dtype = config.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" or _bfloat16_wins(config, device) else "float32"
    if device == "mps" and dtype != "float32":
        raise UnsupportedDtype(f"device mps does not support dtype {dtype}; use dtype float32")
    if config.loss == "fused":
        _check_kernels(device, dtype)
    return device, dtype


def _bfloat16_wins(config: TrainConfig, device: str) -> bool:
    """Return whether a CPU step is faster in bfloat16.

    It is where the processor multiplies in bfloat16 and the matrices are large enough for products
    to take most of the step (bench/results/tensor/dtypes.json).
    """
    if device != "cpu" or config.loss != "fused" or config.n_embd < BFLOAT16_N_EMBD:
        return False
    return bool(native.ffi.string(native.cpu().nck_target()) == b"avx512bf16")


def _suits_mps(config: TrainConfig) -> bool:
    return config.dtype in ("auto", "float32") and config.loss == "torch"


def _check_kernels(device: str, dtype: str) -> None:
    """Raise UnsupportedDtype or UnsupportedDevice if the fused loss has no kernel."""
    if device == "cuda" and dtype == "float64":
        raise UnsupportedDtype("loss fused does not support dtype float64 on cuda; use loss torch")
    try:
        _ = native.cuda() if device == "cuda" else native.cpu()
    except KernelError as error:
        raise UnsupportedDevice(
            f"loss fused cannot run on {device}: {error}, or use loss torch"
        ) from None


class QueuedStep:
    """A step that may still be running. Reading it waits for this step but not for later ones."""

    __slots__ = ("_metrics", "_recorded", "_written")

    def __init__(
        self, loss: Tensor, grad_norm: Tensor, stop: Tensor | None, recorded: Tensor | None
    ) -> None:
        metrics = torch.stack((loss, grad_norm) if stop is None else (loss, grad_norm, stop))
        self._written: torch.cuda.Event | None = None
        if metrics.is_cuda:  # a plain read would be queued behind the next step
            metrics = _begin_copy(metrics)
            recorded = None if recorded is None else _begin_copy(recorded)
            self._written = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has no types here
            self._written.record()
        self._metrics, self._recorded = metrics, recorded

    def read(self) -> StepMetrics:
        if self._written is not None:
            self._written.synchronize()
        loss, grad_norm, *stop = self._metrics.tolist()
        recorded = None
        if self._recorded is not None:
            recorded = self._recorded.cpu().numpy().astype(np.float64)
        return StepMetrics(loss=loss, grad_norm=grad_norm, stop=any(stop), recorded=recorded)


def _begin_copy(on_device: Tensor) -> Tensor:
    on_host = torch.empty_like(on_device, device="cpu", pin_memory=True)
    return on_host.copy_(on_device, non_blocking=True)


class TensorEngine:
    """One torch model with its optimizer. Device and dtype must be resolved, not `auto`."""

    mode = "tensor"

    def __init__(
        self,
        config: TrainConfig,
        vocab_size: int,
        *,
        device: str,
        dtype: str,
        own: ModelFile | None = None,  # of the config
    ) -> None:
        self.config = config
        self.device = device
        torch_device, torch_dtype = _prepare_machine(config, device), TORCH_DTYPES[dtype]
        changes = changes_of(own, config)
        specs = parameter_specs(config, vocab_size, changes)
        initial = initial_weights(config, vocab_size, changes)
        self.weights = FlatWeights(specs, initial, device=torch_device, dtype=torch_dtype)
        self._compiled = compile_pays(config, device)
        fast = trains(config, device, torch_dtype, compiled=self._compiled)
        outputs = output_size(config, vocab_size)
        self.model = (
            NativeMiniGPT(config, self.weights, outputs)
            if fast
            else model_of(own, config, self.weights, outputs)
        )
        self.optimizer = FlatOptimizer(config, self.weights)
        self._recording = Recording(self.weights, self.optimizer)
        self._average = WeightAverage(self.weights, config.ema) if config.ema else None
        self._inputs = InputsMaker(
            config, outputs, device=torch_device, dtype=torch_dtype, native=fast
        )
        self._dropout = None
        if config.dropout:
            self._dropout = Dropout(
                config, device=torch_device, dtype=self.weights.values.dtype, native=fast
            )
        self._fused = config.loss == "fused"
        self._start_offset = start_offset(vocab_size)
        self.share = given_share(config.ngram_share)
        self.backend = "torch-compiled" if self._compiled else "torch"
        self._loss = self._summed_nats
        if self._compiled:
            graphs = device == "cuda" and has_one_shape(config)
            self._loss = compiled(self._summed_nats, graphs=graphs)
        self._steps = 0  # steps since the start of training; seeds dropout
        self.parts = 1  # that a microbatch is trained in; auto_batch doubles it

    def step(self, microbatches: Sequence[Batch], settings: StepSettings) -> QueuedStep:
        while not self._fits(microbatches):
            self.weights.zero()  # drop the gradients of the failed try
        stop = self._reduce(settings.stop)
        self._steps += 1
        recorded = None
        if settings.watched is not None:
            recorded = self._recording.before(settings.watched)
        loss, grad_norm = self.optimizer.step(settings)
        if settings.watched is not None and recorded is not None:
            self._recording.after(settings.watched, recorded)
        if self._average is not None:
            self._average.update(self._steps, self.optimizer.stopped)
        return QueuedStep(loss, grad_norm, stop, recorded)

    def _reduce(self, stop: bool) -> Tensor | None:
        """Sum gradients, loss and requests to stop over all processes; return the last, () > 0
        where a process made one, or None in a single process."""
        if distributed.world() == 1:
            return None
        if stop:
            self.weights.stop.fill_(1.0)
        distributed.all_reduce(self.weights.step_sums)
        return self.weights.stop.clone()

    def _fits(self, microbatches: Sequence[Batch]) -> bool:
        """Accumulate all microbatches. Return False if memory ran out and smaller parts may fit."""
        try:
            for index, batch in enumerate(microbatches):
                for part, piece in enumerate(in_parts(batch, self.parts)):
                    self._accumulate(piece, index * self.parts + part)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            rows = -(-max(len(batch.inputs) for batch in microbatches) // self.parts)
            if not self.config.auto_batch or rows == 1:
                raise OutOfMemory(rows, self.config.block_size, self.config.auto_batch) from None
            self.parts *= 2
            return False
        return True

    def _accumulate(self, batch: Batch, microbatch: int) -> None:
        """Add one microbatch's part of the step's loss and gradients."""
        inputs = self._inputs(batch)
        if self._dropout is not None:
            inputs = self._dropout(inputs, self._steps, microbatch)
        nats, objective = self._loss(inputs)
        targets = max(batch.global_targets, 1)  # a step without targets has the loss 0
        scaled = objective / targets
        scaled.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        self.weights.gather()
        loss = scaled if objective is nats else nats / targets
        self.weights.loss.add_(loss.detach())

    def _summed_nats(self, inputs: LabeledInputs) -> tuple[Tensor, Tensor]:
        """Return the summed loss of all targets in nats, and what training lowers, each ()."""
        hidden = self.model.hidden(inputs)
        if self.config.ngram_order:
            assert inputs.by_counts is not None  # Dataset.by_counts
            return linear_mixed_cross_entropy(
                hidden, self.model.head, inputs.targets, inputs.by_counts,
                network_weight=NETWORK_WEIGHT, softcap=self.config.logit_softcap,
                share_offset=self._start_offset, use_native=self._fused,
            )  # fmt: skip
        nats: Tensor = linear_cross_entropy(
            hidden, self.model.head, inputs.targets,
            softcap=self.config.logit_softcap, reduction="sum", use_native=self._fused,
        )  # fmt: skip
        return nats, nats

    @torch.no_grad()
    def token_losses(self, batch: Batch) -> NDArray[np.float64]:  # (rows, length) nats
        if self.config.ngram_order:
            assert batch.by_counts is not None  # Dataset.by_counts
            network, gate = np.moveaxis(self.mixture_parts(batch), -1, 0)
            nats = mixed_losses(network, self.share.of(gate), batch.by_counts.astype(np.float64))
            return np.where(batch.targets == IGNORE, 0.0, nats)
        inputs = self._inputs(batch)
        losses = linear_cross_entropy(
            self.model.hidden(inputs), self.model.head, inputs.targets,
            softcap=self.config.logit_softcap, reduction="none", use_native=self._fused,
        )  # fmt: skip
        return _by_row(losses, batch, inputs)

    def network_losses(self, batch: Batch) -> NDArray[np.float64]:  # (rows, length) nats
        return self.mixture_parts(batch)[..., 0]

    def token_shares(self, batch: Batch) -> NDArray[np.float64]:  # (rows, length, 2)
        network, gate = np.moveaxis(self.mixture_parts(batch), -1, 0)
        return shares_of_parts(network, self.share.of(gate))

    @torch.no_grad()
    def mixture_parts(self, batch: Batch) -> NDArray[np.float64]:  # (rows, length, 2)
        inputs = self._inputs(batch)
        parts = linear_mixture_parts(
            self.model.hidden(inputs), self.model.head, inputs.targets,
            softcap=self.config.logit_softcap,
        )  # fmt: skip
        parts[:, 1] += self._start_offset
        parts[inputs.targets == IGNORE] = 0.0
        return _by_row(parts, batch, inputs)

    @torch.no_grad()
    def move_towards(self, weights: Mapping[str, NDArray[np.floating]], share: float) -> None:
        goal = self.weights.pack(weights).to(self.weights.device)
        self.weights.values.lerp_(goal, share)
        self.weights.publish()

    def averaged(self) -> AbstractContextManager[None]:
        return nullcontext() if self._average is None else self._average.in_place_of_weights()

    def notes(self) -> Sequence[str]:
        if self.parts == 1:
            return ()
        rows, accumulated = self.config.batch_size, self.config.grad_accum
        note = (
            f"batch_size {rows} did not fit in memory: trained as {self.parts} parts,"
            f" --batch-size {-(-rows // self.parts)} --grad-accum {accumulated * self.parts}"
        )
        return (note,)

    def open_decoder(self, prompts: Sequence[Sequence[int]]) -> Decoder:
        table, device = self._inputs.table, self.weights.device
        return open_decoder(self.model, self.config, table, prompts, device)

    def state_dict(self) -> EngineState:
        weights = self.weights.unpack(self.weights.values)
        optimizer = self.optimizer.state_dict()
        if self._average is not None:
            optimizer.update(self._average.state_dict())
        return EngineState(weights=weights, optimizer=optimizer, share=self.share)

    def load_state_dict(self, state: EngineState) -> None:
        shapes = {s.name: s.shape for s in self.weights.specs}
        check_shapes(state.weights, shapes, "weight")
        optimizer = state.optimizer
        average: Mapping[str, NDArray[np.floating]] = {}
        if self._average is not None and optimizer:
            average, optimizer = split_average(optimizer)
            check_shapes(average, shapes, "averaged weight")
        self.optimizer.load_state_dict(optimizer)
        self.weights.load(state.weights)
        if self._average is not None:
            self._average.load(average)
        self._steps = int(state.optimizer["step"][0]) if state.optimizer else 0
        self.share = state.share


def _by_row(values: Tensor, batch: Batch, inputs: LabeledInputs) -> NDArray[np.float64]:
    """Return values of all targets, (rows · length, …), with the shape of the targets, (…) last."""
    more = values.shape[1:]
    result = np.zeros((*batch.targets.shape, *more))  # columns past inputs.length are padding
    result[:, : inputs.length] = values.cpu().numpy().reshape(-1, inputs.length, *more)
    return result


def _prepare_machine(config: TrainConfig, device: str) -> torch.device:
    """Set threads and determinism, join the process group, return this process's device."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch_device = torch.device(device)
    if device == "cuda":
        torch_device = torch.device("cuda", distributed.local_rank())
        torch.cuda.set_device(torch_device)
        if config.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
    distributed.init(torch_device, config.rank_timeout)
    return torch_device
