"""The process that serves a lazy replica: mounts it, lets it be filled, and hands over to the plain directory when it is full.

Three kinds of processes: this one watches (and alone says durably what is here), one answers the kernel, others fill. It forks
them before it has any thread. Where one of them dies it is started again; where this one dies they die with it, and whoever
starts it again finds everything that was safe. Nothing here knows hosts: who fetches comes as `MakeFetcher`. Ships to servers.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from typing import Callable, Dict, List, Optional

from voltool import fuse
from voltool.agent.lazy.demand import Demand
from voltool.agent.lazy.files import LazyFiles
from voltool.agent.lazy.filler import Filler
from voltool.agent.lazy.mounted import SUBTYPE, LazyStatus, clear_mounts
from voltool.agent.lazy.shared import SLOTS, Counter
from voltool.agent.lazy.sources import MakeFetcher
from voltool.agent.lazy.store import Store
from voltool.errors import HostError, VoltoolError, error_from_fields
from voltool.showing import shown
from voltool.tree.apply.held import HeldRecord
from voltool.volumes.mounts import read_mounts

#: How often what is here is made durable, and the status written, seconds.
_SAVE = 5.0
_STATUS = 0.5
#: With millions of files that takes a while: the pause is so many times longer then.
_SHARE = 20
_TICK = 0.05
#: A process that dies at once is not started again at once.
_AGAIN = 1.0
_PR_SET_PDEATHSIG = 1
_READAHEAD = 4 << 20
_SWITCH, _SWITCHED = b"s", b"S"


@dataclass(frozen=True)
class LazySettings:
    """``point``: the replica's path, an empty directory. ``name`` of the volume. ``fillers``: processes. ``bandwidth`` of the
    fill, bytes/s, 0: no limit. ``status``: the file that says how far it is (`read_status`)."""

    point: bytes
    name: str
    status: bytes
    fillers: int = 2
    bandwidth: int = 0


class LazyService:
    """`run` it in a process without threads. ``swap`` is called when the staging holds the state like any other (`HeldTree`):
    it makes a plain tree of it and puts that in the place of the mount, which it takes off its path. ``tell`` gets lines for the
    log. ``limit`` says how many bytes/s the fill may take now (default: the settings' bandwidth)."""

    def __init__(
        self,
        store: Store,
        settings: LazySettings,
        make_fetcher: MakeFetcher,
        swap: Callable[[], None],
        tell: Callable[[str], None],
        *,
        mounted_anew: Callable[[], None] = lambda: None,
        limit: Optional[Callable[[], int]] = None,
    ) -> None:
        self._limit = limit or (lambda: settings.bandwidth)
        self._mounted_anew = mounted_anew
        self._store = store
        self._settings = settings
        self._make_fetcher = make_fetcher
        self._swap = swap
        self._tell = tell
        self._fuse: Optional[_Child] = None
        self._fillers: Dict[int, _Child] = {}
        self._fault = ""
        self._ended = False

    def run(self, ready: Callable[[], None]) -> bool:
        """Serve until the replica is full and nobody uses the mount any more (True), or SIGTERM comes (False). ``ready`` is
        called when it is mounted. Raises VoltoolError where it cannot be mounted, or the full tree not be handed over."""
        os.umask(0)  # modes are set as they are in the manifest
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end)
        self._store.prepare()
        clear_mounts(self._settings.point)
        try:
            self._mount()
            ready()
            if not self._fill():
                return False
            self._hand_over()
            self._await_last_user()
        finally:
            self._stop()
        return True

    @property
    def is_ending(self) -> bool:
        """Whether a signal has said that it shall end."""
        return self._ended

    def _end(self, _number: int, _frame: object) -> None:
        self._ended = True

    # ----------------------------------------------------------------------------------------------------- the stages

    def _mount(self) -> None:
        store, settings = self._store, self._settings
        self._fuse = _Child(lambda child: _answer(child, store, settings, self._make_fetcher, self._tell))
        self._fuse.await_ready()

    def _fill(self) -> bool:
        """Whether it is full."""
        store = self._store
        self._look_after()
        missing, before = store.missing_size(), self._counted()
        due = told = 0.0
        while not store.presence.is_complete():
            if self._ended:
                return False
            self._look_after()
            now = time.monotonic()
            if now >= due:
                self._save()
                missing, before = store.missing_size(), self._counted()
                due = time.monotonic() + max(_SAVE, _SHARE * (time.monotonic() - now))
            if now - told >= _STATUS:
                files, size = (left - done for left, done in zip(missing, _difference(self._counted(), before)))
                self._write_status(max(0, files), max(0, size))
                told = now
            self._nap()
        self._write_status(0, 0)
        return True

    def _hand_over(self) -> None:
        """The tree becomes a plain one, and takes the mount's place."""
        store = self._store
        self._save()
        assert self._fuse is not None
        if self._fuse.is_alive():
            self._fuse.ask(_SWITCH, _SWITCHED)
        store.held.keep_losses(store.losses())
        store.held.save(HeldRecord(store.index.state_id))
        store.clear_up()
        self._swap()

    def _await_last_user(self) -> None:
        """The mount has no path any more; who uses it goes on until he is done."""
        while self._fuse is not None and self._fuse.is_alive() and not self._ended:
            self._nap()

    def _stop(self) -> None:
        """A mount that is still at the path stays there, dead: an error is better than an empty directory."""
        for child in self._fillers.values():
            child.kill()
        if self._fuse is not None:
            self._fuse.kill()
        with contextlib.suppress(VoltoolError):
            if self._store.staging.descriptor >= 0:
                self._store.save()

    # ---------------------------------------------------------------------------------------------------- the details

    def _look_after(self) -> None:
        """Start what is not running."""
        store, settings = self._store, self._settings
        assert self._fuse is not None
        if not self._fuse.is_alive():
            self._tell(f"the process that serves {shown(settings.point)} has died and is started again")
            store.presence.reset(0)
            clear_mounts(settings.point)
            time.sleep(_AGAIN)
            self._mount()
            self._mounted_anew()
        for number in range(1, min(settings.fillers, SLOTS - 1) + 1):
            child = self._fillers.get(number)
            if child is not None and child.is_alive():
                continue
            if child is not None:
                if child.age() < _AGAIN:
                    continue
                store.presence.reset(number)
            self._fillers[number] = _Child(lambda _child, number=number: self._be_filler(number))  # type: ignore[misc]

    def _be_filler(self, number: int) -> None:
        def share() -> int:
            bandwidth = self._limit()
            return max(1, bandwidth // self._settings.fillers) if bandwidth else 0

        counter = Counter(self._store.presence, number)
        fetcher = self._make_fetcher()
        Filler(self._store, self._store.open_claims(), counter, fetcher, self._tell, limit=share).run()

    def _save(self) -> None:
        try:
            self._store.save()
            self._fault = ""
        except VoltoolError as error:
            if str(error) != self._fault:
                self._tell(str(error))
            self._fault = str(error)

    def _counted(self) -> List[int]:
        counts = self._store.presence.counts()
        return [sum(count.files for count in counts), sum(count.size for count in counts)]

    def _write_status(self, files: int, size: int) -> None:
        full = any(count.full for count in self._store.presence.counts())
        status = LazyStatus(missing_files=files, missing_bytes=size, full=full, fault=self._fault, at=time.time())
        with contextlib.suppress(OSError):  # a full disk; it says how things are and decides nothing
            with open(self._settings.status + b".new", "w", encoding="ascii") as file:
                json.dump(asdict(status), file)
            os.rename(self._settings.status + b".new", self._settings.status)

    def _nap(self) -> None:
        time.sleep(_TICK)


def _difference(now: List[int], before: List[int]) -> List[int]:
    return [one - other for one, other in zip(now, before)]


class _Child:
    """A forked process that dies with us. ``work`` is given the child's end of a pipe to us."""

    def __init__(self, work: Callable[[_ChildEnd], None]) -> None:
        down = os.pipe()
        up = os.pipe()
        self._began = time.monotonic()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(down[1])
            os.close(up[0])
            _be_child(parent, lambda: work(_ChildEnd(down[0], up[1])), up[1])
        os.close(down[0])
        os.close(up[1])
        self._up, self._down = up[0], down[1]
        self._over = False

    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._began

    def is_alive(self) -> bool:
        """Whether it runs."""
        if not self._over:
            pid, _status = os.waitpid(self.pid, os.WNOHANG)
            self._over = pid != 0
        return not self._over

    def await_ready(self) -> None:
        """Until it says so; raises what it says instead."""
        line = b""
        while not line.endswith(b"\n"):
            part = os.read(self._up, 65536)
            if not part:
                raise HostError("the process that mounts has ended before it was ready", remedy="see the host's log")
            line += part
        said = json.loads(line)
        if said:
            raise error_from_fields(*said)

    def ask(self, question: bytes, answer: bytes) -> None:
        """Wait for the answer, or its end."""
        with contextlib.suppress(OSError):
            os.write(self._down, question)
            while self.is_alive():
                if select.select([self._up], [], [], _TICK)[0]:
                    said = os.read(self._up, 1)
                    if not said or said == answer:
                        return

    def kill(self) -> None:
        """End it at once; idempotent."""
        if self.is_alive():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._over = True


@dataclass(frozen=True)
class _ChildEnd:
    down: int
    up: int

    def ready(self) -> None:
        """For `_Child.await_ready`."""
        os.write(self.up, b"null\n")


def _be_child(parent: int, work: Callable[[], None], up: int) -> None:
    """Never returns."""
    status = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(status)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the parent decides
        work()
        status = 0
    except VoltoolError as error:
        with contextlib.suppress(OSError):
            os.write(up, json.dumps([error.kind, error.what, error.where, error.why, error.remedy]).encode() + b"\n")
    except BaseException:  # noqa: BLE001 - the process ends here, whatever it is
        traceback.print_exc()
    finally:
        os._exit(status)


def _answer(
    end: _ChildEnd, store: Store, settings: LazySettings, make_fetcher: MakeFetcher, tell: Callable[[str], None]
) -> None:
    """The process that answers the kernel."""
    fuse.load()
    demand = Demand(store, store.open_claims(), Counter(store.presence, 0), make_fetcher)
    files = LazyFiles(store, demand, tell)

    def listen() -> None:
        while os.read(end.down, 1) == _SWITCH:
            files.switch()
            os.write(end.up, _SWITCHED)

    def ready() -> None:
        threading.Thread(target=listen, name="switch", daemon=True).start()
        _read_ahead(settings.point)
        end.ready()

    root = os.geteuid() == 0
    # Without signals: systemd sends them to all processes of a unit, and a mount that is dead is better than one that is gone.
    mount = fuse.MountSettings(
        settings.name, SUBTYPE, allow_other=root, trusted=root, max_readahead=_READAHEAD, signals=False
    )
    fuse.serve(files, settings.point, mount, ready)


def _read_ahead(point: bytes) -> None:
    """Let the kernel read ahead further than by default, so that several chunks come at once. Best effort."""
    for mount in read_mounts():
        if mount.point == point and mount.kind == f"fuse.{SUBTYPE}":
            with contextlib.suppress(OSError):
                major, minor = mount.device
                with open(f"/sys/class/bdi/{major}:{minor}/read_ahead_kb", "w", encoding="ascii") as file:
                    file.write(str(_READAHEAD >> 10))
