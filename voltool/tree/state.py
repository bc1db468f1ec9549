"""The states of a volume that its host keeps: manifest, home stamps, block hashes. Ships to servers.

``states/<state id>/`` holds ``objects`` and ``entries`` (the complete manifest), ``stamps`` (home stamps by inode; absent
after a manifest was sent from a store), ``large`` (names of block files in use) and ``meta`` (next object number).
``states/blocks/`` holds one file for each large file's version, shared by the states; ``states/key`` the secret that keys
the block hashes. A state that is damaged or incomplete counts as missing: then the slow way is taken, never a wrong one.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import List, Optional, Set

from voltool import durable
from voltool.dumpfile import format as fmt
from voltool.errors import IntegrityError
from voltool.tree.recordfile import RecordFile, RecordFileWriter
from voltool.tree.stamps import HomeStamps

_NEW = b".new-"


class BaseState:
    """A kept state, opened for reading. ``stamps`` is None where only the manifest is known."""

    def __init__(self, directory: bytes) -> None:
        self._directory = directory
        with open(os.path.join(directory, b"meta"), "rb") as file:
            meta = json.load(file)
        self.state_id = str(meta["state_id"])
        self.next_number = int(meta["next_number"])
        self.objects = RecordFile(os.path.join(directory, b"objects"))
        self.entries = RecordFile(os.path.join(directory, b"entries"))
        stamps = os.path.join(directory, b"stamps")
        self.stamps: Optional[HomeStamps] = HomeStamps(stamps) if os.path.exists(stamps) else None

    def object(self, number: int) -> Optional[bytes]:
        """The object record of ``number``, or None."""
        group = self.objects.group(number)
        return group[0] if group else None

    def large(self) -> List[bytes]:
        """The names of the block files in use. Raises OSError."""
        return _large_in(self._directory)

    def forget_stamps(self) -> None:
        """Treat the state as one without home stamps: inode numbers mean nothing here."""
        if self.stamps is not None:
            self.stamps.close()
            self.stamps = None

    def close(self) -> None:
        """Close all files; idempotent."""
        self.objects.close()
        self.entries.close()
        if self.stamps is not None:
            self.stamps.close()


class StateWriter:
    """A state in the making; `publish` makes it appear under its id."""

    def __init__(self, states: bytes, label: str) -> None:
        self._states = states
        self.directory = os.path.join(states, _NEW + label.encode())
        shutil.rmtree(self.directory, ignore_errors=True)
        os.mkdir(self.directory, 0o700)
        self.objects = RecordFileWriter(os.path.join(self.directory, b"objects"), fmt.OBJECTS)
        self.entries = RecordFileWriter(os.path.join(self.directory, b"entries"), fmt.ENTRIES)
        self.large: List[bytes] = []

    def abandon(self) -> None:
        """Close what is unfinished; it is removed by the next one. After `publish` nothing happens. Idempotent."""
        self.objects.abandon()
        self.entries.abandon()

    def publish(self, state_id: str, next_number: int) -> None:
        """Make it durable and let it appear; an older state of that id is replaced (it is the same)."""
        self.objects.close()
        self.entries.close()
        meta = {"state_id": state_id, "next_number": next_number}
        self._write(b"large", b"\n".join(self.large))
        self._write(b"meta", json.dumps(meta).encode())
        durable.fsync_directory(self.directory)  # one for all files: nobody looks before it has its name
        final = os.path.join(self._states, state_id.encode())
        try:
            durable.rename_with_flags(self.directory, final, durable.RENAME_EXCHANGE)
        except FileNotFoundError:
            os.rename(self.directory, final)
        except OSError as error:
            if error.errno not in durable.NO_RENAME_FLAGS:
                raise
            shutil.rmtree(final, ignore_errors=True)  # cut off here, a dump is slow once
            os.rename(self.directory, final)
        durable.fsync_directory(self._states)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _write(self, name: bytes, data: bytes) -> None:
        with open(os.path.join(self.directory, name), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


class StateKeeper:
    """The directory ``states/`` of one volume."""

    def __init__(self, directory: bytes) -> None:
        self.directory = directory
        durable.make_directory(os.path.join(directory, b"blocks"))

    @property
    def blocks(self) -> bytes:
        """Where block files are."""
        return os.path.join(self.directory, b"blocks")

    def key(self) -> bytes:
        """The secret that keys this home's block hashes; made when first asked for."""
        path = os.path.join(self.directory, b"key")
        try:
            with open(path, "rb") as file:
                key = file.read()
        except FileNotFoundError:
            key = b""
        if len(key) != 32:
            key = os.urandom(32)
            durable.write_file(path, key)
        return key

    def ids(self) -> List[str]:
        """The ids of all states kept."""
        return [
            os.fsdecode(name)
            for name in sorted(os.listdir(self.directory))
            if len(name) == 64 and os.path.exists(os.path.join(self.directory, name, b"meta"))
        ]

    def open(self, state_id: str) -> Optional[BaseState]:
        """The state, or None when it is not there or cannot be read."""
        try:
            return BaseState(os.path.join(self.directory, state_id.encode()))
        except (OSError, ValueError, KeyError, IntegrityError):
            return None

    def large(self, state_id: str) -> List[bytes]:
        """The names of the block files that a state uses. Raises OSError."""
        return _large_in(os.path.join(self.directory, state_id.encode()))

    def create(self, label: str) -> StateWriter:
        """Begin a new state."""
        return StateWriter(self.directory, label)

    def keep_only(self, wanted: Set[str]) -> None:
        """Drop every other state, what was left unfinished, and the block files that no state uses. Idempotent."""
        for name in os.listdir(self.directory):
            unfinished = name.startswith(_NEW)
            if unfinished or (len(name) == 64 and os.fsdecode(name) not in wanted):
                shutil.rmtree(os.path.join(self.directory, name), ignore_errors=True)
        used: Set[bytes] = set()
        for state_id in self.ids():
            with open(os.path.join(self.directory, state_id.encode(), b"large"), "rb") as file:
                used.update(file.read().split(b"\n"))
        for name in os.listdir(self.blocks):
            if name not in used:
                os.unlink(os.path.join(self.blocks, name))


def _large_in(directory: bytes) -> List[bytes]:
    with open(os.path.join(directory, b"large"), "rb") as file:
        return [name for name in file.read().split(b"\n") if name]
