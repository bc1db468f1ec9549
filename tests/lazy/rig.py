"""A lazy replica of a tree on this machine: the real store, mount and filler; only who fetches reads the tree itself.

Faults are files in a directory, so that every process sees them: see `LocalFetcher`.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.core.harness import Rig
from voltool import durable
from voltool.agent.lazy.arriving import ManifestArrival, open_index
from voltool.agent.lazy.mounted import SUBTYPE, LazyStatus, read_status
from voltool.agent.lazy.service import LazyService, LazySettings
from voltool.agent.lazy.sources import Answer, Check, Missing, Piece, Wanted
from voltool.agent.lazy.store import Store
from voltool.errors import UnreachableError
from voltool.model import Consistency, DumpHeader, Epoch
from voltool.tree.apply.attributes import Attributes
from voltool.tree.apply.held import HeldTree
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.ready import make_ready, publish_ready
from voltool.tree.apply.staging import Staging, StagingKey, open_staging
from voltool.tree.manifest import state_manifest
from voltool.tree.state import StateKeeper
from voltool.volumes.lock.mounting import leave_namespace

FUSE_TYPE = f"fuse.{SUBTYPE}"


class LocalFetcher:
    """`sources.Fetcher` that reads the tree ``root``. In the directory ``faults`` a file ``gone`` makes it unreachable (after its
    content in seconds), ``wrong`` lets it get wrong bytes, ``hang`` lets it hang so many seconds, ``slow`` sleep so long for each
    request; ``log`` gets a line for each thing asked for."""

    def __init__(self, root: bytes, faults: Path) -> None:
        self._root = root
        self._faults = faults

    def fetch(self, wanted: Sequence[Wanted], right: Check) -> Iterator[Answer]:
        for name in ("hang", "slow"):
            time.sleep(self._fault(name) or 0)
        gone = self._fault("gone")
        if gone is not None:
            time.sleep(gone)
            raise UnreachableError("nobody is there")
        log = os.open(self._faults / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            order = list(range(len(wanted)))
            random.shuffle(order)
            for at in order:
                path, offset, length = wanted[at]
                os.write(log, b"%d %d %s\n" % (offset, length, path.hex().encode()))
                yield self._one(at, path, offset, length, right)
        finally:
            os.close(log)

    def _one(self, at: int, path: bytes, offset: int, length: int, right: Check) -> Answer:
        try:
            descriptor = _open_deep(self._root, path)
        except OSError as error:
            return Missing(at, str(error))
        try:
            data = os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)
        if self._fault("wrong") is not None:
            data = bytes(reversed(data)) if data[:1] != data[-1:] else b"x" + data[1:]
        return Piece(at, data) if right(at, data) else Missing(at, "other bytes")

    def _fault(self, name: str) -> float | None:
        try:
            return float((self._faults / name).read_text() or 0)
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Nothing."""


def _open_deep(root: bytes, path: bytes) -> int:
    """However long the path is."""
    current = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        *above, name = path.split(b"/")
        for part in above:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=current)
            os.close(current)
            current = below
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=current)
    finally:
        os.close(current)


def header(uuid: str) -> DumpHeader:
    return DumpHeader(
        dump_id="0" * 32, volume_uuid=uuid, volume_name="", level=0, sequence=0, epoch=Epoch(0, "", ""), clone_time_ns=0,
        boot_id="", host="", driver="", consistency=Consistency.LIVE, source_path=b"", tool_version="",
    )  # fmt: skip


