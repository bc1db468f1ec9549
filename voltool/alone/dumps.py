"""Dump files on this machine: which is which, and which rest on which."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Tuple

from voltool.dumpfile.reader import DumpReader
from voltool.errors import IntegrityError, NotFoundError, UsageError, VoltoolError
from voltool.showing import shown

SUFFIX = b".voltool"
#: Told of a file that is passed over.
Tell = Callable[[str], None]


class FileSource:
    """A file as `DumpReader` reads it."""

    def __init__(self, path: bytes) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would keep us waiting
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise UsageError("this is no dump", where=shown(path), why="it is not a file")
        self.size = status.st_size
        self._descriptor = descriptor

    def read_at(self, offset: int, length: int) -> bytes:
        """See `reader.RandomAccess`."""
        parts = []
        while length > 0:
            part = os.pread(self._descriptor, length, offset)
            if not part:
                break
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


@dataclass(frozen=True, eq=False)
class DumpFile:
    """A sound dump (header, trailer, index) at ``path``."""

    path: bytes
    reader: DumpReader
    source: FileSource

    @property
    def order(self) -> Tuple[int, int]:
        """The newest dump of a volume has the highest: clocks are set, sequences are not."""
        return self.reader.header.sequence, self.reader.header.clone_time_ns


class DumpShelf:
    """The dump files that were named, and those that lie beside them. Use as a context manager."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._open: Dict[Tuple[int, int], DumpFile] = {}
        self._looked_into: Dict[bytes, List[DumpFile]] = {}

    def __enter__(self) -> DumpShelf:
        return self

    def __exit__(self, *_error: object) -> None:
        for dump in self._open.values():
            dump.source.close()

    def named(self, paths: Sequence[bytes]) -> List[DumpFile]:
        """The dumps at ``paths``; of a directory all in it and below. NotFoundError, IntegrityError for one that is none."""
        dumps: List[DumpFile] = []
        for path in paths:
            if os.path.isdir(path):
                dumps += self._sound(below(path))
            else:
                dumps.append(self._read(path))
        if not dumps:
            raise NotFoundError("there is no dump", where=", ".join(shown(path) for path in paths))
        return list(dict.fromkeys(dumps))

    def chain(self, newest: DumpFile, named: Sequence[DumpFile]) -> List[DumpFile]:
        """What ``newest`` rests on, level 0 first: of the dumps that were named, else of those that lie beside it.

        IntegrityError that says which dump is missing.
        """
        chain = [newest]
        while chain[0].reader.header.base_state_id is not None:
            base = _base_of(chain[0], named) or _base_of(chain[0], self._beside(chain[0]))
            if base is None:
                raise _missing(chain[0])
            chain.insert(0, base)
        return chain

    def has_base(self, dump: DumpFile, named: Sequence[DumpFile]) -> bool:
        """Whether the dump stands alone, or its base is at hand."""
        return dump.reader.header.base_state_id is None or bool(
            _base_of(dump, named) or _base_of(dump, self._beside(dump))
        )

    def _beside(self, dump: DumpFile) -> List[DumpFile]:
        directory = os.path.dirname(os.path.abspath(dump.path))
        if directory not in self._looked_into:
            paths = [os.path.join(directory, name) for name in sorted(os.listdir(directory)) if name.endswith(SUFFIX)]
            self._looked_into[directory] = self._sound(paths)
        return self._looked_into[directory]

    def _sound(self, paths: Iterable[bytes]) -> List[DumpFile]:
        dumps = []
        for path in paths:
            if os.path.islink(path):
                self._tell(f"{shown(path)} is passed over: it is a link")
                continue
            try:
                dumps.append(self._read(path))
            except VoltoolError as error:
                self._tell(f"{shown(path)} is passed over: {error.what}{': ' + error.why if error.why else ''}")
        return dumps

    def _read(self, path: bytes) -> DumpFile:
        try:
            status = os.stat(path)
            key = (status.st_dev, status.st_ino)
            if key not in self._open:
                source = FileSource(path)
                try:
                    self._open[key] = DumpFile(path, DumpReader(source, shown(path)), source)
                except BaseException:
                    source.close()
                    raise
            return self._open[key]
        except OSError as error:
            why = error.strerror or str(error)
            raise NotFoundError("the dump cannot be opened", where=shown(path), why=why) from None


def below(directory: bytes) -> List[bytes]:
    """The files in ``directory`` and below that are called as dumps are; not what was discarded or is unfinished."""
    found = []
    for place, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if not name.startswith(b"."))
        found += [
            os.path.join(place, name) for name in sorted(names) if name.endswith(SUFFIX) and not name.startswith(b".")
        ]
    return found


def newest_of(dumps: Sequence[DumpFile]) -> DumpFile:
    """The newest. UsageError where the dumps are of several volumes."""
    volumes = {dump.reader.header.volume_uuid: dump.reader.header.volume_name for dump in dumps}
    if len(volumes) > 1:
        raise UsageError(
            "these are dumps of several volumes",
            why=", ".join(sorted(shown(name.encode("utf-8", "surrogateescape")) for name in volumes.values())),
            remedy="the dumps of one of them",
        )
    return max(dumps, key=lambda dump: dump.order)


def _base_of(dump: DumpFile, candidates: Iterable[DumpFile]) -> Optional[DumpFile]:
    """The dump of the base's state, by preference the very dump that was the base; its level is lower, so this ends."""
    header = dump.reader.header
    fitting = [
        other
        for other in candidates
        if other.reader.state_id == header.base_state_id
        and other.reader.header.volume_uuid == header.volume_uuid
        and other.reader.header.level < header.level
    ]
    return max(fitting, key=lambda other: other.reader.header.dump_id == header.base_dump_id, default=None)


def _missing(dump: DumpFile) -> IntegrityError:
    header = dump.reader.header
    directory = os.path.dirname(os.path.abspath(dump.path))
    return IntegrityError(
        "a dump that this one rests on is missing",
        where=shown(dump.path),
        why=f"it holds what changed since the dump {header.base_dump_id or '?'} (state {header.base_state_id}),"
        f" which was not named and does not lie in {shown(directory)}",
        remedy="name that dump too, or put it there",
    )
