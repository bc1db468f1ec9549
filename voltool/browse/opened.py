"""Points in time that are open: opened when first asked for, pinned against prune while they are in use, closed when nobody asked
for a while. So a mount that stays for weeks keeps no dump for ever, and one that is being read is not pruned.

Several threads may ask. Knows trees; nothing of FUSE.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from voltool.backup.chains import open_chain
from voltool.backup.ports import World
from voltool.browse.tree import Kept, Tree
from voltool.model import StoredDump

#: How long a point in time stays open that nobody asks for, seconds.
IDLE_SECONDS = 300.0
#: How many stay open at most that nobody uses.
_MOST_IDLE = 12


@dataclass
class _Point:
    lock: threading.Lock = field(default_factory=threading.Lock)
    tree: Tree | None = None
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    users: int = 0
    last_used: float = 0.0


class OpenPoints:
    """The open trees, by dump. ``close`` ends everything; `sweep` is to be called now and then."""

    def __init__(
        self,
        world: World,
        *,
        numeric_owner: bool,
        idle_seconds: float = IDLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._world = world
        self._numeric_owner = numeric_owner
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._kept = Kept()
        self._points: dict[str, _Point] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def use(self, dump: StoredDump) -> Iterator[Tree]:
        """The tree, open and pinned while the context lasts. Raises what `open_chain` raises."""
        tree = self.hold(dump)
        try:
            yield tree
        finally:
            self.release(dump)

    def hold(self, dump: StoredDump) -> Tree:
        """The tree, open and pinned until `release` has been called as often."""
        with self._lock:
            point = self._points.setdefault(dump.header.dump_id, _Point())
            point.users += 1
        try:
            with point.lock:
                if point.tree is None:
                    point.tree = self._open(dump, point)
                return point.tree
        except BaseException:
            self.release(dump)
            raise

    def release(self, dump: StoredDump) -> None:
        """One user fewer."""
        with self._lock:
            point = self._points[dump.header.dump_id]
            point.users -= 1
            point.last_used = self._clock()
            crowded = len(self._points) > _MOST_IDLE
        if crowded:
            self.sweep()

    def sweep(self) -> None:
        """Close what nobody has used for a while, and the oldest of too many."""
        now = self._clock()
        with self._lock:
            idle = sorted(
                ((point.last_used, dump_id) for dump_id, point in self._points.items() if not point.users), reverse=True
            )
            late = [
                dump_id
                for at, (used, dump_id) in enumerate(idle)
                if at >= _MOST_IDLE or now - used > self._idle_seconds
            ]
            closed = [self._points.pop(dump_id) for dump_id in late]
        for point in closed:
            point.closing.close()

    def close(self) -> None:
        """Close everything, in use or not."""
        with self._lock:
            closed = list(self._points.values())
            self._points = {}
        for point in closed:
            point.closing.close()

    def _open(self, dump: StoredDump, point: _Point) -> Tree:
        opened = point.closing.enter_context(
            open_chain(self._world, dump, "it is looked at through a mount", kept_data=self._kept.frames, sweep=False)
        )
        return Tree(opened.chain, self._kept, numeric_owner=self._numeric_owner)
