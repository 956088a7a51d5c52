"""One model on several processes under torchrun: who we are, and one sum over all of us."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor

from nanochat.system.processes import local_rank, rank, world

__all__ = ["all_reduce", "init", "local_rank", "rank", "world"]


def init(device: torch.device) -> None:
    """Join the group if there is one to join; a second call does nothing."""
    if world() == 1 or dist.is_initialized():
        return
    if os.environ.get("MASTER_ADDR") in ("127.0.0.1", "localhost"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the host's own name may not resolve
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def all_reduce(tensor: Tensor) -> None:
    """Replace the tensor by its sum over all processes."""
    if world() > 1:
        dist.all_reduce(tensor)
