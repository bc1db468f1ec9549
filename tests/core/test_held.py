"""A held tree: whatever happens to a volume, increments bring its staged copy to the same state, also after a crash.

The judge (rsync, and a comparer of its own) uses no code of voltool. A crash is an exception out of a system call that
changes the tree: everything derived is thrown away and the increment is applied again from what is on disk.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.core.harness import Rig
from tests.core.operations import Operation, apply, operations
from tests.core.test_unreadable import bad_disk
from tests.filesystems import LoopFilesystem
from tests.judge import compare
from voltool.agent.replica.making import take_apart_for_increment
from voltool.events import Silent
from voltool.model import Consistency, DumpHeader, Epoch, StoredDump
from voltool.tree.apply.applier import ApplySettings
from voltool.tree.apply.arrival import Arrival, salvage
from voltool.tree.apply.attributes import Attributes
from voltool.tree.apply.held import HeldTree
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.owners import Owners
from voltool.tree.apply.parts import forget_parts
from voltool.tree.apply.ready import is_flat, make_ready, publish_ready, take_all_apart, take_apart
from voltool.tree.apply.staging import StagingKey, open_staging
from voltool.tree.apply.waiting import IncrementFile, apply_waiting
from voltool.tree.manifest import state_manifest
from voltool.tree.walk import TICK_NS
from voltool.wire import messages
from voltool.wire.conversation import expect

EXAMPLES = int(os.environ.get("VOLTOOL_EXAMPLES", "5"))


@dataclass(frozen=True)
class Step:
    """Operations, then an increment. ``crash``: applying it is cut off at that system call (0: it is not).
    ``apart``: before it the tree was put together and taken apart again; ``ready``: it was put together, and of it only what
    the increment touches is taken apart."""

    operations: tuple[Operation, ...]
    crash: int
    apart: bool
    ready: bool


STEPS = st.lists(
    st.builds(
        Step,
        st.lists(operations(), min_size=0, max_size=12).map(tuple),
        st.one_of(st.just(0), st.integers(1, 60)),
        st.integers(0, 3).map(lambda n: n == 3),
        st.integers(0, 2).map(lambda n: n == 2),
    ),
    min_size=2,
    max_size=8,
)


HEADER = DumpHeader(
    dump_id="0" * 32, volume_uuid="0" * 32, volume_name="vol", level=0, sequence=0, epoch=Epoch(0, "", ""),
    clone_time_ns=0, boot_id="", host="", driver="directory", consistency=Consistency.LIVE, source_path=b"/",
    base_state_id=None, base_dump_id=None, excludes=(), tool_version="", machine_id="",
)  # fmt: skip


class _PowerCutError(Exception):
    pass


@pytest.fixture(scope="module", params=["ext4", "xfs", "btrfs"])
def ground(request: pytest.FixtureRequest) -> Iterator[Path]:
    with LoopFilesystem(request.param, 2 << 30) as filesystem:
        yield filesystem.path


@settings(
    max_examples=EXAMPLES,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(steps=STEPS)
def test_a_held_tree_follows_any_history(ground: Path, steps: list[Step]) -> None:
    here = ground / "ground"
    shutil.rmtree(here, ignore_errors=True)
    volume = here / "v" / "vol"
    volume.mkdir(parents=True)
    with Rig(here / "rig", volume) as rig:
        copy = _Copy(rig, here / "copy")
        for level, step in enumerate(steps):
            for operation in step.operations:
                apply(os.fsencode(volume), operation)
            time.sleep(1.5 * TICK_NS / 1e9)
            dump = rig.dump(level)
            if level and step.apart:
                copy.there_and_back()
            copy.take(dump, step.crash, ready=step.ready)
            assert copy.state_id == dump.totals.state_id
        copy.publish()
        assert compare(volume, here / "copy") == []
        assert not (here / ".voltool").exists()


def test_what_was_renamed_in_a_circle_is_not_lost(ground: Path) -> None:
    here = ground / "circle"
    volume = here / "v" / "vol"
    volume.mkdir(parents=True)
    for name in ("a", "b", "c"):
        (volume / name).write_text(name * 1000)
    with Rig(here / "rig", volume) as rig:
        copy = _Copy(rig, here / "copy")
        copy.take(rig.dump(0), 0)
        for old, new in (("a", "x"), ("b", "a"), ("c", "b"), ("x", "c")):
            (volume / old).rename(volume / new)
        copy.take(rig.dump(1), 0)
        copy.publish()
    assert [(here / "copy" / name).read_text()[0] for name in "abc"] == ["b", "c", "a"]


def test_of_an_arrival_that_was_cut_off_what_has_come_is_held(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = ground / "cut"
    volume = here / "v" / "vol"
    (volume / "d").mkdir(parents=True)
    for number in range(300):
        (volume / "d" / f"f{number}").write_bytes(os.urandom(20_000))
    (volume / "link").symlink_to("d")
    monkeypatch.setattr("voltool.tree.apply.applier.SYNC_SECONDS", 0.0)
    with Rig(here / "rig", volume) as rig:
        dump = rig.dump(0)
        copy = _Copy(rig, here / "copy")
        size = rig.stored_bytes(dump)
        assert copy.take_part(dump, size * 2 // 3)
        held = len(copy.files())
        assert 50 < held < 300
        (volume / "d" / "f0").unlink()
        rest = copy.take_rest(rig, volume)
        assert rest < size * 0.6
        copy.publish()
    assert compare(volume, here / "copy") == []


@pytest.mark.parametrize("how", ["goes", "cannot be read"])
def test_what_is_not_there_in_one_round_is_no_loss_in_the_end(ground: Path, how: str) -> None:
    """A mail spool's files go all the time; that ended the move as if the target could not hold them."""
    here = ground / how
    volume = here / "v" / "vol"
    volume.mkdir(parents=True)
    (volume / "stays").write_text("stays")
    with Rig(here / "rig", volume) as rig:
        copy = _Copy(rig, here / "copy")
        copy.take(rig.dump(0), 0)
        (volume / "new").write_text("new")
        dump = rig.dump(1, after_scan=(volume / "new").unlink) if how == "goes" else rig.dump(1, inject=bad_disk("new"))
        copy.take(dump, 0)
        assert len(copy.unread) == (how != "goes")
        copy.take(rig.dump(2), 0)
        copy.publish()
    assert compare(volume, here / "copy") == []


