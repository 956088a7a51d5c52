"""Named corpora: the embedded one, the search by hash, and the message when nothing is found."""

from __future__ import annotations

import hashlib
import os
import sys
import types
from pathlib import Path

import pytest

from nanochat.data.corpus import load_corpus
from nanochat.data.registry import REGISTRY, Entry, read_entry
from nanochat.errors import CorpusError

TEXT = b"ada\nbob\n"
SHARED = Path(__file__).parents[3] / "shared" / "data"


class Pooch(types.ModuleType):
    """A fake pooch that answers with bytes, or fails."""

    def __init__(self, cache: Path, answer: bytes | Exception) -> None:
        super().__init__("pooch")
        self.cache, self.answer, self.asked = cache, answer, []

    def get_logger(self):
        import logging

        return logging.getLogger("fake")

    def HTTPDownloader(self, timeout):
        assert 0 < timeout <= 30
        return "downloader"

    def retrieve(self, url, known_hash, fname, path, downloader):
        self.asked.append((url, known_hash, fname, str(path)))
        if isinstance(self.answer, Exception):
            raise self.answer
        file = Path(path) / fname
        file.write_bytes(self.answer)
        return str(file)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Add a registry entry whose bytes are known."""
    monkeypatch.delenv("NCLAB_DATA_DIR", raising=False)
    entry = Entry(
        documents="line",
        url="https://example.org/tiny.txt",
        size=len(TEXT),
        sha256=hashlib.sha256(TEXT).hexdigest(),
        local_names=("tiny.txt", "other.txt"),
    )
    monkeypatch.setitem(REGISTRY, "tiny", entry)
    return entry


@pytest.fixture
def offline(tmp_path_factory, monkeypatch):
    pooch = Pooch(tmp_path_factory.mktemp("cache"), ConnectionError("no route to host\nat all"))
    monkeypatch.setenv("NCLAB_CACHE", str(pooch.cache / "nanochat"))
    monkeypatch.setitem(sys.modules, "pooch", pooch)
    return pooch


def test_names_is_embedded_and_implies_line():
    corpus = load_corpus("names")
    assert (corpus.name, corpus.kind, len(corpus.documents)) == ("names", "line", 16_000)
    assert list(corpus.documents) == sorted(set(corpus.documents))
    assert set("".join(corpus.documents)) == set("abcdefghijklmnopqrstuvwxyz")
    assert {len(name) for name in corpus.documents} <= set(range(2, 16))


def test_names_as_one_file():
    corpus = load_corpus("names", "file")
    assert (corpus.kind, len(corpus.documents)) == ("file", 1)


@pytest.mark.parametrize("name", ["tiny.txt", "other.txt", "of that size.txt"])
def test_file_in_data_dir_is_taken_by_its_hash(tmp_path, offline, name):
    (tmp_path / "a.txt").write_bytes(b"another text")
    (tmp_path / "b.txt").write_bytes(TEXT[::-1])  # the right size
    (tmp_path / name).write_bytes(TEXT)
    assert list(load_corpus("tiny", data_dir=str(tmp_path)).documents) == ["ada", "bob"]
    assert offline.asked == []


def test_wrong_file_of_the_right_name_does_not_hide_the_right_one(tmp_path, offline):
    (tmp_path / "tiny.txt").write_bytes(b"wrong")
    (tmp_path / "z.txt").write_bytes(TEXT)
    assert read_entry("tiny", str(tmp_path)) == TEXT


def test_variable_names_the_data_dir_and_the_argument_goes_first(tmp_path, offline, monkeypatch):
    (tmp_path / "tiny.txt").write_bytes(TEXT)
    monkeypatch.setenv("NCLAB_DATA_DIR", str(tmp_path))
    assert read_entry("tiny") == TEXT
    with pytest.raises(CorpusError, match="elsewhere is not a folder"):
        read_entry("tiny", str(tmp_path / "elsewhere"))


def test_what_is_nowhere_is_downloaded_with_its_hash(tmp_path, monkeypatch, capfd, tiny):
    pooch = Pooch(tmp_path, TEXT)
    monkeypatch.setitem(sys.modules, "pooch", pooch)
    monkeypatch.setenv("NCLAB_CACHE", str(tmp_path / "nanochat"))
    assert read_entry("tiny") == TEXT
    expected = (tiny.url, f"sha256:{tiny.sha256}", "tiny.txt", str(tmp_path / "nanochat"))
    assert pooch.asked == [expected]
    assert read_entry("tiny") == TEXT
    assert pooch.asked == [expected]  # the second time it is in the cache
    assert capfd.readouterr() == ("", "")


def test_offline_is_one_line_with_what_where_and_what_to_do(offline):
    with pytest.raises(CorpusError) as caught:
        read_entry("tiny")
    assert str(caught.value) == (
        "data tiny is not on this machine: no data_dir was given, it is not in the cache"
        f" {offline.cache / 'nanochat'}, and its download failed (ConnectionError); put"
        " https://example.org/tiny.txt into a folder and name the folder with --data-dir or NCLAB_DATA_DIR"
    )


@pytest.mark.parametrize("size", [len(TEXT), len(TEXT) - 1, 1 << 42])
def test_wrong_hash_in_data_dir_is_told_when_nothing_else_is_found(tmp_path, offline, size):
    """Without reading a file of another size, which may not fit in memory."""
    (tmp_path / "tiny.txt").write_bytes(b"wrong")
    os.truncate(tmp_path / "tiny.txt", size)
    with pytest.raises(CorpusError) as caught:
        read_entry("tiny", str(tmp_path))
    seen = f"it is not in data_dir {tmp_path} (tiny.txt has a different SHA-256), it is not in"
    assert seen in str(caught.value)


def test_download_of_something_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", Pooch(tmp_path, ValueError("hash does not match")))
    with pytest.raises(
        CorpusError, match=r"its download failed \(the file has a different SHA-256\)"
    ):
        read_entry("tiny")


def test_a_cache_that_cannot_be_written_is_read(tmp_path, offline, monkeypatch, capfd):
    monkeypatch.setenv("NCLAB_CACHE", str(tmp_path))
    monkeypatch.setattr("nanochat.data.registry.writable_cache", lambda: None)
    (tmp_path / "tiny.txt").write_bytes(TEXT)
    assert read_entry("tiny") == TEXT
    assert (offline.asked, capfd.readouterr()) == ([], ("", ""))


@pytest.mark.parametrize("damaged", [True, False])
def test_a_download_works_where_no_cache_can_be_written(tmp_path, monkeypatch, damaged):
    pooch = Pooch(tmp_path, TEXT)
    monkeypatch.setitem(sys.modules, "pooch", pooch)
    (tmp_path / "tiny.txt").write_bytes(b"cut off")
    monkeypatch.setenv("NCLAB_CACHE", str(tmp_path if damaged else tmp_path / "tiny.txt" / "x"))
    monkeypatch.setattr("nanochat.data.registry.writable_cache", lambda: None)
    assert read_entry("tiny") == TEXT
    assert (tmp_path / "tiny.txt").read_bytes() == b"cut off"
    (asked,) = pooch.asked
    assert not Path(asked[3]).exists()  # a temporary folder


def test_the_real_pooch_checks_a_download(tmp_path, monkeypatch, capfd, tiny):
    import http.server
    import threading
    from dataclasses import replace

    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "tiny.txt").write_bytes(TEXT)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path / "site"))

        def log_message(self, *arguments):
            pass

    monkeypatch.setenv("NCLAB_CACHE", str(tmp_path / "cache"))
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/tiny.txt"
            monkeypatch.setitem(REGISTRY, "tiny", replace(tiny, url=url))
            assert read_entry("tiny") == TEXT
        finally:
            server.shutdown()
            thread.join()
    assert (tmp_path / "cache" / "tiny.txt").read_bytes() == TEXT
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
@pytest.mark.parametrize(
    ("name", "kind", "count", "characters"),
    [("names-makemore", "line", 32_033, 196_113), ("shakespeare", "file", 1, 1_115_394)],
)
def test_pinned_hashes_are_those_of_the_real_files(name, kind, count, characters):
    corpus = load_corpus(name, data_dir=str(SHARED))
    assert (corpus.kind, len(corpus.documents)) == (kind, count)
    assert sum(map(len, corpus.documents)) == characters


@pytest.mark.parametrize("call", ["is_dir", "is_file", "glob"])
def test_a_data_dir_that_cannot_be_read_is_told_when_nothing_else_is_found(
    tmp_path, offline, monkeypatch, call
):
    def refuse(*words):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, call, refuse)
    with pytest.raises(CorpusError) as caught:
        read_entry("tiny", str(tmp_path))
    assert f": data_dir {tmp_path} cannot be read: Permission denied, " in str(caught.value)


def test_the_home_of_an_unknown_user_is_not_a_data_dir(offline):
    with pytest.raises(CorpusError, match="data_dir ~nosuchuser-0/x is not a folder"):
        read_entry("tiny", "~nosuchuser-0/x")
