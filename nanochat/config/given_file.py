"""Reading a file that an option names: a regular file of a bounded size, at once or not at all."""

from __future__ import annotations

import errno
import os
import stat

from nanochat.errors import ConfigError
from nanochat.system.wording import printable

__all__ = ["LARGEST", "read_given_file"]

LARGEST = 1 << 20  # bytes


def read_given_file(
    option: str,
    path: str,
    kind: str,  # such as "a TOML file"
    wanted: str,  # what to name instead of a file that is too large
) -> bytes:
    """Return the bytes of a regular file of at most LARGEST. Raises ConfigError."""
    name = printable(path)
    try:
        content = _read(path)
    except OSError as error:
        raise ConfigError(
            f"{option} must be {kind} that can be read, got {name}: {error.strerror}; name"
            f" another file, or leave {option} out"
        ) from error
    if content is None:
        raise ConfigError(
            f"{option} must be a file, got {name}, which is a pipe, a socket or a device; copy its"
            " contents to a file"
        )
    if len(content) > LARGEST:
        subject = f"{option} file" if option == "config" else option
        raise ConfigError(
            f"{subject} {name} must have at most {LARGEST:,} bytes, got more; name {wanted}"
        )
    return content


def _read(path: str) -> bytes | None:
    """Return at most one byte more than LARGEST, or None for what is not a file. Raises OSError.

    A pipe without a writer is opened without waiting for one.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # NUL, surrogates
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            return None
        content = bytearray()
        while len(content) <= LARGEST and (piece := os.read(descriptor, LARGEST)):
            content += piece
    finally:
        os.close(descriptor)
    return bytes(content)