class _Copy:
    """A staged copy of a rig's volume."""

    def __init__(self, rig: Rig, target: Path) -> None:
        self._rig = rig
        self._target = target
        self._key = StagingKey(os.fsencode(target), rig.volume.uuid, "", "move test")
        self.state_id = ""
        self.unread: list[int] = []

    @contextlib.contextmanager
    def _open(self) -> Iterator[HeldTree]:
        staging = open_staging(self._key, into_existing=False)
        try:
            yield HeldTree(staging)
        finally:
            staging.close()

    def _stream(self, dump: StoredDump) -> Iterator[bytes]:
        source = self._rig.world.stores.open(dump.store).open(dump.file)
        try:
            for at in range(0, source.size, 100_000):
                yield source.read_at(at, 100_000)
        finally:
            source.close()

    def take(self, dump: StoredDump, crash: int, *, ready: bool = False) -> None:
        """Let a dump arrive."""
        with self._open() as held:
            if dump.header.level == 0:
                arrival = Arrival(held, ApplySettings(self._key, numeric_owner=True, workers=0), Silent())
                with contextlib.closing(arrival):
                    for data in self._stream(dump):
                        arrival.feed(data)
                    arrival.arrive()
            elif ready:
                self._take_into_what_is_ready(held, dump, crash)
            else:
                with self._fed(held, dump) as increment:
                    increment.finish()
                if crash:
                    with contextlib.suppress(_PowerCutError), _crashing(crash):
                        self._apply(held)
        with self._open() as held:
            self._recover(held)
            assert held.record is not None
            if held.record.state_id != dump.totals.state_id:  # cut off before it counted: it is sent again
                with self._fed(held, dump) as increment:
                    increment.finish()
                self._apply(held)
            self.state_id = held.record.state_id

    @contextlib.contextmanager
    def _fed(self, held: HeldTree, dump: StoredDump) -> Iterator[IncrementFile]:
        increment = IncrementFile(held)
        with contextlib.closing(increment):
            for data in self._stream(dump):
                increment.feed(data)
            assert held.record is not None
            assert increment.changes() == (held.record.state_id != dump.totals.state_id)
            yield increment

    def _take_into_what_is_ready(self, held: HeldTree, dump: StoredDump, crash: int) -> None:
        """As at the end of a move."""
        self._put_together(held)
        assert held.record is not None
        if not held.staging.progress.sealed:
            held.stamped = held.record.state_id
        with self._fed(held, dump) as increment:
            if not increment.changes():
                return
            with contextlib.suppress(_PowerCutError), _crashing(crash or -1):
                take_apart_for_increment(held)
                increment.finish()
                self._apply(held)
                self._put_together(held)
        if not crash:
            stamps = self._stamps(held)
            take_apart(held)
            self._put_together(held)
            assert stamps == self._stamps(held)

    @staticmethod
    def _put_together(held: HeldTree) -> None:
        losses = Losses()
        make_ready(held, Attributes(Owners(numeric=True), losses), losses)
        assert losses.attributes == {}

    @staticmethod
    def _stamps(held: HeldTree) -> dict[bytes, bytes]:
        """Of all but directories, whose times change when they are put together: inode and number, stamp."""
        with contextlib.closing(held.state()) as state:
            assert state.stamps is not None
            homes = list(state.stamps)
        return {home[:16]: home[16:64] for home in homes if not stat.S_ISDIR(int.from_bytes(home[16:20], "big"))}

    def _recover(self, held: HeldTree) -> None:
        """As a new session does."""
        assert held.record is not None
        if held.record.assembled:
            forget_parts(held.staging.path)
            take_apart(held)
            return
        if not is_flat(held):
            take_apart(held)
        self._apply(held)
        take_all_apart(held)

    def _apply(self, held: HeldTree) -> None:
        losses = Losses()
        owners = Owners(numeric=True)
        keep = [held.stamped] if held.stamped else []
        apply_waiting(held, Attributes(owners, losses), owners, losses, keep)
        assert losses.attributes == {}
        assert [lost for lost in losses.objects if not lost.unread] == []
        self.unread = [lost.number for lost in losses.objects]

    def take_part(self, dump: StoredDump, size: int) -> bool:
        """Let the first ``size`` bytes of a level 0 dump arrive, then cut it off; whether anything is held."""
        with self._open() as held:
            arrival = Arrival(held, ApplySettings(self._key, numeric_owner=True, workers=0), Silent())
            with contextlib.closing(arrival):
                for data in self._stream(dump):
                    arrival.feed(data[:size])
                    size -= len(data[:size])
        with self._open() as held:
            return salvage(held)

    def files(self) -> list[Path]:
        """The files staged now."""
        return list((self._target.parent / ".voltool").glob("staging-*/dirs/*/*/f*"))

    def take_rest(self, rig: Rig, volume: Path) -> int:
        """Dump the difference to what is held (by its manifest) and apply it; the bytes sent."""
        with self._open() as held, rig.hosts.connect("local") as agent:
            assert held.record is not None
            wanted = held.record.state_id
            agent.send(messages.StartDump(rig.volume.uuid, os.fsencode(volume), "d" * 32, 1, wanted, None, workers=1))
            assert expect(agent, messages.NeedManifest).state_id == wanted
            state = held.state()
            for data in state_manifest(HEADER, state, held.keeper):
                agent.send_data(data)
            state.close()
            agent.send(messages.EndOfData())
            expect(agent, messages.ScanTotals)
            agent.send(messages.Proceed())
            sent = 0
            increment = IncrementFile(held)
            while isinstance(data := agent.receive(), bytes):
                increment.feed(data)
                sent += len(data)
            increment.finish()
            increment.close()
        with self._open() as held:
            self._apply(held)
        return sent

    def there_and_back(self) -> None:
        """Put the tree together, and take it apart again."""
        with self._open() as held:
            losses = Losses()
            make_ready(held, Attributes(Owners(numeric=True), losses), losses)
        with self._open() as held:
            take_apart(held)

    def publish(self) -> None:
        """Put the tree together, and give it its name."""
        losses = Losses()
        attributes = Attributes(Owners(numeric=True), losses)
        with self._open() as held:
            make_ready(held, attributes, losses)
        with self._open() as held:
            state = held.state()
            root = state.object(1)
            state.close()
            assert root is not None
            publish_ready(held, attributes, losses, root)
        assert losses.attributes == {}


@contextlib.contextmanager
def _crashing(after: int) -> Iterator[None]:
    """Let the ``after``-th system call that changes names or files fail like a power cut."""
    left = after
    with pytest.MonkeyPatch.context() as patch:

        def failing(original: Callable[..., object]) -> Callable[..., object]:
            def call(*arguments: object, **options: object) -> object:
                nonlocal left
                left -= 1
                if left == 0:
                    raise _PowerCutError
                return original(*arguments, **options)

            return call

        for name in (
            "link",
            "unlink",
            "rename",
            "mkdir",
            "rmdir",
            "pwrite",
            "ftruncate",
            "utime",
            "symlink",
            "mknod",
            "chmod",
        ):
            patch.setattr(os, name, failing(getattr(os, name)))
        yield
