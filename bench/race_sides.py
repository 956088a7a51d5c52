"""The sides of a race: how each is started on the same bytes, and what its run left behind.

Peers run unmodified, in their own checkout and by their own commands. Only the seed of nanoGPT,
which it has no option for, is moved from outside.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from race_data import RaceText

NANOGPT_RECIPE = (  # its README's for a CPU
    "config/train_shakespeare_char.py", "--device=cpu", "--compile=False", "--eval_iters=20",
    "--log_interval=1", "--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4",
    "--n_embd=128", "--max_iters=2000", "--lr_decay_iters=2000", "--dropout=0.0",
)  # fmt: skip

# Its train.py seeds torch with a constant: the same, moved by ours.
_SEEDED = (
    "import runpy, sys, torch; moved = int(sys.argv.pop(1)); seeds = torch.manual_seed;"
    " torch.manual_seed = lambda seed: seeds(seed + moved); sys.argv = sys.argv[1:];"
    " runpy.run_path(sys.argv[0], run_name='__main__')"
)


@dataclass(frozen=True)
class Side:
    """One entrant. `kind` says how it is run and scored."""

    name: str
    kind: str  # ours, nanogpt
    arguments: tuple[str, ...]  # of `nanochat train`, or beside nanoGPT's recipe
    seeds: tuple[int, ...]
    checkout: Path | None = None
    skipped: str = ""  # why it does not start


@dataclass
class Run:
    """One process, from its start to its end."""

    side: str
    seed: int
    status: str = "ok"  # ok, failed, timeout, skipped
    reason: str = ""
    seconds: float | None = None  # the whole process
    steps_seconds: float | None = None  # of its training steps alone, by its own log
    checkpoint: Path | None = None
    curve: list[tuple[float, float]] = field(default_factory=list)  # seconds, its own estimate

    def record(self) -> dict[str, object]:
        return {
            "side": self.side, "seed": self.seed, "status": self.status, "reason": self.reason,
            "seconds": self.seconds, "steps_seconds": self.steps_seconds,
            "curve": [list(point) for point in self.curve],
        }  # fmt: skip


def checkout_of(source: str, folder: Path) -> Path:
    """A folder, or `URL@REVISION`, cloned. Raises SystemExit where git cannot."""
    if Path(source).is_dir():
        return Path(source).resolve()
    url, _, revision = source.rpartition("@")
    target = folder / "checkout"
    clone = ["git", "clone", "--quiet", url or source, str(target)]
    choose = ["git", "-C", str(target), "checkout", "--quiet", revision or "HEAD"]
    for command in (clone, choose):
        if subprocess.run(command).returncode:
            raise SystemExit(f"cannot check out {source}: {shlex.join(command)} failed")
    return target


def prepare_nanogpt(checkout: Path, text: RaceText, folder: Path) -> Path:
    """A copy of the checkout whose own script has made its data of the text."""
    copy = folder / "nanoGPT"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", "out*"))
    data = copy / "data" / "shakespeare_char"
    shutil.copy(text.whole, data / "input.txt")
    subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True, capture_output=True)
    check_nanogpt_split(data, text)
    return copy


def check_nanogpt_split(data: Path, text: RaceText) -> None:
    """Its token files, spelled out, are the bytes that all sides have. Raises SystemExit."""
    import pickle

    import numpy as np

    spelled = pickle.loads((data / "meta.pkl").read_bytes())["itos"]
    for name, part in (("train", text.train), ("val", text.val)):
        ids = np.fromfile(data / f"{name}.bin", dtype=np.uint16)
        if "".join(spelled[i] for i in ids.tolist()).encode() != part:
            raise SystemExit(f"nanoGPT's {name} part is not the {len(part)} bytes of the others")


def run(side: Side, seed: int, text: RaceText, folder: Path, timeout: float) -> Run:
    """Start the side's process in an empty folder with empty caches, and wait for its end."""
    done = Run(side.name, seed)
    if side.skipped:
        done.status, done.reason = "skipped", side.skipped
        return done
    out = Path(tempfile.mkdtemp(dir=folder))
    command, cwd = command_of(side, seed, text, out)
    lines, status = _timed_lines(command, cwd, _empty_caches(out), timeout, done)
    if status == "timeout":
        done.status, done.reason = status, f"ran past {timeout:g} s"
    elif status != "0":
        last = lines[-1][1] if lines else "no output"
        done.status, done.reason = "failed", f"exit status {status}: {last[:300]}"
    _read_log(side, lines, done)
    if done.status == "ok":
        done.checkpoint = out / ("run" if side.kind == "ours" else "ckpt.pt")
        if not done.checkpoint.exists():
            done.status, done.reason = "failed", f"left no {done.checkpoint.name}"
    return done


def command_of(side: Side, seed: int, text: RaceText, out: Path) -> tuple[list[str], Path]:
    if side.kind == "ours":
        command = [
            sys.executable, "-m", "nanochat", "train", "--data", str(text.whole), "--documents",
            "file", "--seed", str(seed), "--out", str(out / "run"), *side.arguments,
        ]  # fmt: skip
        return command, out
    assert side.checkout is not None
    recipe = [*NANOGPT_RECIPE, f"--out_dir={out}", *side.arguments]
    return [sys.executable, "-c", _SEEDED, str(seed), "train.py", *recipe], side.checkout


def _empty_caches(out: Path) -> Mapping[str, str]:
    caches = {name: str(out / name) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")}
    return {**os.environ, **caches}


def _timed_lines(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str], timeout: float, done: Run
) -> tuple[list[tuple[float, str]], str]:
    """What the process printed, each line with its second, and its exit status or `timeout`."""
    lines: list[tuple[float, str]] = []
    started = time.perf_counter()
    with subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL, text=True, bufsize=1,
    ) as process:  # fmt: skip
        # A timer of its own, because reading a line waits for it.
        killer = _kill_after(process, timeout)
        assert process.stdout is not None
        lines.extend((time.perf_counter() - started, line.rstrip()) for line in process.stdout)
        status = process.wait()
        done.seconds = time.perf_counter() - started
        killer.cancel()
    return lines, "timeout" if done.seconds >= timeout else str(status)


def _kill_after(process: subprocess.Popen[str], timeout: float) -> threading.Timer:
    killer = threading.Timer(timeout, process.kill)
    killer.start()
    return killer


_OURS_EVALUATED = re.compile(r"^step \d+/\d+ .*?val loss ([\d.]+)")
_OURS_RATE = re.compile(r"\bsteps=(\d+) .*\bsteps_per_sec=([\d.]+)")
_NANOGPT_EVALUATED = re.compile(r"^step \d+: train loss [\d.]+, val loss ([\d.]+)")
_NANOGPT_STEP = re.compile(r"^iter \d+: loss .*, time ([\d.]+)ms")


def _read_log(side: Side, lines: Sequence[tuple[float, str]], done: Run) -> None:
    evaluated = _OURS_EVALUATED if side.kind == "ours" else _NANOGPT_EVALUATED
    for second, line in lines:
        if found := evaluated.search(line):
            done.curve.append((second, float(found[1])))
        if side.kind == "ours" and (found := _OURS_RATE.search(line)):
            done.steps_seconds = int(found[1]) / float(found[2])
        elif side.kind == "nanogpt" and (found := _NANOGPT_STEP.search(line)):
            done.steps_seconds = (done.steps_seconds or 0.0) + float(found[1]) / 1e3
