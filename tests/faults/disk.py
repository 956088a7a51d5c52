"""What a disk may hold after a power cut, from the trace of a run's system calls.

The model is the one that POSIX allows: `fsync` of a file makes its content certain, and `fsync` of
a folder the names in it. Every other change may or may not have reached the disk, in any order, and
a write also in part.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["State", "Trace", "digest", "read_state", "write_state"]

# Path → content of a file, or None for a folder
State = Mapping[str, bytes | None]


@dataclasses.dataclass(frozen=True)
class Names:
    """Changes of names in one folder; None removes a name."""

    folder: int
    changes: tuple[tuple[str, int | None], ...]


@dataclasses.dataclass(frozen=True)
class Write:
    file: int
    offset: int
    content: bytes


@dataclasses.dataclass(frozen=True)
class Truncate:
    file: int
    size: int


@dataclasses.dataclass(frozen=True)
class Sync:
    node: int  # a file or a folder


Change = Names | Write | Truncate | Sync


class _Nodes:
    """Files and folders by number; 0 is the folder that was traced."""

    def __init__(self) -> None:
        self.folders: dict[int, dict[str, int]] = {0: {}}
        self.files: dict[int, bytearray] = {}

    def new(self, *, is_folder: bool) -> int:
        node = len(self.folders) + len(self.files)
        if is_folder:
            self.folders[node] = {}
        else:
            self.files[node] = bytearray()
        return node

    def find(self, path: str) -> int | None:
        node = 0
        for name in path.strip("/").split("/") if path.strip("/") else []:
            if node not in self.folders or name not in self.folders[node]:
                return None
            node = self.folders[node][name]
        return node

    def copy(self) -> _Nodes:
        copied = _Nodes()
        copied.folders = {node: dict(names) for node, names in self.folders.items()}
        copied.files = {node: bytearray(content) for node, content in self.files.items()}
        return copied

    def apply(self, change: Change) -> None:
        if isinstance(change, Names):
            names = self.folders[change.folder]
            for name, node in change.changes:
                if node is None:
                    names.pop(name, None)
                else:
                    names[name] = node
        elif isinstance(change, Write):
            content = self.files[change.file]
            content.extend(bytes(max(0, change.offset - len(content))))
            content[change.offset : change.offset + len(change.content)] = change.content
        elif isinstance(change, Truncate):
            content = self.files[change.file]
            content.extend(bytes(max(0, change.size - len(content))))
            del content[change.size :]

    def state(self) -> State:
        found: dict[str, bytes | None] = {}

        def add(node: int, path: str) -> None:
            for name, below in sorted(self.folders[node].items()):
                found[path + name] = None if below in self.folders else bytes(self.files[below])
                if below in self.folders:
                    add(below, f"{path}{name}/")

        add(0, "")
        return found


class Trace:
    """The changes that a run has made below a folder, and the states after a cut."""

    def __init__(self, before: State, lines: Sequence[str]) -> None:
        """`lines` are those of failing_calls.c, `before` is what the folder held at the start."""
        nodes = _Nodes()
        for path, content in before.items():
            created = _created(nodes, path, is_folder=content is None)
            nodes.apply(created)
            if content is not None:
                nodes.apply(Write(nodes.find(path) or 0, 0, content))
        self._start = nodes.copy()
        self.changes: list[Change] = []
        self.named: dict[int, str] = {}  # changes that gave a folder or a file its name by rename
        for line in lines:
            change = self._change(nodes, *line.split("\t"))
            if change is not None:
                nodes.apply(change)
                self.changes.append(change)
        self.end = nodes.state()
        for node in nodes.folders:  # all exist from the start, later ones empty and without a name
            self._start.folders.setdefault(node, {})
        for node in nodes.files:
            self._start.files.setdefault(node, bytearray())

    def _change(self, nodes: _Nodes, kind: str, *fields: str) -> Change | None:
        if kind in ("create", "mkdir"):
            return _created(nodes, fields[0], is_folder=kind == "mkdir")
        if kind == "rename":
            (folder, old), (other, new) = (_parent(nodes, path) for path in fields)
            assert folder == other, fields
            self.named[len(self.changes)] = fields[1]
            return Names(folder, ((old, None), (new, nodes.folders[folder][old])))
        if kind == "remove":
            folder, name = _parent(nodes, fields[0])
            return Names(folder, ((name, None),))
        node = nodes.find(fields[1] if kind == "truncate" else fields[0])
        if node is None:  # an open file without a name
            return None
        if kind == "write":
            return Write(node, int(fields[1]), bytes.fromhex(fields[2]))
        if kind in ("truncate", "empty"):
            return Truncate(node, int(fields[0]) if kind == "truncate" else 0)
        assert kind == "fsync", kind
        return Sync(node)

    def synced(self, change: int, before: int) -> bool:
        """Whether a change was made certain before a cut."""
        made = self.changes[change]
        if isinstance(made, Sync):
            return True
        node = made.folder if isinstance(made, Names) else made.file
        return Sync(node) in self.changes[change:before]

    def states(self, cut: int) -> Iterator[tuple[str, State]]:
        """Yield what the disk may hold if the power fails after `cut` changes, with its reason:
        no uncertain change, all, all but one, one alone, and all with one that is torn."""
        uncertain = [index for index in range(cut) if not self.synced(index, cut)]
        yield "all that was not synced is lost", self._state(cut, set(uncertain))
        yield "nothing is lost", self._state(cut, set())
        for index in uncertain:
            what = f"change {index}, {self.changes[index]!r:.80},"
            yield f"{what} is lost", self._state(cut, {index})
            yield f"{what} alone is kept", self._state(cut, {*uncertain} - {index})
            if isinstance(written := self.changes[index], Write):
                half = written.content[: len(written.content) // 2]
                for how, content in (("half", half), ("zeros", bytes(len(written.content)))):
                    torn = dataclasses.replace(written, content=content)
                    yield f"{what} is kept as {how}", self._state(cut, set(), {index: torn})

    def _state(
        self, cut: int, lost: set[int], instead: Mapping[int, Change] | None = None
    ) -> State:
        nodes = self._start.copy()
        for index in range(cut):
            if index not in lost:
                nodes.apply((instead or {}).get(index, self.changes[index]))
        return nodes.state()

    def certain_names(self, cut: int, wanted: Callable[[str], bool]) -> list[str]:
        """Return the paths that a synced rename has given before the cut."""
        return [
            path
            for index, path in self.named.items()
            if index < cut and wanted(path) and self.synced(index, cut)
        ]


def _created(nodes: _Nodes, path: str, *, is_folder: bool) -> Names:
    folder, name = _parent(nodes, path)
    return Names(folder, ((name, nodes.new(is_folder=is_folder)),))


def _parent(nodes: _Nodes, path: str) -> tuple[int, str]:
    folder, _, name = path.strip("/").rpartition("/")
    node = nodes.find(folder)
    assert node is not None, path
    return node, name


def read_state(folder: Path, names: Sequence[str]) -> State:
    """Return what the entries of these names in a folder hold."""
    found: dict[str, bytes | None] = {}
    for name in names:
        for path in [folder / name, *sorted((folder / name).rglob("*"))]:
            if path.exists():
                found[str(path.relative_to(folder))] = None if path.is_dir() else path.read_bytes()
    return found


def write_state(state: State, folder: Path, names: Sequence[str]) -> None:
    """Make the entries of these names in a folder those of the state."""
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)
    for path, content in state.items():
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)


def digest(state: State) -> bytes:
    """Return a hash of a state: many cuts leave the same one."""
    total = hashlib.sha256()
    for path, content in state.items():
        total.update(f"{path}\0{content is None}\0{len(content or b'')}\0".encode())
        total.update(content or b"")
    return total.digest()
