"""What `find` must answer, from walks of the trees themselves; knows nothing of dumps or of the index."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence

from voltool.browse.history import Found

#: Type, size (of a device its number), modification time (of a directory None).
Seen = tuple[int, int, int | None]
Tree = dict[bytes, Seen]


def walk(root: bytes) -> Tree:
    """Every path below ``root``, with what can be seen of it."""
    tree: Tree = {}
    for directory, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            tree[os.path.relpath(path, root)] = seen_of(status.st_mode, _size(status), status.st_mtime_ns)
    return tree


def contents(root: bytes) -> dict[bytes, bytes]:
    """Of every path below ``root`` that has one: a hash of its content, or where it points to."""
    found = {}
    for directory, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(directory, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                found[os.path.relpath(path, root)] = os.readlink(path)
            elif stat.S_ISREG(mode):
                with open(path, "rb") as file:
                    found[os.path.relpath(path, root)] = hashlib.file_digest(file, "sha1").digest()
    return found


def _size(status: os.stat_result) -> int:
    if stat.S_ISREG(status.st_mode):
        return status.st_size
    return status.st_rdev if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode) else 0


def seen_of(mode: int, size: int, mtime_ns: int | None) -> Seen:
    return mode, size, None if stat.S_ISDIR(mode) else mtime_ns


def check(found: Sequence[Found], dump_ids: Sequence[str], trees: Sequence[Tree]) -> None:
    """Fail unless ``found`` is what the dumps, oldest first, hold: ``trees`` are what was to be found in each."""
    told: list[Tree] = [{} for _ in trees]
    for one in found:
        last = -1
        for version in one.versions:
            first, last = dump_ids.index(version.first.dump_id), dump_ids.index(version.last.dump_id)
            assert last - first + 1 == version.dumps
            for position in range(first, last + 1):
                assert one.path not in told[position], f"{one.path!r} twice"
                told[position][one.path] = seen_of(version.mode, version.size, version.mtime_ns)
        gone = None if last + 1 == len(dump_ids) else dump_ids[last + 1]
        assert (one.gone.dump_id if one.gone else None) == gone
    assert told == list(trees)
