"""Checkpoints that another person made to harm: each is refused in one line, or does no harm.

A row is an edit of a sound run, a command, and the exact message, or None where the command works as
without the edit. Every command ends within five seconds, takes at most 500 MB more memory than on the
sound run, and leaves all files outside of the run folder as they were.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import TEXT
from faults.commands import Commands, Done
from runs.saved_checkpoints import edit, rewrite

MOST_S, MOST_MORE_BYTES, ALL_BYTES = 5.0, 500 << 20, 8 << 30
STEP = Path("m/checkpoints/step-000004")
OPTIONS = (
    "--mode=scalar", "--preset=microgpt", "--n-embd=4", "--n-head=2", "--steps=4", "--eval-every=4",
    "--num-samples=1", "--max-new-tokens=5", "--keep=last:1", "--quiet",
)  # fmt: skip
COMMANDS = {
    "sample": ("sample", f"--checkpoint={STEP}", "--max-new-tokens=5", "--quiet"),
    "sample run": ("sample", "m", "--checkpoint=last", "--max-new-tokens=5", "--quiet"),
    "eval": ("eval", f"--checkpoint={STEP}", "--data=names.txt", "--quiet"),
    "eval own text": ("eval", f"--checkpoint={STEP}", "--quiet"),
    "resume": ("train", "--resume", "--out=m", "--num-samples=0", "--quiet"),
    "init": ("train", f"--init-from={STEP}", "--steps=1", "--num-samples=0", "--quiet"),
    "all": ("train", "--final-on-all=m", "--quiet"),
    "counted": ("sample", f"--checkpoint={STEP}", "--from-counts", "--quiet"),
    "info": ("info", "m"),
    "show": ("runs", "show", "m"),
    "list": ("runs", "--dir=."),
    "compare": ("runs", "compare", "m", "m", "--out=w.svg"),
}  # fmt: skip

Edit = Callable[[Path, Path], None]  # of the run's folder and of its step folder


class Case(NamedTuple):
    name: str
    edit: Edit
    message: str | None  # after "error: "; None: harmless
    command: str = "sample"


# ------------------------------------------------------------------------------------------- edits


def change(file: str, **changes: Any) -> Edit:
    return lambda run, step: edit(step, file, **changes)


def without(file: str, key: str) -> Edit:
    def apply(run: Path, step: Path) -> None:
        record = json.loads((step / file).read_bytes())
        del record[key]
        rewrite(step, file, json.dumps(record).encode())

    return apply


def raw(file: str, content: bytes) -> Edit:
    return lambda run, step: rewrite(step, file, content)


def twice(file: str, line: str) -> Edit:
    """Repeat a key at the end of a JSON object."""

    def apply(run: Path, step: Path) -> None:
        content = (step / file).read_text().rstrip()[:-1]
        rewrite(step, file, f"{content}, {line}}}".encode())

    return apply


def tensors(file: str, apply: Callable[[dict[str, Any], bytearray], Any]) -> Edit:
    """Change the header and the bytes of a safetensors file; `apply` may return other contents."""

    def change_file(run: Path, step: Path) -> None:
        content = (step / file).read_bytes()
        rewrite(step, file, changed_tensors(content, apply))

    return change_file


def changed_tensors(content: bytes, apply: Callable[[dict[str, Any], bytearray], Any]) -> bytes:
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    other = apply(header, data)
    if isinstance(other, bytes):
        return other
    text = json.dumps(other if other is not None else header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(data)


def entry(**changes: Any) -> Callable[[dict[str, Any], bytearray], None]:
    """Change the entry of the first array."""

    def apply(header: dict[str, Any], data: bytearray) -> None:
        header["wte"].update(changes)

    return apply


def typed(kind: str, size: int) -> Callable[[dict[str, Any], bytearray], None]:
    """Give every array another type."""

    def apply(header: dict[str, Any], data: bytearray) -> None:
        data.clear()
        for each in header.values():
            count = math.prod(each["shape"]) * size
            each.update(dtype=kind, data_offsets=[len(data), len(data) + count])
            data.extend(bytes(count))

    return apply


def value(name: str, number: float) -> Callable[[dict[str, Any], bytearray], None]:
    """Set the first number of an array."""

    def apply(header: dict[str, Any], data: bytearray) -> None:
        start = header[name]["data_offsets"][0]
        data[start : start + 8] = struct.pack("<d", number)

    return apply


def added(names: Callable[[], Iterator[str]]) -> Callable[[dict[str, Any], bytearray], None]:
    """Add empty arrays."""

    def apply(header: dict[str, Any], data: bytearray) -> None:
        for name in names():
            header[name] = {"dtype": "F64", "shape": [0], "data_offsets": [len(data)] * 2}

    return apply


def replaced(kind: str, name: str, below: str = "run") -> Edit:
    """Put something that is not a regular file, or a huge one, in the place of a file."""

    def apply(run: Path, step: Path) -> None:
        path = (run if below == "run" else step) / name
        path.parent.mkdir(exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "zero":
            path.symlink_to("/dev/zero")
        elif kind == "link":
            path.symlink_to(Path("victim").resolve())
        elif kind == "folder link":
            path.symlink_to(Path("outside").resolve())
        elif kind == "deep":
            path.write_text("[" * 200_000)
        else:
            with path.open("wb") as file:
                file.truncate(8 << 30)

    return apply


def log(*lines: str) -> Edit:
    return lambda run, step: (
        (run / "metrics.jsonl").write_text("".join(f"{x}\n" for x in lines)) and None
    )


# ------------------------------------------------------------------------------------------- cases

NOT_OURS = f"{STEP} was not written by nanochat: "
VERSION = f"{STEP} has a config of another version: "
WAY_OUT = "; use the version of nanochat that trained it, or train again"
COUNT = "a whole number between 0 and 9007199254740992"


def bad(file: str, rule: str) -> str:
    return f"{NOT_OURS}{file} {rule}"


TRAINER = [
    Case(f"{name} {shown}", change("trainer.json", **{name: given}),
         f"{NOT_OURS}{name} of trainer.json must be {rule}, got {shown}")
    for name, given, rule, shown in (
        ("step", "x", COUNT, "x"), ("step", None, COUNT, "null"), ("step", True, COUNT, "true"),
        ("step", -5, COUNT, "-5"), ("step", 10**18, COUNT, str(10**18)), ("step", 1.5, COUNT, "1.5"),
        ("tokens", "a", COUNT, "a"), ("tokens", -1, COUNT, "-1"),
        ("metrics_length", 1 << 60, COUNT, str(1 << 60)), ("misses", 10**19, COUNT, str(10**19)),
        ("elapsed_s", -1.0, "a number between 0 and 1e+300", "-1.0"),
        ("elapsed_s", "a", "a number between 0 and 1e+300", "a"),
        ("best_loss", "x", "a number between -1e+300 and 1e+300", "x"),
        ("best_step", "x", COUNT, "x"), ("best_step", 99, "at most the step 4", "99"),
        ("interval_steps", 99, "at most the step 4", "99"),
        ("last_losses", "abc", "a list of 0 to 50 items", "abc"),
        ("last_losses", None, "a list of 0 to 50 items", "null"),
        ("last_losses", [1.0] * 51, "a list of 0 to 50 items", "a JSON list"),
        ("budget", "x", "a JSON object", "x"), ("budget", [1], "a JSON object", "a JSON list"),
        ("share", [], "a JSON object", "a JSON list"),
    )
]  # fmt: skip
TRAINER += [
    Case("losses nested", change("trainer.json", last_losses=[[1]]),
         f"{NOT_OURS}each item of last_losses of trainer.json must be a number between -1e+300 and"
         " 1e+300, got a JSON list"),
    Case("budget empty", change("trainer.json", budget={}),
         f"{NOT_OURS}budget of trainer.json must have time_budget, got none"),
    Case("budget of odd text", change("trainer.json", budget={
        "time_budget": "soon", "spent_s": 1.0, "plan": {
            "step_s": 1.0, "pause_s": 1.0, "eval_every": 1, "after_s": 1.0, "scores_all": True,
            "most_steps": None}}),
         f"{NOT_OURS}budget of trainer.json: time_budget must be a time like 60s, 5m or 1h, got soon"),
    Case("unknown key", change("trainer.json", evil=1), bad("trainer.json", "must not have evil")),
    Case("unknown key with a control code", change("trainer.json", **{"e\x1b[2J": 1}),
         bad("trainer.json", "must not have e\\x1b[2J")),
    Case("missing key", without("trainer.json", "tokens"),
         bad("trainer.json", "must have tokens, got none")),
    Case("key twice", twice("trainer.json", '"step": 4'),
         bad("trainer.json", "must have each key once, got 'step' twice")),
    Case("share of 400 digits", raw("trainer.json", b'{"step": %s}' % (b"9" * 400)),
         bad("trainer.json", "must hold whole numbers of at most 20 digits")),
    Case("NaN", raw("trainer.json", b'{"step": NaN}'),
         bad("trainer.json", "must hold finite numbers, got NaN")),
    Case("1e999", change("trainer.json", elapsed_s=1e308),
         f"{NOT_OURS}elapsed_s of trainer.json must be a number between 0 and 1e+300, got 1e+308"),
    Case("deep", raw("trainer.json", b"[" * 60_000), bad("trainer.json", "must not be nested so deeply")),
    Case("list", raw("trainer.json", b"[]"), bad("trainer.json", "must be a JSON object, got a JSON list")),
    Case("no JSON", raw("trainer.json", b"{"),
         bad("trainer.json", "must be JSON, got another character at line 1, column 2")),
    Case("no text", raw("trainer.json", b"\xff"), bad("trainer.json", "must be text in UTF-8")),
    Case("large", raw("trainer.json", b" " * 70_000 + b"{}"),
         f"{STEP}/trainer.json must have at most 65,536 bytes, got 70,002"),
    Case("step of another folder", change("trainer.json", step=3, best_step=0, interval_steps=0),
         f"{NOT_OURS}step of trainer.json must be 4, as its folder, got 3"),
    Case("more steps than the run", change("config.json", steps=3),
         f"{NOT_OURS}step of trainer.json must be at most 3, the steps of config.json, got 4"),
]  # fmt: skip

DATA = [
    Case(f"start {name}", change("data.json", start=start), f"{NOT_OURS}{message}")
    for name, start, message in (
        ("empty", [], "start of data.json must be a list of 1 to 16 items, got a JSON list"),
        ("text", "abc", "start of data.json must be a list of 1 to 16 items, got abc"),
        ("negative", [-1], "each item of start of data.json must be a whole number between 0 and"
         " 2147483648, got -1"),
        ("huge", [10**19], "each item of start of data.json must be a whole number between 0 and"
         " 2147483648, got 10000000000000000000"),
        ("beyond", [13], "start of data.json must hold token ids below 13, the size of the"
         " vocabulary, got 13"),
        ("long", [0] * 17, "start of data.json must be a list of 1 to 16 items, got a JSON list"),
    )
]  # fmt: skip
DATA += [
    Case("initialized_from 5", change("data.json", initialized_from=5),
         f"{NOT_OURS}initialized_from of data.json must be a JSON object, got 5", "sample"),
    Case("initialized_from text", change("data.json", initialized_from="\x1b[2J"),
         f"{NOT_OURS}initialized_from of data.json must be a JSON object, got \\x1b[2J"),
    Case("split", change("data.json", split_sha256=""),
         f"{NOT_OURS}split_sha256 of data.json must be a SHA-256 of 64 hexadecimal digits, got ''"),
    Case("counts outside", change("data.json", ngram_sha256="../../../../etc/passwd"),
         f"{NOT_OURS}ngram_sha256 of data.json must be a SHA-256 of 64 hexadecimal digits, got"
         " ../../../../etc/passwd"),
    Case("val_source", change("data.json", val_source="\x1b"),
         f"{NOT_OURS}val_source of data.json must be val or train or none, got \\x1b"),
]  # fmt: skip

TOKENIZER = [
    Case("list", raw("tokenizer.json", b"[]"),
         bad("tokenizer.json", "must be {kind: byte}, {kind: char, characters: …} or {kind: bpe, …}")),
    Case("kind of a list", raw("tokenizer.json", b'{"kind":[]}'),
         bad("tokenizer.json", "must be {kind: byte}, {kind: char, characters: …} or {kind: bpe, …}")),
    Case("of another kind", raw("tokenizer.json", b'{"kind":"byte"}'),
         f"{NOT_OURS}kind of tokenizer.json must be char, as in config.json, got byte"),
    Case("of a million characters", lambda run, step: rewrite(step, "tokenizer.json", json.dumps(
        {"kind": "char", "characters": "".join(map(chr, range(0x10000, 0x110000)))}).encode()),
         f"{STEP}: weight wte must have shape (1048577, 4), got (13, 4)"),
    Case("with characters twice", change("tokenizer.json", characters="aaaaaaaaaaaa"),
         f"{STEP} has no sound tokenizer: saved tokenizer: characters must be without repeats"),
    Case("with a surrogate", raw(
        "tokenizer.json", b'{"kind":"char","characters":"abcdefghijk\\ud800"}'),
         f"{STEP} has no sound tokenizer: characters must be Unicode text, got the lone surrogate"
         " U+D800 at position 11; replace it"),
]  # fmt: skip

CONFIG = [
    Case(f"{name} {shown}", change("config.json", **{name: given}), f"{VERSION}{message}{WAY_OUT}")
    for name, given, shown, message in (
        ("n_embd", "4", "text", "n_embd of config.json must be a whole number between -1 and"
         " 9007199254740992, got 4"),
        ("n_layer", True, "true", "n_layer of config.json must be a whole number between -1 and"
         " 9007199254740992, got true"),
        ("lr", "0.1", "text", "lr of config.json must be a number between -1e+300 and 1e+300, got 0.1"),
        ("resume", True, "true", "resume of config.json must be false, got true"),
        ("time_budget", "5s", "5s", "time_budget of config.json must be None, got 5s"),
        ("final_on_all", "/etc", "/etc", "final_on_all of config.json must be None, got /etc"),
        ("evil\x1b", 1, "unknown", "evil\\x1b is not an option"),
        ("data", {"a": 1}, "object", "data of config.json must be a list of 0 to 65,536 items, got a"
         " JSON object"),
        ("n_head", 3, "3", "n_embd must be a multiple of n_head, got n_embd 4 and n_head 3; give both"),
    )
]  # fmt: skip
CONFIG += [
    Case("missing key", without("config.json", "lr_schedule"),
         f"{VERSION}config.json must have lr_schedule, got none{WAY_OUT}"),
    Case("key twice", twice("config.json", '"n_embd": 4'),
         bad("config.json", "must have each key once, got 'n_embd' twice")),
    Case("null", raw("config.json", b"null"), bad("config.json", "must be a JSON object, got null")),
    Case("deep", raw("config.json", b'{"a":' * 200_000), bad("config.json", "must not be nested so deeply")),
    Case("out elsewhere", change("config.json", out="victim-folder"), None, "resume"),
    Case("threads", change("config.json", threads=4096), None),
    *(Case(f"{name} {given}", change("config.json", **{name: given}), message) for name, given, message in (
        ("n_embd", 4096, f"{STEP}: weight wte must have shape (13, 4096), got (13, 4)"),
        ("block_size", 1 << 20, f"{STEP}: weight wpe must have shape (1048576, 4), got (16, 4)"),
        ("n_layer", 2, f"{STEP}: checkpoint lacks weight layer1.attn_wq; it belongs to another model"),
        ("dtype", "float32", f"{NOT_OURS}layer0.attn_wk of weights.safetensors must be float32, got float64"),
    )),
    Case("hashed table", change("config.json", hash_embed_rows=1 << 24, mode="tensor", dtype="float64"),
         f"{STEP}: checkpoint lacks weight wte_ngram; it belongs to another model"),
    Case("sgd", change("config.json", optimizer="sgd"),
         f"{STEP}: checkpoint lacks optimizer state momentum.wte; it belongs to another model"),
    Case("ema", change("config.json", ema=0.9),
         f"{STEP}: checkpoint lacks optimizer state average.wte; it belongs to another model"),
]  # fmt: skip

W, M = "weights.safetensors", "optimizer.safetensors"
ARRAYS = [
    Case("F16", tensors(W, typed("F16", 2)),
         bad(W, "must hold arrays of F64, F32, I64, U32, got 'F16' of 'layer0.attn_wk'")),
    Case("I64", tensors(W, typed("I64", 8)), f"{NOT_OURS}layer0.attn_wk of weights.safetensors must be float64, got int64"),
    Case("BF16", tensors(W, entry(dtype="BF16")),
         bad(W, "must hold arrays of F64, F32, I64, U32, got 'BF16' of 'wte'")),
    Case("type of a list", tensors(W, entry(dtype=[])),
         bad(W, "must hold arrays of F64, F32, I64, U32, got [] of 'wte'")),
    Case("shape of text", tensors(W, entry(shape="x")), bad(W, "must give the shape of 'wte', got 'x'")),
    Case("shape reversed", tensors(W, lambda h, d: h["wte"]["shape"].reverse()),
         f"{STEP}: weight wte must have shape (13, 4), got (4, 13)"),
    Case("huge shape", tensors(W, entry(shape=[1 << 52, 1 << 52])),
         bad(W, "must have as many bytes as the shape of 'wte' says")),
    Case("offsets of text", tensors(W, entry(data_offsets="x")),
         bad(W, "must give the place of 'wte', got 'x'")),
    Case("offsets beyond", tensors(W, entry(data_offsets=[1 << 40, (1 << 40) + 416])),
         bad(W, "must hold its arrays one after another, got 'wte' elsewhere")),
    Case("entry of a list", tensors(W, lambda h, d: h.update(wte=[])),
         bad(W, "must describe each array by data_offsets, dtype, shape, got others of 'wte'")),
    Case("another array", tensors(W, added(lambda: iter(["evil"]))),
         f"{STEP}: checkpoint has weight evil, which the model lacks; it belongs to another model"),
    Case("a control code", tensors(W, lambda h, d: h.update({"e\x1b[2J": h.pop("wte")})),
         f"{STEP}: checkpoint lacks weight wte; it belongs to another model"),
    Case("many arrays", tensors(W, added(lambda: (f"x{i}" for i in range(10_000)))),
         f"{STEP}: checkpoint has weight x0, which the model lacks; it belongs to another model"),
    Case("metadata", tensors(W, lambda h, d: h.update(__metadata__={"a": "b"})),
         bad(W, "must describe each array by data_offsets, dtype, shape, got others of '__metadata__'")),
    Case("deep header", tensors(W, lambda h, d: struct.pack("<Q", 80_000) + b"[" * 80_000 + bytes(d)),
         bad(W, "must not be nested so deeply")),
    Case("null header", tensors(W, lambda h, d: struct.pack("<Q", 8) + b"null    " + bytes(d)),
         bad(W, "must be a safetensors file, got a header that is not an object")),
    Case("no header", tensors(W, lambda h, d: b"\xff" * 3000),
         bad(W, "must be a safetensors file, got another format")),
    Case("array twice", tensors(W, lambda h, d: (
        lambda text: struct.pack("<Q", len(text)) + text + bytes(d)
    )((json.dumps(h)[:-1] + ', "wte": ' + json.dumps(h["wte"]) + "}").encode())),
         bad(W, "must have each key once, got 'wte' twice")),
    Case("NaN weight", tensors(W, value("wte", math.nan)),
         f"weight wte of {STEP} must be finite, got nan at [0, 0]"),
    Case("infinite moment", tensors(M, value("m.wte", math.inf)),
         f"optimizer state m.wte of {STEP} must be finite, got inf at [0, 0]"),
    Case("negative square", tensors(M, value("v.wte", -1.0)),
         f"optimizer state v.wte of {STEP} must be at least 0, as a mean of squares, got -1.0 at [0, 0]"),
    Case("no moments", raw(M, struct.pack("<Q", 8) + b"{}      "),
         f"{STEP}: checkpoint lacks optimizer state m.wte; it belongs to another model"),
    Case("moments in F16", tensors(M, typed("F16", 2)),
         bad(M, "must hold arrays of F64, F32, I64, U32, got 'F16' of 'm.layer0.attn_wk'")),
    *(Case(f"update {number:g}", tensors(M, value("step", number)),
           f"optimizer state step of {STEP} must be a whole number between 0 and 4, got {number:g}")
      for number in (-1.0, 0.5, 5.0, 1e18, 1e300)),
    Case("update NaN", tensors(M, value("step", math.nan)),
         f"optimizer state step of {STEP} must be finite, got nan at [0]"),
]  # fmt: skip

CANNOT = f"cannot read {STEP}/{{}}: it must be a regular file, got {{}}"
FILES = [
    Case(f"{kind} for {name}", replaced(kind, name, "step"), message.format(name), command)
    for name in (W, M, "config.json", "tokenizer.json", "data.json", "trainer.json", "manifest.json")
    for kind, message, command in (
        ("fifo", f"cannot read {STEP}/{{}}: it must be a regular file, got a FIFO", "sample"),
        ("zero", f"cannot read {STEP}/{{}}: it must be a regular file, got a link", "sample"),
        ("link", f"cannot read {STEP}/{{}}: it must be a regular file, got a link", "eval"),
    )
]  # fmt: skip
FILES += [
    Case("sparse weights", replaced("sparse", W, "step"),
         f"{STEP}/{W} is damaged: its manifest says 3520 bytes, got 8589934592"),
    Case("sparse manifest", replaced("sparse", "manifest.json", "step"),
         f"cannot read {STEP}/manifest.json: it must have at most 65,536 bytes, got 8,589,934,592"),
    Case("deep manifest", replaced("deep", "manifest.json", "step"),
         f"cannot read {STEP}/manifest.json: it must have at most 65,536 bytes, got 200,000"),
]  # fmt: skip


def sealed_sparse(run: Path, step: Path) -> None:
    """A manifest that vouches for three gigabytes without a byte on disk."""
    with (step / W).open("r+b") as file:
        file.truncate(3 << 30)
    manifest = json.loads((step / "manifest.json").read_bytes())
    manifest["files"][W] = {"sha256": "0" * 64, "size": 3 << 30}
    (step / "manifest.json").write_text(json.dumps(manifest, indent=1))


FILES.append(
    Case("sparse weights in the manifest", sealed_sparse,
         bad(W, "must have 2,880 bytes of arrays, as the model of config.json, got a file of"
             " 3,221,225,472"))
)  # fmt: skip


def linked_step(run: Path, step: Path) -> None:
    shutil.copytree(step, "outside/step")
    shutil.rmtree(step)
    step.symlink_to(Path("outside/step").resolve())


def linked_checkpoints(run: Path, step: Path) -> None:
    shutil.copytree(run / "checkpoints", "outside/checkpoints")
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").symlink_to(Path("outside/checkpoints").resolve())


def left_link(name: str) -> Edit:
    """A link under a name that a save uses and clears."""

    def apply(run: Path, step: Path) -> None:
        edit(step, "config.json", steps=5, lr_schedule="constant")
        (run / "checkpoints" / name).symlink_to(Path("outside").resolve())

    return apply


LINK = " is a link, which no run folder holds; replace it by the folder that it leads to"
WRITES = " is a link, through which no run writes; replace it by what it leads to"
LINKS = [
    Case("step", linked_step, f"{STEP}{LINK}", "sample run"),
    Case("checkpoints", linked_checkpoints, f"m/checkpoints{LINK}", "sample run"),
    Case("checkpoints of a resume", linked_checkpoints, f"m/checkpoints{WRITES}", "resume"),
    *(Case(f"{name} of a resume", replaced("link", name), f"m/{name}{WRITES}", "resume")
      for name in ("metrics.jsonl", "config.toml", "result.json", "loss.svg", "environment.json")),
    *(Case(f"{name} of a resume", replaced("folder link", name), f"m/{name}{WRITES}", "resume")
      for name in ("counts", "tensorboard", "sources")),
    Case("lock", replaced("link", ".lock"),
         "cannot write m/.lock: it must be a regular file, got a link; choose a writable out", "resume"),
    Case("FIFO for the lock", replaced("fifo", ".lock"),
         "cannot write m/.lock: it must be a regular file, got a FIFO; choose a writable out", "resume"),
    Case("FIFO for the log", replaced("fifo", "metrics.jsonl"),
         "cannot write m/metrics.jsonl: it must be a regular file, got a FIFO; choose a writable out",
         "resume"),
    *(Case(f"leftover {name}", left_link(name), None, "resume")
      for name in (".removed-step-000005", ".saving-step-000005", ".replaced-step-000005", ".best.tmp")),
]  # fmt: skip

PAGES = [
    Case(f"{kind} for {name}", replaced(kind, name), None, command)
    for name in ("config.toml", "result.json", "metrics.jsonl", "environment.json", "checkpoints/best")
    for kind in ("fifo", "zero", "sparse", "deep")
    for command in ("show", "list")
]  # fmt: skip
PAGES += [
    Case(f"log {number}", log(*lines), None, command)
    for number, lines in enumerate((
        ("[" * 60_000,), ('{"kind":[]}', '{"kind":"step"}', "[]", "null", '{"kind":"eval","step":1}'),
        ('{"kind":"step","step":1,"loss":"abc"}', '{"kind":"step","step":' + "9" * 400 + ',"loss":1.0}'),
        ('{"kind":"eval","step":1,"val_loss":1' + "0" * 400 + ',"val_bpb":{}}',),
        ('{"kind":"step","step":1,"loss":1e308}', '{"kind":"step","step":2,"loss":-1e308}'),
        ('{"kind":"eval","step":1,"val_loss":"\x1b[2J","val_bpb":"\x1b"}',),
        ("x" * 300_000, '{"kind":"eval","step":0,"val_loss":1.0,"val_bpb":1.0}'),
    ))
    for command in ("show", "compare", "resume")
]  # fmt: skip


def control_codes(run: Path, step: Path) -> None:
    (run / "config.toml").write_text(
        'preset = "\\u001b[2J"\nkeep = "\\u001b]0;x\\u0007"\nmode = "scalar"\n'
    )
    (run / "result.json").write_text(json.dumps({
        "steps": 4, "samples": ["\x1b[2J\x07"], "e\x1b[2J": "\x1b", "vocab_size": "\x1b"
    }))  # fmt: skip
    origin = {"path": "\x1b[2J", "weights_sha256": "\x1b"}
    (run / "environment.json").write_text(json.dumps({"initialized_from": origin}))


PAGES += [Case("control codes", control_codes, None, name) for name in ("show", "list", "compare")]

FOREIGN = "which was not named on this machine by this user, so it is not opened; "


def named(data: str) -> Edit:
    return change("config.json", data=[data])


TEXTS = [
    Case(f"{data} of {command}", named(data), f"{STEP} names the text {data}, {FOREIGN}{way_out}", command)
    for data in ("/etc/passwd", "/dev/zero", "http://127.0.0.1:9/x.txt", "-", "~root/x", "../victim", ".")
    for command, way_out in (
        ("eval own text", "name the text to score with --data"),
        ("resume", "name it again with --data"), ("init", "name a text with --data"),
        ("counted", "train on a text of your own, or sample from the weights"),
    )
]  # fmt: skip
TEXTS += [
    # It has no effect on a text of the user, and is left out.
    Case("folder of data", change("config.json", data_dir="/elsewhere"), None, "eval own text"),
    Case("of the sample", named("/etc/passwd"), None),
    Case("given text", named("/etc/passwd"), None, "eval"),
]  # fmt: skip

GROUPS = {
    "trainer": TRAINER, "data": DATA, "tokenizer": TOKENIZER, "config": CONFIG, "arrays": ARRAYS,
    "files": FILES, "links": LINKS, "pages": PAGES, "texts": TEXTS,
}  # fmt: skip


# --------------------------------------------------------------------------------------- the trials


class Trials:
    """A folder with a sound run, `names.txt`, and files outside of the run that must not change."""

    def __init__(self, commands: Commands, folder: Path) -> None:
        self.commands, self.folder = commands, folder
        (folder / "names.txt").write_text(TEXT, encoding="utf-8")
        (folder / "victim").write_text("outside of the run\n" * 100)
        done = self.run("train", "--data=names.txt", *OPTIONS, "--out=sound")
        assert done.code == 0, done
        shutil.rmtree(folder / "sound/checkpoints/step-000000", ignore_errors=True)
        self.most_bytes = 0
        for words in COMMANDS.values():
            self.restore()
            done = self.run(*words)
            assert done.code == 0, (words, done)
            self.most_bytes = max(self.most_bytes, done.peak_bytes)

    def run(self, *words: str) -> Done:
        return self.commands.run(*words, cwd=self.folder, memory=ALL_BYTES, timeout_s=MOST_S)

    def restore(self) -> None:
        for name in ("m", "outside", "runs"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / "outside").mkdir()
        shutil.copytree(self.folder / "sound", self.folder / "m")

    def outside(self) -> dict[str, str]:
        """Return the hashes of all files outside of the run."""
        files = [
            self.folder / "names.txt",
            self.folder / "victim",
            *(self.folder / "outside").rglob("*"),
        ]
        return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files if p.is_file()}

    def complaint(self, case: Case) -> str | None:
        """Return what is wrong after a case, or None."""
        self.restore()
        case.edit(Path("m"), STEP)
        before = self.outside()
        done = self.run(*COMMANDS[case.command])
        if done.code is None:
            return "it did not end within five seconds"
        if self.outside() != before:
            return "a file outside of the run has changed"
        if done.peak_bytes > self.most_bytes + MOST_MORE_BYTES:
            return f"it took {done.peak_bytes:,} bytes"
        if "\x1b" in done.out + done.err:
            return "a control code was printed"
        if case.message is None:
            return None if done.code == 0 else f"exit code {done.code}: {done.err[-600:]}"
        errors = [
            x.removeprefix("error: ") for x in done.err.splitlines() if x.startswith("error: ")
        ]
        if done.code not in (1, 2) or "Traceback" in done.err or errors != [case.message]:
            return f"exit code {done.code}: {done.err[-600:]}"
        return None


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    commands = Commands(tmp_path_factory.mktemp("build"))
    yield Trials(commands, tmp_path_factory.mktemp("hostile"))
    commands.close()


@pytest.mark.parametrize("group", GROUPS)
def test_a_hostile_checkpoint_is_refused_in_one_line_or_harmless(
    trials: Trials, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trials.folder)
    complaints = {case.name: trials.complaint(case) for case in GROUPS[group]}
    assert {name: found for name, found in complaints.items() if found} == {}
