"""The points in time that a mount shows: each dump of a volume as a folder, or one dump alone.

The list is made anew when it is asked for, at most once in a few seconds: dumps that were made meanwhile appear, those that
were pruned are gone. Several threads may ask. Knows the catalog and stores; nothing of FUSE.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from voltool.backup.discover import read_dump
from voltool.backup.ports import World
from voltool.errors import VoltoolError
from voltool.events import Notice
from voltool.model import StoredDump
from voltool.stores.naming import parse_name

#: The symlink to the newest point in time.
LATEST = b"latest"
_ID_DIGITS = 12
#: How long a list is good, seconds; one that took long is good for so many times as long.
_FRESH = 2.0
_SHARE = 20


def folder_name(dump: StoredDump) -> bytes:
    """``2026-11-26T02:30:00+0100-L1-12ab34cd56ef``: the local time of the dump, its level, the beginning of its id."""
    moment = datetime.fromtimestamp(dump.header.clone_time_ns // 10**9).astimezone()
    text = f"{moment.strftime('%Y-%m-%dT%H:%M:%S%z')}-L{dump.header.level}-{dump.header.dump_id[:_ID_DIGITS]}"
    return text.encode()


class Points(Protocol):
    """What is at the top of a mount."""

    @property
    def single(self) -> StoredDump | None:
        """The one dump whose tree begins at the top, or None: then each has a folder."""

    def folders(self) -> dict[bytes, StoredDump]:
        """The folders by name, oldest first; empty where there is a single one."""

    def find(self, name: bytes) -> StoredDump | None:
        """The dump of one folder, without looking whether there are others now; None where there is none."""


@dataclass(frozen=True)
class OnePoint:
    """One dump, directly at the top."""

    single: StoredDump

    def folders(self) -> dict[bytes, StoredDump]:
        """None."""
        return {}

    def find(self, _name: bytes) -> StoredDump | None:
        """None."""
        return None


class AllPoints:
    """All dumps of the volume ``uuid`` in the catalog and, under ``name``, in the stores ``urls``."""

    single: StoredDump | None = None

    def __init__(
        self, world: World, uuid: str, name: str, urls: Sequence[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._world = world
        self._uuid = uuid
        self._name = name
        self._urls = tuple(urls)
        self._clock = clock
        self._lock = threading.Lock()
        self._good_until = clock()
        self._folders: dict[bytes, StoredDump] = {}
        self._passed_over: set[tuple[str, str]] = set()

    def folders(self) -> dict[bytes, StoredDump]:
        """The folders as they are now, or were a moment ago. A store that cannot be reached leaves them as they were."""
        with self._lock:
            began = self._clock()
            if began >= self._good_until:
                try:
                    self._folders = self._listed()
                except VoltoolError as error:
                    self._world.reporter.report(
                        Notice("warning", f"the dumps of {self._name} cannot be listed: {error}")
                    )
                ended = self._clock()
                self._good_until = ended + max(_FRESH, _SHARE * (ended - began))
            return self._folders

    def find(self, name: bytes) -> StoredDump | None:
        """The dump of a folder that is known, or has appeared by now."""
        return self._folders.get(name) or self.folders().get(name)

    def _listed(self) -> dict[bytes, StoredDump]:
        dumps = {dump.header.dump_id: dump for dump in self._world.catalog.dumps(self._uuid)}
        for url in dict.fromkeys([*self._urls, *(dump.store for dump in dumps.values())]):
            store = self._world.stores.open(url)
            prefixes = {self._name, *(dump.header.volume_name for dump in dumps.values() if dump.store == url)}
            present = {file.name: file for prefix in prefixes for file in store.list(f"{prefix}/")}
            dumps = {key: dump for key, dump in dumps.items() if dump.store != url or dump.file in present}
            for file in present.values():
                name = parse_name(file.name)
                if name is None or name.dump_id in dumps or (url, file.name) in self._passed_over:
                    continue
                dump = read_dump(self._world, store, file)
                if dump is None or dump.header.volume_uuid != self._uuid:
                    self._passed_over.add((url, file.name))
                    continue
                self._world.catalog.add_dump(dump)
                dumps[dump.header.dump_id] = dump
        ordered = sorted(dumps.values(), key=lambda dump: (dump.header.sequence, dump.header.clone_time_ns))
        return {folder_name(dump): dump for dump in ordered}
