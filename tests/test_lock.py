"""`.ci/lock.txt`, the versions and checksums of a development environment."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
CHECKSUM = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def requirement_files(name: str) -> Iterator[str]:
    """The requirements in a file of `.ci`, and in those that it includes."""
    for line in (ROOT / ".ci" / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            yield from requirement_files(line[3:])
        elif line and not line.startswith("#"):
            yield line


def wanted() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"].values()
    texts = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    texts += [text for extra in extras for text in extra]
    texts += requirement_files("lock.in")
    found = [Requirement(text) for text in texts]
    # The lock is for Python 3.11 and later.
    return [r for r in found if r.marker is None or r.marker.evaluate({"python_version": "3.11"})]


def locked() -> dict[str, list[tuple[Version, int]]]:
    """The versions of each package, and how many checksums each has."""
    text = (ROOT / ".ci" / "lock.txt").read_text(encoding="utf-8")
    packages: dict[str, list[tuple[Version, int]]] = {}
    for entry in re.split(r"\n(?=[^\s#])", text)[1:]:
        pin = Requirement(entry.partition("\\")[0])
        (version,) = pin.specifier
        assert version.operator == "==", entry
        name = canonicalize_name(pin.name)
        checksums = len(CHECKSUM.findall(entry))
        packages.setdefault(name, []).append((Version(version.version), checksums))
    return packages


@pytest.mark.parametrize("requirement", wanted(), ids=str)
def test_the_lock_has_every_dependency_at_a_version_in_its_range(requirement):
    versions = [version for version, _ in locked()[canonicalize_name(requirement.name)]]
    assert versions
    assert all(version in requirement.specifier for version in versions), versions


def test_every_version_in_the_lock_has_checksums():
    without = [name for name, pins in locked().items() for _, number in pins if number == 0]
    assert len(locked()) > 80
    assert without == []
