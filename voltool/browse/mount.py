"""Mounts a volume's points in time: checks the place, then serves until it is unmounted.

Knows how the parts are put together; the command line says in which process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from voltool import fuse
from voltool.backup.ports import World
from voltool.browse import mountpoint
from voltool.browse.filesystem import VolumeFiles
from voltool.browse.opened import IDLE_SECONDS, OpenPoints
from voltool.browse.points import Points
from voltool.errors import VoltoolError
from voltool.events import Notice, Reporter
from voltool.model import StoredDump

#: How the kernel calls our mounts (`mountpoint.FILE_SYSTEM`), after ``fuse.``.
SUBTYPE = "voltool"
#: How often idle points in time are looked for, seconds.
_SWEEP = 30.0


@dataclass(frozen=True)
class MountOptions:
    """``allow_other``: other users may look, as far as modes and ACLs let them; else only the one who mounts it.
    ``idle_seconds``: how long a point in time stays open, and pinned, that nobody asks for."""

    allow_other: bool = False
    numeric_owner: bool = False
    idle_seconds: float = IDLE_SECONDS


def serve(
    world: World, points: Points, name: str, path: bytes, options: MountOptions, on_ready: Callable[[], None]
) -> None:
    """Mount ``points`` at ``path`` and answer until it is unmounted. ``name`` is the volume's, for /proc/mounts.

    Raises what can be said before it is mounted: that a dump cannot be opened, that libfuse is missing, that mounting failed.
    """
    fuse.load()
    opened = OpenPoints(world, numeric_owner=options.numeric_owner, idle_seconds=options.idle_seconds)
    with contextlib.ExitStack() as stack:
        stack.callback(opened.close)
        if points.single is not None:
            with opened.use(points.single):
                pass
        _sweep_stores(world, points)
        stack.enter_context(_sweeping(opened, options.idle_seconds))
        logging.getLogger("fuse").addHandler(_Forwarding(world.reporter))
        files = VolumeFiles(points, opened, world.reporter)
        fuse.serve(files, path, fuse.MountSettings(name, SUBTYPE, allow_other=options.allow_other), on_ready)


def forbidden_places(world: World, points: Points, urls: Sequence[str], state: bytes) -> list[tuple[bytes, str]]:
    """Where nothing must be mounted: the stores of what is shown and the stores ``urls``, and the state directory."""
    stores = dict.fromkeys([*urls, *(dump.store for dump in _dumps_of(points))])
    places = [(world.stores.open(url).path_on_this_host(), f"the store {url}") for url in stores]
    return [*((path, what) for path, what in places if path is not None), (state, "voltool's state directory")]


def _dumps_of(points: Points) -> list[StoredDump]:
    return [points.single] if points.single is not None else list(points.folders().values())


def _sweep_stores(world: World, points: Points) -> None:
    """Pins of the killed go with the next run, whatever it is."""
    for url in {dump.store for dump in _dumps_of(points)}:
        with contextlib.suppress(VoltoolError):  # a store that cannot be written to can be read
            world.stores.open(url).sweep()


@contextlib.contextmanager
def _sweeping(opened: OpenPoints, idle_seconds: float) -> Iterator[None]:
    """A thread that closes what is idle."""
    over = threading.Event()

    def sweep() -> None:
        while not over.wait(min(_SWEEP, max(idle_seconds / 4, 0.1))):
            opened.sweep()

    thread = threading.Thread(target=sweep, name="sweep", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _Forwarding(logging.Handler):
    """What mfusepy logs (an exception that nobody foresaw) goes where everything goes."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__(logging.WARNING)
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        """Report it."""
        self._reporter.report(Notice("error", self.format(record)))


def take_off(path: bytes, *, lazy: bool) -> mountpoint.Mounted:
    """Unmount what is at ``path``; what it was."""
    return mountpoint.unmount(mountpoint.real_path(os.path.abspath(path)), lazy=lazy)
