"""One model in several processes under torchrun: the process group, its sum, and a text to all."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from nanochat.errors import ProcessGroupError
from nanochat.system.processes import check_rendezvous, local_rank, rank, world

__all__ = ["all_reduce", "from_rank_0", "init", "local_rank", "rank", "world"]

_GRACE_S = 2.0  # in which torch's own timeout ends the join with its reason


def init(device: torch.device, timeout_s: float = 60.0) -> None:
    """Join the process group if there are several processes; a second call does nothing.

    `timeout_s` is how long a process waits for the others, now and in each later sum. Raises
    ConfigError for an incomplete environment, ProcessGroupError if joining fails.
    """
    if world() == 1 or dist.is_initialized():
        return
    check_rendezvous()
    if os.environ["MASTER_ADDR"] in ("127.0.0.1", "localhost"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the host's own name may not resolve
    try:
        _join(device, timeout_s)
    except (RuntimeError, ValueError, TimeoutError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ProcessGroupError(
            f"rank {rank()} cannot join {world()} processes at {address}: {_first_sentence(error)}"
        ) from error


def _join(device: torch.device, timeout_s: float) -> None:
    """Join the group on another thread: torch waits without end for the answer of a rank 0 that has
    accepted the connection and hangs."""
    errors: list[BaseException] = []

    def join() -> None:
        try:
            if device.type == "cuda":
                torch.cuda.set_device(device)  # each thread has its own
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout_s)
            )
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=join, name="join processes", daemon=True)
    thread.start()
    thread.join(timeout_s + _GRACE_S)
    if thread.is_alive():
        raise TimeoutError(f"rank 0 has not answered within {timeout_s:g} s")
    if errors:
        raise errors[0]


def all_reduce(tensor: Tensor) -> None:
    """Replace the tensor by its sum over all processes. Raises ProcessGroupError if one ended."""
    if world() == 1:
        return
    with _lost_process():
        dist.all_reduce(tensor)


def from_rank_0(text: str) -> str:
    """Return the text that rank 0 passes; the others' is ignored. Raises ProcessGroupError if a
    process ended."""
    if world() == 1:
        return text
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    own = bytearray(text.encode("utf-8", "surrogateescape")) if rank() == 0 else bytearray()
    size = torch.tensor([len(own)], device=device)
    with _lost_process():
        # As bytes: torch's broadcast of objects would unpickle them.
        dist.broadcast(size, src=0)
        if not size.item():
            return ""
        sent = torch.frombuffer(own or bytearray(int(size.item())), dtype=torch.uint8).to(device)
        dist.broadcast(sent, src=0)
    return bytes(sent.tolist()).decode("utf-8", "surrogateescape")


@contextmanager
def _lost_process() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ProcessGroupError(
            f"rank {rank()} lost another process of this run, whose own message says why:"
            f" {_first_sentence(error)}"
        ) from error


def _first_sentence(error: Exception) -> str:
    """Return the first sentence of torch's message without the place in its sources."""
    line = re.sub(r"^\[[^\]]*\.cc:\d+\] ", "", str(error).strip()).partition("\n")[0]
    return line.partition(". ")[0].rstrip(".")
