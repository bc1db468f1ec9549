"""The first half of a stream: which objects there are, which names they have, and whether that is a tree.

OBJECTS and ENTRIES are checked and set aside as they come. `build` then joins the two in the order of objects: every
object has a name, every directory exactly one, every name an object. Nothing is kept in memory for each object; for each
directory a few integers. Part of what is shipped to servers.
"""

from __future__ import annotations

import marshal
import os
import stat
import struct
import tempfile
from typing import IO, Callable, Iterator, List, Optional, Tuple

from voltool.dumpfile import format as fmt
from voltool.dumpfile.frames import Frame, decode_records
from voltool.model import ROOT_OBJECT
from voltool.spool import SortedSpool
from voltool.tree.apply.framespool import FrameSpool
from voltool.tree.apply.names import Directories, Name, NameTable

_NUMBER_MODE = struct.Struct(">QI")
#: Where the type is in a record's mode (a big-endian number of 4 bytes), and what it is there.
_TYPE_AT = 10
_REGULAR, _DIRECTORY = stat.S_IFREG >> 8, stat.S_IFDIR >> 8
_TYPES = {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK}
#: Objects that go to a worker in one task.
_TASK_OBJECTS = 256
_TASK_BYTES = 1 << 20
#: The largest file Linux knows (off_t).
MAX_SIZE = (1 << 63) - 1

#: An object that is not a file or directory, as `batches.special_task` takes it.
Special = Tuple[bytes, List[Tuple[int, bytes]]]


