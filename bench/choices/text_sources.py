"""Real texts of many kinds, taken from Debian packages: collect them once, then measure offline.

    python -m bench.choices.text_sources FOLDER [TEXT …]

Downloads each package with `apt-get download`, unpacks it below FOLDER/packages without installing
it, and writes FOLDER/NAME/train.txt and FOLDER/NAME/test.txt. The test part is the last tenth of a
long document, or every tenth unit of a collection, drawn by a fixed seed, without characters that
the training part lacks, which models of characters cannot score. No run reads it before its score.
"""

from __future__ import annotations

import gzip
import random
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.command import command_parser

__all__ = ["TEXTS", "Text", "collect"]


@dataclass(frozen=True, slots=True)
class Text:
    """One text: the package that ships it, its files below the unpacked package, and its unit."""

    name: str
    package: str
    files: tuple[str, ...]  # glob patterns; joined in sorted order
    unit: str  # file: one long document; otherwise the separator between units
    kind: str  # for the table
    encoding: str = "utf-8"
    command: tuple[str, ...] = ()  # prints the text, instead of `files`; {} is the package folder
    opening: str = ""  # before the test part, by which its format is recognized


_FORTUNES = "usr/share/games/fortunes/"
_PERCENT = "\n%\n"

TEXTS: tuple[Text, ...] = (
    Text("kjv", "bible-kjv bible-kjv-text", (), "file", "King James Bible",
         command=("{}/bible-kjv/usr/bin/bible", "-l1000", "-p", "{}/bible-kjv-text/usr/lib/",
                  "gen1:1-rev22:21")),
    Text("fortunes-en", "fortunes", (_FORTUNES + "cookie",), _PERCENT, "quotations, English"),
    Text("fortunes-de", "fortunes-de", (_FORTUNES + "de/zitate",), _PERCENT, "quotations, German"),
    Text("fortunes-ru", "fortunes-ru", (_FORTUNES + "ru/love",), _PERCENT, "quotations, Russian"),
    Text("fortunes-es", "fortunes-es", (_FORTUNES + "es/refranes.fortunes",), _PERCENT,
         "proverbs, Spanish"),
    Text("quotations", "fortunes", (_FORTUNES + "wisdom",), _PERCENT, "a few quotations"),
    Text("chat", "fortunes", (_FORTUNES + "knghtbrd",), _PERCENT, "chat log"),
    Text("tang", "fortunes-zh", (_FORTUNES + "tang300",), _PERCENT, "Tang poems"),
    Text("chinese", "fortunes-zh", (_FORTUNES + "chinese",), _PERCENT, "quotations, Chinese"),
    Text("words-en", "wamerican", ("usr/share/dict/american-english",), "\n", "word list, English"),
    Text("words-de", "wngerman", ("usr/share/dict/ngerman",), "\n", "word list, German"),
    Text("airports", "miscfiles", ("usr/share/misc/airport.gz",), "\n", "table of airports",
         encoding="latin-1"),
    Text("unicode", "miscfiles", ("usr/share/misc/unicode.gz",), "\n", "CSV"),
    Text("man", "manpages-dev", ("usr/share/man/man[23]/*.gz",), "file", "man pages"),
    Text("policy", "debian-policy", ("usr/share/doc/debian-policy/policy.txt.gz",), "file",
         "standards document"),
    Text("html", "debian-policy", ("usr/share/doc/debian-policy/fhs/fhs-3.0.html",), "file",
         "HTML", opening="<!doctype html>\n"),
    Text("python", "libpython3.11-stdlib", ("usr/lib/python3.11/**/*.py",), "file",
         "Python source"),
    Text("manual", "python3.11-doc", ("usr/share/doc/python3.11/html/_sources/**/*.txt",), "file",
         "reST manual"),
    Text("dedication", "debian-history",
         ("usr/share/doc/debian-history/dedication/dedication-2.2.de.txt",), "file",
         "a page of German", encoding="latin-1"),
)  # fmt: skip


def collect(text: Text, folder: Path) -> tuple[Path, Path]:
    """Return the training and the test part of a text, making them if they are not there."""
    train, test = folder / text.name / "train.txt", folder / text.name / "test.txt"
    if not (train.exists() and test.exists()):
        train.parent.mkdir(parents=True, exist_ok=True)
        parts = _split(_content(text, folder / "packages"), text.unit)
        learned, scored = parts
        known = set(learned)
        scored = text.opening + "".join(character for character in scored if character in known)
        for path, content in ((train, learned), (test, scored)):
            path.write_text(content, encoding="utf-8", newline="")
    return train, test


def _content(text: Text, packages: Path) -> str:
    for package in text.package.split():
        _unpack(package, packages)
    if text.command:
        words = [word.format(packages) for word in text.command]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=True)
        raw = done.stdout
    else:
        root = packages / text.package
        files = sorted({path for pattern in text.files for path in root.glob(pattern)})
        raw = b"\n".join(_bytes(path) for path in files if path.is_file())
    if not raw:
        raise SystemExit(f"package {text.package} must have {', '.join(text.files)}")
    return raw.decode(text.encoding).replace("\0", "")


def _bytes(path: Path) -> bytes:
    raw = path.read_bytes()
    return gzip.decompress(raw) if path.suffix == ".gz" else raw


def _unpack(package: str, packages: Path) -> None:
    target = packages / package
    if target.exists():
        return
    packages.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", "-qq", package], cwd=packages, check=True)
    (archive,) = packages.glob(f"{package}_*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, target], check=True)


def _split(content: str, unit: str) -> tuple[str, str]:
    """Return nine tenths for training and one tenth for the score."""
    if unit == "file":
        cut = content.find("\n", len(content) * 9 // 10) + 1
        return content[:cut], content[cut:]
    units = [each for each in content.split(unit) if each.strip()]
    drawn = set(random.Random(20).sample(range(len(units)), max(1, len(units) // 10)))
    parts: Iterator[Sequence[str]] = (
        [each for i, each in enumerate(units) if (i in drawn) == is_test]
        for is_test in (False, True)
    )
    train, test = (unit.join(part) + unit for part in parts)
    return train, test


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="names; default: all")
    options = parser.parse_args()
    for text in TEXTS:
        if not options.texts or text.name in options.texts:
            train, test = collect(text, options.folder)
            print(f"{text.name:12} {train.stat().st_size:>10,} {test.stat().st_size:>9,} bytes")


if __name__ == "__main__":
    main()
