"""The programs of a race. Each is started by its own commands on the same bytes.

Peers run unmodified, in copies of their checkouts and under separate interpreters. Only their seed
is changed from outside, because they have no option for it.
"""

from __future__ import annotations

import math
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from bench.command import environment_without_root, module_command, nanochat_command
from bench.race.data import RaceText, documents
from bench.race.sides import Lines

# Both peers seed torch with a constant. The seed of the race is added to it.
_SEEDED = (
    "import runpy, sys, torch; moved = int(sys.argv.pop(1)); seeds = torch.manual_seed;"
    " torch.manual_seed = lambda seed: seeds(seed + moved); sys.argv = sys.argv[1:];"
    " runpy.run_path(sys.argv[0], run_name='__main__')"
)


def checkout_of(source: str, folder: Path) -> Path:
    """Return the folder, or clone `URL@REVISION`. Raises SystemExit if git fails."""
    if Path(source).is_dir():
        return Path(source).resolve()
    url, _, revision = source.rpartition("@")
    target = folder / "checkouts" / Path(url).name
    clone = ["git", "clone", "--quiet", url or source, str(target)]
    choose = ["git", "-C", str(target), "checkout", "--quiet", revision or "HEAD"]
    for command in (clone, choose):
        if subprocess.run(command).returncode:
            raise SystemExit(f"cannot check out {source}: {shlex.join(command)} failed")
    return target


