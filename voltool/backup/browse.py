"""Looks into a dump without restoring it: directories and single files, out of the whole chain."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass

from voltool.backup.chains import open_chain
from voltool.backup.paths import parts_below, parts_of
from voltool.backup.ports import World
from voltool.dumpfile import format as fmt
from voltool.dumpfile.chain import Chain
from voltool.errors import NotFoundError, RefusedError
from voltool.model import StoredDump
from voltool.showing import shown

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True)
class ListedEntry:
    """One name in a directory of a dump; ``target`` is where a symbolic link points to."""

    name: bytes
    record: fmt.ObjectRecord
    target: bytes


def list_directory(world: World, dump: StoredDump, path: bytes) -> Iterator[ListedEntry]:
    """The entries of the directory at ``path``, sorted by name; of anything else, itself. Links are not followed.

    Raises NotFoundError, IntegrityError.
    """
    with open_chain(world, dump, "listing it") as opened:
        chain = opened.chain
        name, record = _find(chain, path)
        if not stat.S_ISDIR(record.mode):
            yield ListedEntry(name, record, record.target)
            return
        for child_name, number in chain.entries_of(record.number):
            child = chain.object(number)
            if child is None:
                raise fmt.damaged("a name belongs to an object that is not there", chain.newest.name)
            yield ListedEntry(child_name, child, child.target)


def read_file(world: World, dump: StoredDump, path: bytes) -> Iterator[bytes]:
    """The bytes of the regular file at ``path``, holes as zeros; each piece is checked before it is given out.

    Raises NotFoundError, RefusedError (not a regular file, or its content was never read), IntegrityError.
    """
    with open_chain(world, dump, "reading a file of it") as opened:
        chain = opened.chain
        _name, record = _find(chain, path)
        _require_content(record, path)
        for piece in chain.content(record):
            yield bytes(piece)


def _find(chain: Chain, path: bytes) -> tuple[bytes, fmt.ObjectRecord]:
    below = parts_below(path, chain.header.source_path)
    for parts in (parts_of(path), below):
        record = chain.lookup(parts) if parts is not None else None
        if parts is not None and record is not None:
            return (parts[-1] if parts else b"."), record
    raise NotFoundError(
        f"there is no {shown(path)} in this dump",
        where=chain.newest.name,
        remedy="voltool ls shows what is in it; --at chooses another point in time",
    )


def _require_content(record: fmt.ObjectRecord, path: bytes) -> None:
    what = shown(path)
    if not stat.S_ISREG(record.mode):
        kind = _KINDS.get(stat.S_IFMT(record.mode), "something else")
        to = f" to {shown(record.target)}" if stat.S_ISLNK(record.mode) else ""
        raise RefusedError(f"{what} is not a regular file", why=f"it is {kind}{to}", remedy="voltool ls")
    if record.state & fmt.STATE_UNKNOWN and record.content == fmt.NO_HASH:
        raise RefusedError(
            f"the content of {what} is not known", why="it could not be read when it was dumped", remedy="--at"
        )
