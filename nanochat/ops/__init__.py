"""Fused loss and sampling ops for torch: `cross_entropy`, `linear_cross_entropy` and `sample`.

They run on the project's CPU and CUDA kernels, are differentiable where a derivative exists, and
work under torch.compile, autocast and DistributedDataParallel.
"""

from nanochat.ops._cross_entropy import cross_entropy
from nanochat.ops._linear_cross_entropy import linear_cross_entropy
from nanochat.ops._sample import sample

__all__ = ["cross_entropy", "linear_cross_entropy", "sample"]
