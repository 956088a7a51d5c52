"""Trains on this rank's half of each batch and prints losses and norms, for test_distributed."""

import json

import torch.distributed as dist
from tensor.batch_makers import make_engine, settings, small_config, windows

from nanochat.tensor import distributed


def main() -> None:
    engine = make_engine(small_config(grad_clip=0.1))
    rows = slice(2 * distributed.rank(), 2 * distributed.rank() + 2)
    metrics = []
    for seed in range(5):
        whole = windows(4, 8, seed=seed)
        half = windows(2, 8, global_targets=whole.global_targets)
        half.inputs[:], half.targets[:] = whole.inputs[rows], whole.targets[rows]
        result = engine.step([half], settings()).read()
        metrics.append([result.loss, result.grad_norm])
    told = [distributed.from_rank_0(f"{text}{distributed.rank()}") for text in ("ä\udcff\n", "")]
    empty = distributed.from_rank_0("" if distributed.rank() == 0 else "x")
    print(json.dumps({"metrics": metrics, "told": [*told, empty]}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
