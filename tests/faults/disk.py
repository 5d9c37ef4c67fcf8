"""A small model of a disk: what is left of recorded file operations when the power is cut."""

import dataclasses
import hashlib
from pathlib import Path

MODELS = ("ordered", "journal", "strict")
"""What a file system makes durable besides the content of a file at its fsync:

- ordered: all names, as ext4 does where it has just written its journal; files not flushed are empty.
- journal: the names at the last fsync of anything, as ext4 and others have them at least.
- strict: the names in a folder at the last fsync of that folder, as POSIX has it.
"""


@dataclasses.dataclass
class File:
    """A file, with the content that is durable."""

    content: bytes = b""


@dataclasses.dataclass
class Folder:
    """A folder: what is in it by name, and what was at its last fsync."""

    entries: dict = dataclasses.field(default_factory=dict)
    durable: dict = dataclasses.field(default_factory=dict)


class Disk:
    """The files below a root.

    Args:
      root: the folder in which the operations were recorded.
    """

    def __init__(self, root):
        self._root = Path(root)
        self._top = Folder()
        self._journal = {}

    def apply(self, operation):
        """Replays an operation."""
        path = Path(operation.paths[0])
        if operation.kind == "fsync":
            node = self._find(path)
            if isinstance(node, File):
                node.content = operation.content
            elif node:
                node.durable = dict(node.entries)
            self._journal = _names(self._top)
            return
        folder = self._find(path.parent)
        if operation.kind in ("create", "mkdir"):
            folder.entries[path.name] = File() if operation.kind == "create" else Folder()
        elif operation.kind == "truncate":
            folder.entries[path.name].content = b""
        elif operation.kind in ("unlink", "rmdir"):
            del folder.entries[path.name]
        elif operation.kind == "rename":
            target = Path(operation.paths[1])
            self._find(target.parent).entries[target.name] = folder.entries.pop(path.name)
        else:
            assert operation.kind in ("open", "write"), operation

    def after_a_cut(self, model):
        """What is durable: the content of files, and None for folders, by path below the root."""
        names = self._journal if model == "journal" else _names(self._top, durable=model == "strict")
        return {path: node.content if isinstance(node, File) else None for path, node in names.items()}

    def _find(self, path):
        """What is at a path; None if it has been deleted, as a file may be that is still open."""
        node = self._top
        for name in path.relative_to(self._root).parts:
            node = node.entries.get(name) if isinstance(node, Folder) else None
        return node


def _names(folder, durable=False, prefix=""):
    found = {}
    for name, node in (folder.durable if durable else folder.entries).items():
        found[prefix + name] = node
        if isinstance(node, Folder):
            found |= _names(node, durable, f"{prefix}{name}/")
    return found


def write(tree, root):
    """Writes what a cut has left below a folder."""
    for name, content in tree.items():  # Folders come before what they contain.
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)


def digest(tree):
    """The same for the same trees."""
    return hashlib.sha256(repr(sorted(tree.items(), key=lambda item: item[0])).encode()).hexdigest()
