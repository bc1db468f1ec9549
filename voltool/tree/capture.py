"""What a worker process does for a dump: tasks in, finished frames and records out. Ships to servers.

A worker knows the tree's root descriptor and nothing of the dump's order. See `smallfiles` and `pieces` for the work.
"""

from __future__ import annotations

import marshal

from voltool.tree.opening import CaptureSettings, Opener
from voltool.tree.pieces import PieceReader
from voltool.tree.pool import Shared
from voltool.tree.room import Room
from voltool.tree.smallfiles import SmallFileReader


class Worker:
    """The work of one process. `work` is called with marshalled tasks."""

    def __init__(self, settings: CaptureSettings) -> None:
        opener = Opener(settings)
        self._small_files = SmallFileReader(opener)
        self._pieces = PieceReader(opener)

    def work(self, task: bytes, shared: Shared) -> bytes:
        """Dispatch one task; the marshalled result: frames (see `room`), chunk hashes, and more as the kind of task has it."""
        kind, *arguments = marshal.loads(task)  # noqa: S302 - from our own parent through a private pipe
        read = self._small_files.read if kind == "small" else self._pieces.read
        return marshal.dumps(read(Room(shared.room), *arguments))