class Skeleton:
    """Objects, names and directories of the stream; its temporary files lie (unnamed) in ``temporary``."""

    def __init__(self, temporary: bytes) -> None:
        self._files: List[IO[bytes]] = []
        self._temporary = temporary
        self.objects = FrameSpool(self._file())
        self.names = NameTable(self._file())
        self.directories = Directories()
        self._by_child = SortedSpool(temporary)
        self._directory_names = self._open()
        self._specials = self._open()
        self._special_batches = 0
        self._last_object = 0
        self._last_entry = b""
        self._cursor = 0
        self.entry_count = 0
        self.object_count = 0
        self.file_count = 0

    def _open(self) -> IO[bytes]:
        file = tempfile.TemporaryFile(dir=os.fsdecode(self._temporary), buffering=1 << 18)  # noqa: SIM115 - see close
        self._files.append(file)
        return file

    def _file(self) -> int:
        return self._open().fileno()

    def close(self) -> None:
        """Free the temporary files; idempotent."""
        self._by_child.close()
        for file in self._files:
            file.close()
        self._files = []

    @property
    def last_object(self) -> int:
        """The highest object number so far."""
        return self._last_object

    # ------------------------------------------------------------------------------------------- as the frames come

    def add_objects(self, frame: Frame) -> None:
        """Check and set aside an OBJECTS frame."""
        last = self._last_object
        for record in decode_records(frame):
            if len(record) < fmt.OBJECT_SIZE:
                raise fmt.damaged("an object record is cut off")
            number, mode = _NUMBER_MODE.unpack_from(record)
            if number <= last:
                raise fmt.damaged("its object records are not in order")
            last = number
            kind = stat.S_IFMT(mode)
            if kind not in _TYPES:
                raise fmt.damaged("it has an object of no known type (or only the changes to another dump)")
            if kind == stat.S_IFDIR:
                self.directories.numbers.append(number)
            self.object_count += 1
        self._last_object = last
        self.objects.append(frame)

    def add_entries(self, frame: Frame) -> List[bytes]:
        """Check and set aside an ENTRIES frame; its records."""
        records = decode_records(frame)
        turned = []
        numbers = self.directories.numbers
        last = self._last_entry
        for record in records:
            directory, name, child = fmt.decode_entry(record)
            if record[:-8] <= last:
                raise fmt.damaged("its entry records are not in order")
            last = record[:-8]
            while self._cursor < len(numbers) and numbers[self._cursor] < directory:
                self._cursor += 1
            if not name or self._cursor == len(numbers) or numbers[self._cursor] != directory:
                raise fmt.damaged("a name lies in something that is not a directory")
            if child == 0:
                raise fmt.damaged("it holds only the changes to another dump")
            turned.append(record[-8:] + record[:-9])
        self._last_entry = last
        self.entry_count += len(records)
        self._by_child.add_many(turned)
        return records

    # ------------------------------------------------------------------------------------------------ join the two

    def build(self, directories: Callable[[List[bytes]], None]) -> None:
        """Join objects and names; hand out directories to be made, in batches. Raises IntegrityError."""
        made: List[bytes] = []
        special: List[Special] = []
        special_bytes = 0
        for record, names in self._joined():
            if is_regular(record):
                self.file_count += 1
            elif is_directory(record):
                made.append(record)
                self._add_directory(record, names)
            else:
                special.append((record, [(int.from_bytes(name[8:16], "big"), name[16:]) for name in names]))
                special_bytes += len(record) + 64 * len(names)
                self.file_count += 1
            if len(made) >= _TASK_OBJECTS:
                directories(made)
                made = []
            if len(special) >= _TASK_OBJECTS or special_bytes > _TASK_BYTES:
                self._keep_specials(special)
                special, special_bytes = [], 0
        self._by_child.close()
        self.names.flush()
        self.directories.measure()
        if made:
            directories(made)
        if special:
            self._keep_specials(special)

    def _keep_specials(self, special: List[Special]) -> None:
        marshal.dump(special, self._specials)
        self._special_batches += 1

    def specials(self) -> Iterator[List[Special]]:
        """Symlinks, devices, fifos, sockets in batches; their directories must have been made."""
        self._specials.seek(0)
        for _batch in range(self._special_batches):
            yield marshal.load(self._specials)  # noqa: S302 - our own unnamed file

    def _joined(self) -> Iterator[Tuple[bytes, List[bytes]]]:
        """Every object and its names, each after its number and that of its directory."""
        entries = iter(self._by_child)
        entry = next(entries, None)
        add = self.names.add
        for record in self.objects.records():
            key = record[:8]
            names: List[bytes] = []
            while entry is not None and entry[:8] == key:
                names.append(entry)
                add(entry)
                entry = next(entries, None)
            if entry is not None and entry[:8] < key:
                raise fmt.damaged("a name belongs to no object")
            if not names and int.from_bytes(key, "big") != ROOT_OBJECT:
                raise fmt.damaged("an object has no name")
            yield record, names
        if entry is not None:
            raise fmt.damaged("a name belongs to no object")

    def _add_directory(self, record: bytes, names: List[bytes]) -> None:
        is_root = int.from_bytes(record[:8], "big") == ROOT_OBJECT
        if is_root and names:
            raise fmt.damaged("the root directory has a name")
        if not is_root and len(names) != 1:
            raise fmt.damaged("a directory has more than one name")
        parent, name = (0, b"") if is_root else (int.from_bytes(names[0][8:16], "big"), names[0][16:])
        self.directories.parents.append(parent)
        self._directory_names.write(bytes([len(name)]) + name)

    def directory_names(self) -> Iterator[bytes]:
        """The names of all directories, in the order of their numbers (the root's is empty)."""
        self._directory_names.flush()
        self._directory_names.seek(0)
        for _number in self.directories.numbers:
            length = self._directory_names.read(1)[0]
            yield self._directory_names.read(length)

    def path_of(self, number: int) -> bytes:
        """A path of an object, relative to the root, for messages."""
        parts: List[bytes] = []
        while number != ROOT_OBJECT:
            name: Optional[Name] = next(iter(self.names.of(number)), None)
            if name is None or len(parts) > len(self.directories.numbers):
                break
            parts.append(name.name)
            number = name.directory
        return b"/".join(reversed(parts))


def is_regular(record: bytes) -> bool:
    """Whether an object record is that of a regular file."""
    return len(record) > _TYPE_AT and record[_TYPE_AT] & 0xF0 == _REGULAR


def is_directory(record: bytes) -> bool:
    """Whether an object record is that of a directory."""
    return len(record) > _TYPE_AT and record[_TYPE_AT] & 0xF0 == _DIRECTORY
