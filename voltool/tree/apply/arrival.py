"""The first dump of a move arrives: applied like any restore, but held in staging instead of published. Ships to servers.

What the stream says beside the data (objects, names, chunk hashes) is kept in files, so that the staging's manifest can be
made of it: of everything in the end, and after an interruption of what had safely come.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from typing import IO, Dict, Iterator, List, Optional

from voltool.dumpfile import format as fmt
from voltool.dumpfile.bitmap import Bitmap
from voltool.dumpfile.frames import Frame, decode_records
from voltool.errors import IntegrityError, VoltoolError
from voltool.events import Reporter
from voltool.tree.apply.applier import Applied, Applier, ApplySettings
from voltool.tree.apply.attributes import Attributes
from voltool.tree.apply.files import FileMaker, flat_path
from voltool.tree.apply.framespool import FrameSpool
from voltool.tree.apply.held import HeldRecord, HeldTree
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.owners import Owners
from voltool.tree.apply.records import is_omitted
from voltool.tree.apply.skeleton import is_directory
from voltool.tree.apply.staging import Progress, Staging
from voltool.tree.manifest import ManifestTaker
from voltool.tree.state import StateWriter

_PARTS = {fmt.OBJECTS: b"objects", fmt.ENTRIES: b"entries", fmt.CHUNKS: b"chunks"}
_CONTENT = b"content"


class Arrival(Applier):
    """`feed` it a level 0 stream, then `arrive`; always `close` it. Its staging must be fresh."""

    def __init__(self, held: HeldTree, settings: ApplySettings, reporter: Reporter) -> None:
        super().__init__(held.staging, settings, reporter)
        self._held = held
        self._files_of: List[IO[bytes]] = []
        self._front: Dict[int, FrameSpool] = {}
        for kind, name in _PARTS.items():
            file = open(os.path.join(held.staging.path, name), "wb", buffering=0)  # noqa: SIM115 - see close
            self._files_of.append(file)
            self._front[kind] = FrameSpool(file.fileno())

    def _frame(self, frame: Frame) -> None:
        super()._frame(frame)
        if frame.header.type in self._front:
            self._front[frame.header.type].append(frame)
        elif frame.header.type == fmt.OWNERS:
            self._held.learn_owners(self._owners, decode_records(frame))

    def arrive(self) -> Applied:
        """The stream is complete: the staging holds its state from now on."""
        self._complete()
        state_id = make_state(self._held, None)
        self._staging.sync()
        self._held.keep_losses(self._losses)
        self._held.save(HeldRecord(state_id))
        _remove_front(self._staging.path)
        return self._applied()

    def _promise(self, progress: Progress) -> None:
        self._held.keep_losses(self._losses)
        super()._promise(progress)

    def lost(self) -> bytes:
        """What could not be held here, for `Losses.merge`."""
        return self._losses.take()

    def close(self) -> None:
        """As of `Applier`."""
        super().close()
        for file in self._files_of:
            file.close()


def salvage(held: HeldTree) -> bool:
    """After an interrupted arrival: let the staging hold what had safely come; whether that is anything. Repeatable."""
    until = held.staging.progress.resume_after
    if held.record is not None:
        return True
    if not until:
        return False
    try:
        state_id = make_state(held, until)
    except (OSError, IntegrityError):
        return False
    _remove_unknown(held, state_id)
    held.staging.sync()
    held.save(HeldRecord(state_id))
    _remove_front(held.staging.path)
    return True


def make_state(held: HeldTree, until: Optional[int]) -> str:
    """The manifest of what the kept files say, published as a state; its id. ``until``: files of higher numbers are left
    out, since their data may not be here."""
    state = held.keeper.create("arrival")
    try:
        with _Front(held.staging, until) as front:
            return _take_all(held, state, front, until)
    finally:
        state.abandon()


def _take_all(held: HeldTree, state: StateWriter, front: _Front, until: Optional[int]) -> str:
    hasher = fmt.StateHasher()
    taker = ManifestTaker(held.keeper, state, hasher)
    present = Bitmap()

    def wanted(record: bytes) -> bool:
        number, mode = int.from_bytes(record[:8], "big"), int.from_bytes(record[8:12], "big")
        if until is not None and stat.S_ISREG(mode) and (number > until or is_omitted(record)):
            return False
        present.add(number)
        return True

    taker.take(fmt.OBJECTS, (record for record in front.objects() if wanted(record)))
    entries = front.records(fmt.ENTRIES)
    taker.take(fmt.ENTRIES, (record for record in entries if int.from_bytes(record[-8:], "big") in present))
    chunks = front.records(fmt.CHUNKS)
    taker.take(fmt.CHUNKS, (record for record in chunks if int.from_bytes(record[:8], "big") in present))
    taker.finish()
    state_id = hasher.state_id()
    state.publish(state_id, taker.next_number)
    return state_id


class _Front:
    """What was kept of an arrival, read again. ``until``: it may have been cut off anywhere after that object."""

    def __init__(self, staging: Staging, until: Optional[int]) -> None:
        self._until = until
        self._files: List[IO[bytes]] = []
        self._spools = {kind: self._open(staging.path, name) for kind, name in _PARTS.items()}
        length = staging.progress.content_bytes if until is not None else None
        self._content = self._open(staging.path, _CONTENT, length)

    def _open(self, directory: bytes, name: bytes, length: Optional[int] = None) -> FrameSpool:
        file = open(os.path.join(directory, name), "rb", buffering=0)  # noqa: SIM115 - see close
        self._files.append(file)
        return FrameSpool(file.fileno(), os.fstat(file.fileno()).st_size if length is None else length)

    def records(self, kind: int) -> Iterator[bytes]:
        """The records of one kind. Of chunk hashes those at the end may be cut off, with files that are not wanted."""
        try:
            yield from self._spools[kind].records()
        except (VoltoolError, struct.error):
            if self._until is None or kind != fmt.CHUNKS:
                raise

    def objects(self) -> Iterator[bytes]:
        """Final object records; a file whose content never came is left out after an interruption."""
        content = self._content.records()
        final = next(content, None)
        for record in self.records(fmt.OBJECTS):
            if final is not None and final[:8] == record[:8]:
                yield final
                final = next(content, None)
            elif not record[fmt.STATE_OFFSET] & fmt.STATE_PENDING:
                yield record
            elif self._until is None:
                raise fmt.damaged("the content of an object never came")

    def __enter__(self) -> _Front:
        return self

    def __exit__(self, *_error: object) -> None:
        for file in self._files:
            file.close()


def _remove_front(path: bytes) -> None:
    for name in (*_PARTS.values(), _CONTENT):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(path, name))


def _remove_unknown(held: HeldTree, state_id: str) -> None:
    """Take files out of the flat tree that the state does not name: parts of what was on its way."""
    state = held.keeper.open(state_id)
    assert state is not None
    losses = Losses()
    maker = FileMaker(held.staging.descriptor, Attributes(Owners(numeric=True), losses), losses, again=True)
    try:
        for record in state.objects:
            if not is_directory(record):
                continue
            number = int.from_bytes(record[:8], "big")
            known = {fmt.decode_entry(entry)[1] for entry in state.entries.group(number)}
            path = os.path.join(held.staging.path, flat_path(number))
            for name in os.listdir(path):
                if name not in known:
                    maker.remove(flat_path(number) + b"/" + name)
    finally:
        state.close()