def _caches(out: Path) -> dict[str, str]:
    """Return the environment with the compilers' caches in an empty folder."""
    caches = {name: str(out / name) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")}
    return {**environment_without_root(), **caches}


def score(
    kind: str, checkpoint: Path, validation: Path, *checkout: Path, python: str = sys.executable
) -> list[str]:
    """Return the command of the scorer."""
    paths = (checkpoint, validation, *checkout)
    return module_command("bench.race.scorer", kind, *paths, python=python)


def _sum_ms(pattern: str, lines: Lines) -> float | None:
    times = [float(found[1]) for _, line in lines if (found := re.search(pattern, line))]
    return sum(times) / 1e3 if times else None


@dataclass(frozen=True)
class Ours:
    """`nanochat train`."""

    loss: ClassVar[re.Pattern[str]] = re.compile(r"^step \d+/\d+ .*?val loss ([\d.]+)")
    loss_unit: ClassVar[float] = 1.0

    def commands(
        self, arguments: Sequence[str], seed: int, text: RaceText, out: Path
    ) -> list[list[str]]:
        train = ["train", *self.data(text), "--seed", str(seed), "--out", str(out / "run")]
        return [[nanochat_command(), *train, *arguments]]

    def data(self, text: RaceText) -> list[str]:
        return ["--data", str(text.whole), "--documents", "file"]

    def folder(self, out: Path) -> Path:
        return out

    def environment(self, out: Path) -> Mapping[str, str]:
        return _caches(out)

    def steps_seconds(self, lines: Lines) -> float | None:
        for _, line in lines:
            if found := re.search(r"\bsteps=(\d+) .*\bsteps_per_sec=([\d.]+)", line):
                steps = int(found[1])
                return steps / float(found[2]) if steps else 0.0  # counts take no steps
        return None

    def checkpoint(self, out: Path) -> Path:
        return out / "run"

    def score_command(self, checkpoint: Path, validation: Path) -> list[str]:
        return score("ours", checkpoint, validation)


@dataclass(frozen=True)
class OursOfBpe(Ours):
    """`nanochat train` with bpe: its log has losses per token, which the curve does not show."""

    loss: ClassVar[re.Pattern[str]] = re.compile(r"(?!)([\d.]+)")


@dataclass(frozen=True)
class OursWithoutValidation(Ours):
    """`nanochat train` on a file of the training part alone, all of it: nothing is chosen."""

    def data(self, text: RaceText) -> list[str]:
        return ["--data", str(text.train_file), "--documents", "file", "--val-fraction", "0"]


@dataclass(frozen=True)
class OursOfLines(Ours):
    """`nanochat train` with one document per line, on a file of the training part alone."""

    def data(self, text: RaceText) -> list[str]:
        return ["--data", str(text.train_file), "--documents", "line", "--val-fraction", "0"]

    def score_command(self, checkpoint: Path, validation: Path) -> list[str]:
        return score("ours-lines", checkpoint, validation)


@dataclass(frozen=True)
class NanoGPT:
    """karpathy/nanoGPT's train.py with its README's recipe for a CPU."""

    checkout: Path  # a copy with the data of the race
    python: str

    loss: ClassVar[re.Pattern[str]] = re.compile(r"^step \d+: train loss [\d.]+, val loss ([\d.]+)")
    loss_unit: ClassVar[float] = 1.0
    RECIPE: ClassVar[tuple[str, ...]] = (
        "config/train_shakespeare_char.py", "--device=cpu", "--compile=False", "--eval_iters=20",
        "--log_interval=1", "--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4",
        "--n_embd=128", "--max_iters=2000", "--lr_decay_iters=2000", "--dropout=0.0",
    )  # fmt: skip

    def commands(
        self, arguments: Sequence[str], seed: int, text: RaceText, out: Path
    ) -> list[list[str]]:
        recipe = [*self.RECIPE, f"--out_dir={out}", *arguments]
        return [[self.python, "-c", _SEEDED, str(seed), "train.py", *recipe]]

    def folder(self, out: Path) -> Path:
        return self.checkout

    def environment(self, out: Path) -> Mapping[str, str]:
        return _caches(out)

    def steps_seconds(self, lines: Lines) -> float | None:
        return _sum_ms(r"^iter \d+: loss .*, time ([\d.]+)ms", lines)

    def checkpoint(self, out: Path) -> Path:
        return out / "ckpt.pt"

    def score_command(self, checkpoint: Path, validation: Path) -> list[str]:
        return score("nanogpt", checkpoint, validation, self.checkout, python=self.python)


def prepare_nanogpt(checkout: Path, python: str, text: RaceText, folder: Path) -> NanoGPT:
    """Copy the checkout and let its own script prepare the data."""
    copy = folder / "nanoGPT"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", "out*"))
    data = copy / "data" / "shakespeare_char"
    shutil.copy(text.whole, data / "input.txt")
    subprocess.run([python, "prepare.py"], cwd=data, check=True, capture_output=True)
    check_nanogpt_split(data, text)
    return NanoGPT(copy, python)


def check_nanogpt_split(data: Path, text: RaceText) -> None:
    """Compare its decoded token files with the bytes of all sides. Raises SystemExit."""
    characters = pickle.loads((data / "meta.pkl").read_bytes())["itos"]
    for name, part in (("train", text.train), ("val", text.val)):
        ids = np.fromfile(data / f"{name}.bin", dtype=np.uint16)
        if "".join(characters[i] for i in ids.tolist()).encode() != part:
            raise SystemExit(
                f"nanoGPT's {name} part is not the {len(part)} bytes of the other sides"
            )


@dataclass(frozen=True)
class Nanochat:
    """karpathy/nanochat's tokenizer training and base training, as in its runs/runcpu.sh.

    Documents are the parts of the text between blank lines, because its packing crops long ones.
    Arguments before `--` go to scripts.tok_train, the others to scripts.base_train.
    """

    checkout: Path
    python: str
    shards: Path  # the parquet files that replace its dataset

    loss: ClassVar[re.Pattern[str]] = re.compile(r"^Step \d+ \| Validation bpb: ([\d.]+)")
    loss_unit: ClassVar[float] = math.log(2)
    RECIPE: ClassVar[tuple[str, ...]] = (
        "--depth=6", "--head-dim=64", "--window-pattern=L", "--max-seq-len=512",
        "--device-batch-size=32", "--total-batch-size=16384", "--core-metric-every=-1",
        "--sample-every=-1", "--eval-every=-1",
    )  # fmt: skip

    def commands(
        self, arguments: Sequence[str], seed: int, text: RaceText, out: Path
    ) -> list[list[str]]:
        folder = out / "base_data_climbmix"
        folder.mkdir()
        for shard in self.shards.glob("*.parquet"):
            (folder / shard.name).symlink_to(shard)
        dashes = list(arguments).index("--") if "--" in arguments else 0
        tokenizer, model = arguments[:dashes], arguments[dashes + 1 if dashes else 0 :]
        train = ["scripts/base_train.py", *self.RECIPE, "--model-tag=race", *model]
        return [
            [self.python, "-m", "scripts.tok_train", *tokenizer],
            [self.python, "-c", _SEEDED, str(seed), *train],
        ]

    def folder(self, out: Path) -> Path:
        return self.checkout

    def environment(self, out: Path) -> Mapping[str, str]:
        return {**_caches(out), "NANOCHAT_BASE_DIR": str(out), "HF_HUB_OFFLINE": "1"}

    def steps_seconds(self, lines: Lines) -> float | None:
        return _sum_ms(r"^step \d+/\d+ .* dt: ([\d.]+)ms", lines)

    def checkpoint(self, out: Path) -> Path:
        return out / "base_checkpoints" / "race"

    def score_command(self, checkpoint: Path, validation: Path) -> list[str]:
        return score("nanochat", checkpoint, validation, self.checkout, python=self.python)


def prepare_nanochat(checkout: Path, python: str, text: RaceText, folder: Path) -> Nanochat:
    """Write the documents as parquet shards. The last shard is the validation part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shards = folder / "shards"
    shards.mkdir()
    for number, part in enumerate((text.train, text.val)):
        table = pa.table({"text": documents(part.decode("ascii"))})
        pq.write_table(table, shards / f"shard_{number:05d}.parquet", row_group_size=1000)
    return Nanochat(checkout, python, shards)


@dataclass(frozen=True)
class Eemicrogpt:
    """Entrpi/eemicrogpt with hidden size 32, compiled once per set of -D options."""

    checkout: Path
    compiler: tuple[str, ...]
    builds: Path

    loss: ClassVar[re.Pattern[str]] = re.compile(r"(?!)([\d.]+)")  # it prints the training loss
    loss_unit: ClassVar[float] = 1.0
    LONGEST: ClassVar[int] = 14  # letters; it truncates longer names
    RECIPE: ClassVar[tuple[str, ...]] = ("-DD_MODEL=32", "-DLR_INIT=0.007f")  # its README's best

    def commands(
        self, arguments: Sequence[str], seed: int, text: RaceText, out: Path
    ) -> list[list[str]]:
        shutil.copy(text.train_file, out / "names.txt")
        given = {option.partition("=")[0]: option for option in (*self.RECIPE, *arguments)}
        binary = self.builds / "".join(given.values())
        source = Path(__file__).parent / "eemicrogpt"
        include = [f"-I{self.checkout}", f"-I{source / 'outside_apple'}"]
        build = [*self.compiler, *include, *given.values(), str(source / "leave_weights.c"), "-lm"]
        build += ["-o", str(binary)]
        if not binary.exists() and subprocess.run(build, capture_output=True).returncode:
            return [build]  # fails again as the run, which records the reason
        return [[str(binary), str(seed)]]

    def folder(self, out: Path) -> Path:
        return out

    def environment(self, out: Path) -> Mapping[str, str]:
        return os.environ

    def steps_seconds(self, lines: Lines) -> float | None:
        return _sum_ms(r"^Training complete in ([\d.]+) ms", lines)

    def checkpoint(self, out: Path) -> Path:
        return out / "weights.bin"

    def score_command(self, checkpoint: Path, validation: Path) -> list[str]:
        return score("eemicrogpt", checkpoint, validation)


def prepare_eemicrogpt(checkout: Path, compiler: str, text: RaceText, folder: Path) -> Eemicrogpt:
    builds = folder / "builds"
    builds.mkdir()
    return Eemicrogpt(checkout, tuple(shlex.split(compiler)), builds)
