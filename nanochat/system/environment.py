"""The software and machine behind a run or a bug report, found without importing the packages.

A run of a small model may take less time than the usual lookups, so slow modules are imported only
where a quick look finds nothing.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from nanochat.system.threads import usable_cores

__all__ = ["cpu_features", "cpu_model", "describe_environment", "version"]

PACKAGES = ("torch", "numpy", "numba", "safetensors", "matplotlib", "psutil", "pooch")
_FEATURES = ("avx2", "fma", "avx512f", "avx512bw", "avx512_bf16", "amx_bf16", "asimd", "sve")


@cache
def _installed() -> dict[str, str]:
    """Return versions by name, read from folder names on the path: `numpy-2.1.0.dist-info`."""
    versions: dict[str, str] = {}
    for folder in sys.path:
        try:
            entries = os.listdir(folder or ".")
        except OSError:
            continue
        for entry in entries:
            if found := re.fullmatch(r"([^-]+)-([^-]+)\.dist-info", entry):
                versions.setdefault(found[1].lower(), found[2])
    return versions


def version(package: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    quick = _installed().get(package.lower().replace("-", "_"))
    if quick is not None:
        return quick
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """Return the processor's name as the system reports it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    """Return the vector extensions that kernels are selected by, where the system lists them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            flags = set(line.split(":", 1)[1].split())
            return [name for name in _FEATURES if name in flags]
    return []


def _git_revision() -> str | None:
    """Return the revision of the checkout that this package is imported from, or None."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    import subprocess

    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def describe_environment(threads: int) -> dict[str, Any]:
    """Return versions, machine and revision, for `environment.json` and `nanochat info`."""
    return {
        "nanochat": version("nanochat-lab"),
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "packages": {package: version(package) for package in PACKAGES},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_model(),
        "cpu_features": cpu_features(),
        "cores": os.cpu_count(),
        "threads": threads or usable_cores(),
        "git_revision": _git_revision(),
    }