class LazyRig:
    """The replica at ``point`` of the volume of ``rig``, dumped once already; everything else lies in ``place`` on the same file
    system as the point. The volume itself is what is fetched from: it must not change."""

    def __init__(self, rig: Rig, place: Path) -> None:
        self.source = rig.path
        self.uuid = rig.volume.uuid
        self.place = place
        self.point = place / "replica"
        self.faults = rig.directory / f"faults-{place.name}"
        self.log = rig.directory / f"log-{place.name}"
        self.next = place / "next"
        self.status_file = rig.directory / f"status-{place.name}"
        self.pid = 0
        for directory in (place, self.point, self.faults):
            directory.mkdir()
        self.state_id = rig.dump().totals.state_id
        self._receive(StateKeeper(os.fsencode(rig.area / "states")))

    def staging(self) -> Staging:
        return open_staging(StagingKey(os.fsencode(self.next), self.uuid, "", ""), into_existing=False)

    def _receive(self, keeper: StateKeeper) -> None:
        state = keeper.open(self.state_id)
        assert state is not None
        staging = self.staging()
        arrival = ManifestArrival(HeldTree(staging))
        try:
            for data in state_manifest(header(self.uuid), state, keeper):
                arrival.feed(data)
            arrival.finish(self.state_id)
        finally:
            arrival.close()
            state.close()
            staging.close()

    def store(self, staging: Staging) -> Store:
        held = HeldTree(staging)
        index = open_index(held, self.state_id)
        assert index is not None
        return Store(held, index, numeric_owner=True)

    def start(self, *, fillers: int = 2, inject: Callable[[], None] | None = None, bandwidth: int = 0) -> None:
        """Start the service as a process; when this returns it is mounted."""
        reading, writing = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            self._serve(writing, fillers, inject, bandwidth)
        os.close(writing)
        with os.fdopen(reading, "rb") as file:
            assert file.read(5) == b"ready", "the service did not mount"

    def _serve(self, writing: int, fillers: int, inject: Callable[[], None] | None, bandwidth: int) -> None:
        status = 1
        try:
            signal.alarm(40)
            if inject is not None:
                inject()
            settings = LazySettings(os.fsencode(self.point), "vol", os.fsencode(self.status_file), fillers, bandwidth)
            store = self.store(self.staging())
            root = os.fsencode(self.source)

            def ready() -> None:
                os.write(writing, b"ready")
                os.close(writing)

            def swap() -> None:
                self.swap(store)

            service = LazyService(store, settings, lambda: LocalFetcher(root, self.faults), swap, self.tell)
            status = 0 if service.run(ready) else 3
        except BaseException:  # noqa: BLE001 - the process ends here, whatever it is
            traceback.print_exc()
        finally:
            os._exit(status)

    def swap(self, store: Store) -> None:
        """What the host of a replica does when it is full, but for its records."""
        losses = Losses()
        losses.merge(store.held.kept_losses())
        attributes = Attributes(store.owners, losses)
        make_ready(store.held, attributes, losses)
        publish_ready(store.held, attributes, losses, store.index.raw(store.index.root))
        self.tell(losses.text().decode())
        pid = os.fork()
        if pid == 0:
            try:
                leave_namespace()
                subprocess.run(["umount", "-l", self.point], check=True)
                durable.rename_with_flags(os.fsencode(self.next), os.fsencode(self.point), durable.RENAME_EXCHANGE)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        subprocess.run(["umount", "-l", self.next], check=True)

    def tell(self, line: str) -> None:
        with open(self.log, "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(line + "\n")

    def told(self) -> str:
        return self.log.read_text(errors="surrogateescape") if self.log.exists() else ""

    def set_fault(self, name: str, value: float = 0) -> None:
        (self.faults / name).write_text(str(value))

    def clear_fault(self, name: str) -> None:
        (self.faults / name).unlink(missing_ok=True)

    def fetched(self) -> list[bytes]:
        log = self.faults / "log"
        return log.read_bytes().splitlines() if log.exists() else []

    def status(self) -> LazyStatus:
        return read_status(os.fsencode(self.status_file)) or LazyStatus(0, 0)

    def kill(self) -> None:
        """kill -9, and all that dies with it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.pid = 0

    def stop(self) -> None:
        """SIGTERM: it says durably what is here, and ends."""
        os.kill(self.pid, signal.SIGTERM)
        assert self.await_end() == 3

    def await_end(self) -> int:
        """Its exit status."""
        _pid, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def is_mounted(self) -> bool:
        return any(
            line.split()[1] == os.fsencode(self.point) and line.split()[2] == FUSE_TYPE.encode()
            for line in Path("/proc/mounts").read_bytes().splitlines()
        )

    def close(self) -> None:
        if self.pid:
            self.kill()
        for path in (self.point, self.next):
            subprocess.run(["umount", "-l", path], check=False, capture_output=True)


@contextlib.contextmanager
def lazy_replica(rig: Rig, place: Path) -> Iterator[LazyRig]:
    """One, ended in any case."""
    replica = LazyRig(rig, place)
    try:
        yield replica
    finally:
        replica.close()


def fresh(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
