"""A full lazy replica becomes a plain one, wherever its process is killed meanwhile: what stands at the path is a mount that says
it is dead, or the whole tree, never an empty directory that one could take for the volume; and the next start ends it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import judge
from tests.browse.mounting import needs_fuse
from tests.core.harness import Rig
from tests.filesystems import LoopFilesystem
from tests.lazy.rig import LocalFetcher, header
from voltool.agent.host import HostState
from voltool.agent.lazy import running
from voltool.agent.lazy.arriving import ManifestArrival
from voltool.agent.lazy.book import LazyBook, LazyWishes
from voltool.agent.lazy.mounted import is_mounted
from voltool.agent.lazy.service import LazyService
from voltool.agent.replica import guard
from voltool.agent.replica.ground import HostReplica
from voltool.agent.replica.records import ReplicaBook
from voltool.agent.replica.served import ServedTree
from voltool.model import LAZY, SERVING, Epoch, Peer, ReplicaRecord
from voltool.tree.manifest import state_manifest
from voltool.tree.state import StateKeeper

pytestmark = needs_fuse
REPLICA = "7" * 32
#: System calls that leave something behind; the process is killed before one of them.
CALLS = ("fsync", "rename", "unlink", "rmdir", "mkdir", "link")
POINTS = int(os.environ.get("VOLTOOL_EXAMPLES", "5"))


class _Life:
    """As much of `Life` as is needed."""

    def tell(self, **_facts: str) -> None:
        """Nobody asks."""


@pytest.fixture(scope="module", params=["ext4", "btrfs"])
def ground(request: pytest.FixtureRequest) -> Iterator[Path]:
    with LoopFilesystem(request.param, 256 << 20) as filesystem:
        yield filesystem.path


class Handover:
    """A lazy replica of a small volume on a host of its own, begun as a session would begin it."""

    def __init__(self, rig: Rig, where: Path) -> None:
        self.source = rig.path
        self.point = where / "replica"
        self.faults = where / "faults"
        self.host = HostState(os.fsencode(where / "state"), "here", "", "")
        for directory in (where, self.point, self.faults):
            directory.mkdir()
        dump = rig.dump()
        record = ReplicaRecord(
            REPLICA, rig.volume.uuid, "vol", os.fsencode(self.point), Peer("home", "", "", b"/"), LAZY, 1,
            Epoch(1, "t", "home"), dump.totals.state_id, 1, 1,
        )  # fmt: skip
        replica = HostReplica(self.host, record)
        replica.place.make()
        keeper = StateKeeper(os.fsencode(rig.area / "states"))
        state = keeper.open(record.state_id)
        assert state is not None
        with contextlib.closing(ManifestArrival(replica.begin_first())) as arrival, contextlib.closing(state):
            for data in state_manifest(header(record.uuid), state, keeper):
                arrival.feed(data)
            arrival.finish(record.state_id)
        replica.save(record)
        replica.close()
        LazyBook(self.host, REPLICA).save(LazyWishes(record.uuid, ()))

    def run(self, inject: Callable[[], None]) -> int:
        """Be the process; its exit status, negative: the signal that killed it."""
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.alarm(30)
                inject()
                root, faults = os.fsencode(self.source), self.faults
                running.Rereading = lambda *_words: LocalFetcher(root, faults)  # type: ignore[misc,assignment]
                running.run(REPLICA, self.host, _Life())  # type: ignore[arg-type]
                status = 0
            except BaseException:  # noqa: BLE001 - the process ends here, whatever it is
                traceback.print_exc()
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def record(self) -> ReplicaRecord:
        found = ReplicaBook(self.host.directory).replicas()
        assert len(found) == 1
        return found[0]


def killed_before(number: int) -> Callable[[], None]:
    """kill -9 before that system call of the hand-over, counted in each of its processes."""

    def inject() -> None:
        calls = 0
        begun = False
        hand_over = LazyService._hand_over

        def begin(service: LazyService) -> None:
            nonlocal begun
            begun = True
            hand_over(service)

        def wrapped(name: str) -> Callable[..., object]:
            real: Callable[..., object] = getattr(os, name)

            def call(*words: object, **options: object) -> object:
                nonlocal calls
                calls += begun
                if begun and calls == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*words, **options)

            return call

        LazyService._hand_over = begin  # type: ignore[method-assign,assignment]
        for name in CALLS:
            setattr(os, name, wrapped(name))

    return inject


@pytest.mark.parametrize("seed", range(2))
def test_a_hand_over_that_is_killed_anywhere_ends_with_the_next_start(ground: Path, seed: int) -> None:
    source = random.Random(seed)
    names = sorted(os.listdir(_volume(ground)))
    with Rig(ground / f"rig{seed}", _volume(ground)) as rig:
        for point in sorted(source.sample(range(1, 40), POINTS)):
            handover = Handover(rig, ground / f"{seed}-{point}")
            try:
                killed = handover.run(killed_before(point))
                if killed:
                    assert killed in (-signal.SIGKILL, 1)
                    with contextlib.suppress(OSError):  # a mount that is dead
                        assert sorted(os.listdir(handover.point)) == names
                    assert handover.run(lambda: None) == 0
                assert not is_mounted(os.fsencode(handover.point))
                assert judge.compare(_volume(ground), handover.point, ignore=["holes", "rsync"]) == []
                replica = HostReplica(handover.host, handover.record())
                assert replica.record.phase == SERVING
                assert ServedTree(replica.place).is_there()
                assert guard.is_protected(os.fsencode(handover.point))
                assert LazyBook(handover.host, REPLICA).wishes() is None
            finally:
                subprocess.run(["umount", "-l", handover.point], check=False, capture_output=True)


def _volume(ground: Path) -> Path:
    volume = ground / "volume"
    if not volume.exists():
        (volume / "below" / "deep").mkdir(parents=True)
        for number in range(12):
            (volume / "below" / f"file{number}").write_bytes(b"%d" % number * 999)
        (volume / "below" / "deep" / "large").write_bytes(os.urandom(2_500_000))
        os.link(volume / "below" / "file3", volume / "other name")
        os.symlink("below", volume / "link")
    return volume
