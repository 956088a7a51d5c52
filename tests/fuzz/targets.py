"""What is fuzzed: every reader of files and the command line, as functions of bytes.

`Workplace` makes a tiny run, from which the seeds come, and judges an input: only a NanochatError
may leave a reader, in bounded time, and no file outside of the folder is written.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import sys
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from conftest import TEXT
from runs.saved_checkpoints import rewrite

import nanochat
from nanochat import cli
from nanochat.config.options import AblateConfig, EvalConfig, SampleConfig, TrainConfig, options_of
from nanochat.config.sources import read_config_file
from nanochat.data.corpus import load_corpus
from nanochat.data.sources.fetching import kept_copy
from nanochat.data.tokenizer import tokenizer_from_dict
from nanochat.errors import NanochatError
from nanochat.ngram.adaptive import AdaptiveCounts
from nanochat.ngram.stored import load_counts
from nanochat.runs import schema
from nanochat.system.json_text import parse_json

__all__ = ["MOST_S", "Target", "Workplace"]

MOST_S = 2.0  # seconds of the processor per input
_STOP_S = 20  # seconds by the clock; other processes may have the processor
_STEP = "checkpoints/step-000004"
_TRAIN = (
    "--mode=scalar", "--preset=microgpt", "--n-embd=4", "--n-head=2", "--steps=4", "--eval-every=2",
    "--num-samples=1", "--max-new-tokens=5", "--ngram-order=2", "--threads=1", "--quiet",
)  # fmt: skip
_SUFFIXES = (
    ".txt", ".jsonl", ".json", ".csv", ".tsv", ".html", ".md", ".parquet", ".pdf", ".docx", ".epub",
    ".gz", ".bz2", ".xz", ".zst", "",
)  # fmt: skip


class Target(NamedTuple):
    name: str
    seeds: tuple[bytes, ...]
    run: Callable[[bytes], object]


class Workplace:
    """A folder with a run, the targets over its files, and the judgement of an input."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self._restores = contextlib.ExitStack()
        self._restores.callback(os.chdir, Path.cwd())
        os.chdir(self.folder)
        (self.folder / "names.txt").write_text(TEXT, encoding="utf-8")
        (self.folder / "other").mkdir()
        for out in ("run", "kept"):
            _call("train", "--data=names.txt", *_TRAIN, f"--out={out}")
        self.run = self.folder / "run"
        self.step = self.run / _STEP
        self._written = ""  # outside of the folder, by the input that runs
        self._watches = False
        sys.addaudithook(self._watch)
        self._block_network()
        self.targets: Mapping[str, Target] = {each.name: each for each in self._all_targets()}

    # ------------------------------------------------------------------------------- judgement

    def complaint(self, target: Target, content: bytes) -> str | None:
        """Return what is wrong with the way an input ends, or None."""
        self._written, self._watches = "", True
        started, found = time.process_time(), None
        signal.signal(signal.SIGALRM, _stop)
        signal.alarm(_STOP_S)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", UserWarning)  # those of nanochat.load
                target.run(content)
        except NanochatError as error:
            if "\n" in str(error).strip() and target.name != "arguments":
                found = f"an error of several lines: {error}"
        except Exception:
            found = traceback.format_exc()
        except _Stopped:
            found = f"it did not end within {_STOP_S} s: {traceback.format_exc()[-1500:]}"
        finally:
            signal.alarm(0)
            self._watches = False
        seconds = time.process_time() - started
        if found is None and seconds > MOST_S:
            found = f"it took {seconds:.1f} s"
        if found is None and self._written:
            found = f"it wrote outside of the folder: {self._written}"
        if Path.cwd() != self.folder:
            os.chdir(self.folder)
        return found

    def _watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watches or not (event == "open" or event.startswith("os.")):
            return
        if event == "open":
            writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            paths = arguments[:1] if writes else ()
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.rename", "os.link"):
            paths = arguments[: 2 if event in ("os.rename", "os.link") else 1]
        else:
            return
        for path in paths:
            if isinstance(path, int) or os.fspath(path) in ("/dev/null", b"/dev/null"):
                continue
            absolute = os.path.abspath(os.fsdecode(path))
            if not f"{absolute}/".startswith(f"{self.folder}/") and "__pycache__" not in absolute:
                self._written = f"{event} {absolute}"

    def _block_network(self) -> None:
        def refuse(*_: Any, **__: Any) -> Any:
            raise OSError("no network")

        for name in ("create_connection", "getaddrinfo"):
            self._restores.callback(setattr, socket, name, getattr(socket, name))
            setattr(socket, name, refuse)

    def close(self) -> None:
        """Give the process its network and its working folder back."""
        self._restores.close()

    # --------------------------------------------------------------------------------- targets

    def _all_targets(self) -> Iterator[Target]:
        yield Target("config", self._configs(), self._config)
        for name in ("config.json", "tokenizer.json", "data.json", "trainer.json"):
            yield self._of_step(name)
        for name in ("weights.safetensors", "optimizer.safetensors"):
            yield self._of_step(name)
        yield Target("manifest.json", (self._seed(f"{_STEP}/manifest.json"),), self._manifest)
        for name in ("metrics.jsonl", "result.json", "environment.json", "config.toml"):
            yield self._of_run(name)
        yield Target("best", (self._seed("checkpoints/best"),), self._best)
        yield Target("counts", (self._counts_file().read_bytes(),), self._counts)
        yield Target("text", tuple(_text_seeds(self.folder)), self._text)
        yield Target("tokenizer", _TOKENIZERS, _tokenizer)
        yield Target("sources", (_SOURCES,), self._sources)
        yield Target("lock", (b'{"pid": 1, "host": "a", "started": "b"}',), self._lock)
        yield Target("arguments", _ARGUMENTS, self._arguments)

    def _seed(self, name: str) -> bytes:
        return (self.run / name).read_bytes()

    def _configs(self) -> tuple[bytes, ...]:
        lines = b'steps = 3\nlr = 1e-3\ndata = ["a", "b"]\nmuon_momentum = 0.9\nseeds = "1,2"\n'
        return self._seed("config.toml"), lines

    def _config(self, content: bytes) -> None:
        path = self.folder / "c.toml"
        path.write_bytes(content)
        for config in (TrainConfig, SampleConfig, EvalConfig, AblateConfig):
            with contextlib.suppress(NanochatError):
                config(**read_config_file(str(path), options_of(config)))

    def _of_step(self, name: str) -> Target:
        """A file of a checkpoint, with the entry in the manifest that it would have."""
        seed = self._seed(f"{_STEP}/{name}")

        def run(content: bytes) -> None:
            rewrite(self.step, name, content)
            try:
                self._load()
            finally:
                rewrite(self.step, name, seed)
                shutil.copy(self.folder / "kept" / _STEP / "manifest.json", self.step)

        return Target(name, (seed,), run)

    def _load(self) -> None:
        model = nanochat.load(str(self.step))
        model.generate("an", max_new_tokens=2)
        _call("info", "run")
        _call("eval", f"--checkpoint={self.step}", "--quiet")

    def _manifest(self, content: bytes) -> None:
        self._with("run/" + _STEP + "/manifest.json", content, self._load)

    def _with(self, name: str, content: bytes, run: Callable[[], object]) -> None:
        """Run with another content of a file, then restore it."""
        path = self.folder / name
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(content)
        try:
            run()
        finally:
            if before is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(before)

    def _of_run(self, name: str) -> Target:
        commands = (
            ("runs", "show", "run"), ("runs", "compare", "run", "kept", "--out=w.svg"),
            ("runs", "--dir=.", "--json"), ("info", "run"),
        )  # fmt: skip

        def run(content: bytes) -> None:
            words = commands[zlib.crc32(content) % len(commands)]
            self._with(f"run/{name}", content, lambda: _call(*words))

        return Target(name, (self._seed(name),), run)

    def _best(self, content: bytes) -> None:
        self._with("run/checkpoints/best", content, lambda: nanochat.load("./run"))

    def _counts_file(self) -> Path:
        return next((self.run / "checkpoints").parent.rglob("ngram-*.safetensors"))

    def _counts(self, content: bytes) -> None:
        """The file of counts, under the name that its content has."""
        import hashlib

        sha256 = hashlib.sha256(content).hexdigest()
        path = self.folder / "other" / f"ngram-{sha256}.safetensors"
        path.write_bytes(content)
        try:
            counts, _, _ = load_counts(path.parent, sha256)
            context = [each % counts.vocab_size for each in range(9)]
            counts.distribution(context)
            counts.matched(context)
            AdaptiveCounts(counts).read(context)
        finally:
            path.unlink()

    def _text(self, content: bytes) -> None:
        """The first byte chooses the suffix of the file's name."""
        suffix = _SUFFIXES[content[0] % len(_SUFFIXES)] if content else ""
        path = self.folder / "other" / f"text{suffix}"
        path.write_bytes(content[1:])
        try:
            for documents in ("auto", "line"):
                load_corpus(str(path), documents)
            load_corpus(str(path.parent), "file")
        finally:
            path.unlink()

    def _sources(self, content: bytes) -> None:
        index = self.folder / "other" / "sources"
        index.mkdir(exist_ok=True)
        self._with("other/sources/index.json", content, lambda: kept_copy(index.parent, "-"))

    def _lock(self, content: bytes) -> None:
        """The lock of a run that another process writes."""
        import fcntl

        def read() -> None:
            with open(self.run / ".lock", "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                _call("runs", "show", "run")

        self._with("run/.lock", content, read)

    def _arguments(self, content: bytes) -> None:
        """Words, one per line. Runs and samples of more than a few steps are not begun."""
        words = content.decode("utf-8", "surrogateescape").split("\n")
        try:
            _call(*words, checks=True)
        finally:
            for path in self.folder.iterdir():
                if path.name not in ("names.txt", "run", "kept", "other"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


_NOT_GIVEN = (None, False, "auto", ())


class _Stopped(BaseException):
    pass


def _stop(*_: object) -> None:
    raise _Stopped


_SOURCES = b'{"-": {"sha256": "' + b"0" * 64 + b'", "file": "a.txt"}}'
_TOKENIZERS = (
    '{"kind": "char", "characters": "abcé\U0001f600"}'.encode(), b'{"kind": "byte"}',
    b'{"kind": "bpe", "pattern": "\\\\w+|\\\\s+", "merged": ["6162", "616263", "2061", "e282"]}',
)  # fmt: skip
_ARGUMENTS = tuple(
    "\n".join(words).encode()
    for words in (
        ("train", "names.txt", *_TRAIN, "--out=new"), ("sample", "run", "--max-new-tokens=3"),
        ("eval", "run", "--data=names.txt"), ("info", "run"), ("runs", "--dir=."),
        ("runs", "show", "run"), ("runs", "compare", "run", "kept", "--out=w.svg"),
        ("train", "--help"), ("ablate", "names.txt", "--vary=lr=0.01,0.02", "--seeds=1", *_TRAIN),
        ("--print-completion=bash",), ("sample", "run", "--explain", "--prompt=an"),
        ("train", "names.txt", "--time-budget=1s"), ("runs", "prune", "run", "--keep=last:1"),
        ("train", "--resume", "--out=run"), ("train", "--config=c.toml"), ("--version",),
    )
)  # fmt: skip


def _tokenizer(content: bytes) -> None:
    try:
        record = schema.parse_record(content, "tokenizer.json", schema.TOKENIZER)
    except ValueError:
        return
    tokenizer = tokenizer_from_dict(record)
    text = "abc é\u2028\U0001f600 ab"
    with contextlib.suppress(nanochat.errors.TokenizerError):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
    stream = tokenizer.stream()
    ids = list(range(1, min(tokenizer.vocab_size, 300)))
    assert "".join([*map(stream.push, ids), stream.flush()]) == tokenizer.decode(ids)
    assert tokenizer_from_dict(parse_json(content)).to_dict() == tokenizer.to_dict()


def _text_seeds(folder: Path) -> Iterator[bytes]:
    """A small text in every format that is read."""
    import bz2
    import gzip
    import lzma

    records = b'{"text":"hello w\\u00e9"}\n{"text":"b","n":[1,2,{"a":null}]}\n'
    texts = {
        ".txt": "h\u00e9 llo\r\nw\u00f6rld\n\n 1\u2028x\n".encode(), ".jsonl": records,
        ".json": b'[{"text": "a"}, {"text": "b\\n"}]', ".csv": b'id,text\n1,"a ""b"", c"\n2,d\n',
        ".tsv": b"id\ttext\n1\ta b\n", ".html": b"<html><p>a &amp; b<script>x</script></p>c</html>",
        ".md": b"# a\n\nb\n", "": b"\xff\xfea\0b\0\n\0", ".gz": gzip.compress(records, mtime=0),
        ".bz2": bz2.compress(records), ".xz": lzma.compress(records),
        ".pdf": _PDF, ".epub": _zip({"mimetype": b"application/epub+zip",
            "META-INF/container.xml": b'<container><rootfiles><rootfile full-path="a.opf"/></rootfiles></container>',
            "a.opf": b'<package><manifest><item id="a" href="a.html" media-type="application/xhtml+xml"/></manifest><spine><itemref idref="a"/></spine></package>',
            "a.html": b"<html><p>a</p></html>"}),
        ".docx": _docx(), ".parquet": _parquet(folder), ".zst": _zstd(records),
    }  # fmt: skip
    for suffix, content in texts.items():
        yield bytes([_SUFFIXES.index(suffix)]) + content


_PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>"
    b"endobj\n3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R/Resources<</Font<</F 5 0 R"
    b">>>>>>endobj\n4 0 obj<</Length 30>>stream\nBT /F 9 Tf (hello w) Tj ET\nendstream endobj\n5 0 obj"
    b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj\ntrailer<</Root 1 0 R/Size 6>>\n%%EOF\n"
)


def _zip(files: Mapping[str, bytes]) -> bytes:
    import zipfile

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in files.items():
            file.writestr(zipfile.ZipInfo(name), content)
    return archive.getvalue()


def _docx() -> bytes:
    import docx

    document, file = docx.Document(), io.BytesIO()
    document.add_paragraph("hello w\u00e9")
    document.save(file)
    return file.getvalue()


def _parquet(folder: Path) -> bytes:
    import pyarrow
    from pyarrow import parquet

    path = folder / "other" / "seed.parquet"
    parquet.write_table(pyarrow.table({"text": ["abc", "def"] * 9, "n": list(range(18))}), path)
    content = path.read_bytes()
    path.unlink()
    return content


def _zstd(content: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(content)


def _call(*words: str, checks: bool = False) -> None:
    """Run a command in this process. It must end with a code that is documented and, if it fails,
    one line on stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _small_runs(checks):
        try:
            code = cli.main(words)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
    errors = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
    assert code in (0, 1, 2), (words, code, err.getvalue())
    assert "Traceback" not in err.getvalue(), (words, err.getvalue())
    assert len(errors) == (code != 0), (words, code, err.getvalue()[-500:])
    if not checks and words[0] == "train":
        assert code == 0, err.getvalue()


@contextlib.contextmanager
def _small_runs(applies: bool) -> Iterator[None]:
    """Skip what takes long: larger models, more steps, longer samples, other processes."""
    if not applies:
        yield
        return
    from nanochat.commands import ablate, evaluate, sample, train

    limits = {
        "steps": 4, "n_embd": 8, "n_layer": 2, "block_size": 32, "batch_size": 8, "grad_accum": 4,
        "num_samples": 3, "max_new_tokens": 40, "ngram_order": 5, "sample_every": 4,
    }  # fmt: skip

    def bounded(function: Callable[..., Any], refused: tuple[str, ...]) -> Callable[..., Any]:
        def call(config: Any, *arguments: Any, **named: Any) -> Any:
            values = {name: getattr(config, name, None) for name in (*limits, *refused)}
            if config.mode == "tensor" or any(values[name] not in _NOT_GIVEN for name in refused):
                return None
            for name, most in limits.items():
                if isinstance(values[name], int) and values[name] > most:
                    return None
            return function(config, *arguments, **named)

        return call

    kept = train.train, sample.sample, evaluate.evaluate, ablate.ablate
    long = ("time_budget", "resume", "final_on_all", "init_from", "compile")
    train.train = bounded(kept[0], long)
    sample.sample = bounded(kept[1], ())
    evaluate.evaluate = bounded(kept[2], ("baselines",))
    ablate.ablate = lambda *_, **__: None
    try:
        yield
    finally:
        train.train, sample.sample, evaluate.evaluate, ablate.ablate = kept
