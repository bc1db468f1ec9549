"""A move whose direct path is cut, in the middle of a round and under the lock: it ends right by itself, and says what it did.

The agents are forked from the test; their path is real, over the loopback.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.core.harness import Recorder
from tests.filesystems import LoopFilesystem
from tests.jobs.apart import two_hosts
from tests.jobs.test_move_faults import OPTIONS, Ground, differences, locked_mounts
from tests.writer import Writer, wait_until
from voltool.agent.moving.into import _Session as IntoSession
from voltool.agent.path.link import Link, hang_up
from voltool.errors import PathBrokenError, SpaceError
from voltool.move.job import MoveWish, Which, abort_move, move_volume
from voltool.move.sessions import SessionSettings
from voltool.volumes.lock.hold import in_container
from voltool.wire import messages
from voltool.wire.conversation import Buffer

_LARGE = 3 << 20


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    if in_container():
        pytest.skip("needs the machine's first pid namespace: nothing is locked in a container")
    with LoopFilesystem("ext4") as a, LoopFilesystem("ext4") as b:
        made = Ground(tmp_path, a.path, b.path)
        (made.volume / "large").write_bytes(os.urandom(_LARGE))
        try:
            yield made
        finally:
            made.catalog.close()
            os.system(f"chattr -i {made.volume} 2>/dev/null")  # noqa: S605 - a path of ours


def move(ground: Ground, path: str = "auto") -> None:
    settings = SessionSettings(owner="a test", workers=1, path=path)
    move_volume(ground.world, MoveWish("vol", "b", os.fsencode(ground.target), settings, OPTIONS))


def notices(ground: Ground) -> list[str]:
    reporter = ground.world.reporter
    assert isinstance(reporter, Recorder)
    return reporter.notices()


def cutting(directory: Path, times: int, *, at_dump: int = 0, after: int = 1 << 20) -> Callable[[], None]:
    """For ``inject``: the network cuts the link in dump ``at_dump`` of a connection (the first one: 0) when ``after`` bytes have
    passed; ``times`` times in all."""
    real, end = Link.send_data, Link.send

    def inject() -> None:
        state = {"sent": 0, "dumps": 0}

        def send_data(self: Link, data: Buffer) -> None:
            state["sent"] += len(data)
            done = len(list(directory.glob("cut-*")))
            if state["dumps"] == at_dump and state["sent"] > after and done < times:
                (directory / f"cut-{done}").touch()
                hang_up(self._connection)
            real(self, data)

        def send(self: Link, message: messages.Message) -> None:
            end(self, message)
            state["dumps"] += 1
            state["sent"] = 0

        Link.send_data, Link.send = send_data, send  # type: ignore[method-assign]

    return inject


def assert_moved(ground: Ground, writer: Writer) -> None:
    writer.stop()
    assert writer.lost(ground.target) == []
    assert differences(ground) == []
    assert locked_mounts(ground) == []


def test_a_whole_move_goes_over_the_path_and_says_nothing_of_it(ground: Ground) -> None:
    def refuse(self: object, data: Buffer) -> None:
        raise AssertionError("data went through the command line")

    def inject() -> None:
        from voltool.agent.channel import StdioChannel

        StdioChannel.send_data = refuse  # type: ignore[method-assign]

    ground.hosts.inject["a"] = inject
    writer = Writer(ground.volume, ground.directory)
    move(ground, "direct")
    assert_moved(ground, writer)
    assert not [said for said in notices(ground) if "path" in said or "through this machine" in said]


def test_cut_in_the_first_copy_it_is_begun_anew_and_what_arrived_is_kept(ground: Ground) -> None:
    ground.hosts.inject["a"] = cutting(ground.directory, 1)
    writer = Writer(ground.volume, ground.directory)
    move(ground)
    assert_moved(ground, writer)
    (said,) = (said for said in notices(ground) if "direct path" in said)
    assert "it goes on from what has arrived" in said
    assert "through this machine" not in said


def test_cut_under_the_lock_it_is_undone_and_taken_again(ground: Ground) -> None:
    """The last increment, after the copy and at least one round."""
    unlocked = ground.directory / "unlocked"

    def inject() -> None:
        cutting(ground.directory, 1, at_dump=2, after=-1)()
        from voltool.agent.moving.source_ground import HostSource

        real = HostSource.unlock

        def unlock(self: HostSource) -> None:
            if self.lease is not None and (ground.directory / "cut-0").exists():
                unlocked.touch()
            real(self)

        HostSource.unlock = unlock  # type: ignore[method-assign]

    ground.hosts.inject["a"] = inject
    writer = Writer(ground.volume, ground.directory)
    move(ground)
    assert unlocked.exists()
    assert_moved(ground, writer)
    assert len([said for said in notices(ground) if "it goes on" in said]) == 1


def test_cut_again_and_again_the_relay_is_taken(ground: Ground) -> None:
    ground.hosts.inject["a"] = cutting(ground.directory, 99)
    writer = Writer(ground.volume, ground.directory)
    move(ground)
    assert_moved(ground, writer)
    first, second = (said for said in notices(ground) if "direct path" in said)
    assert "through this machine" not in first
    assert "through this machine" in second


def test_who_wants_the_direct_path_alone_gets_an_error_in_the_end_and_loses_nothing(ground: Ground) -> None:
    ground.hosts.inject["a"] = cutting(ground.directory, 99)
    with pytest.raises(PathBrokenError) as failed:
        move(ground, "direct")
    assert "voltool move --resume vol" in failed.value.remedy
    assert "it is in service at a" in failed.value.why
    assert len(list(ground.directory.glob("cut-*"))) == 3
    assert locked_mounts(ground) == []
    abort_move(ground.world, Which("vol"))
    assert not ground.target.exists()


@pytest.mark.parametrize("host", ["a", "b"])
def test_what_one_host_fails_with_is_told_and_not_that_the_path_broke(ground: Ground, host: str) -> None:
    """Either end notices at once that the other one has failed; the error is that of the one whose disk is full."""

    def fail(*_arguments: object) -> None:
        raise SpaceError("no room for this", remedy="make some")

    def at_home(self: Link, data: Buffer) -> None:
        raise SpaceError("no room for this", remedy="make some")

    def inject() -> None:
        if host == "a":
            Link.send_data = at_home  # type: ignore[method-assign]
        else:
            IntoSession._receive_all = fail  # type: ignore[assignment,method-assign]

    ground.hosts.inject[host] = inject
    with pytest.raises(SpaceError, match="no room for this"):
        move(ground)
    assert not [said for said in notices(ground) if "direct path" in said]


def test_no_key_is_left_on_a_host(ground: Ground) -> None:
    move(ground, "direct")
    places = (ground.directory, ground.here, ground.there)
    files = [path for place in places for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    assert [path for path in files if b"PRIVATE KEY" in path.read_bytes()] == []


def test_killed_on_the_wire_between_real_hosts(tmp_path: Path) -> None:
    """Machines with a network of their own; the kernel kills the connection, of which nothing can be read meanwhile."""
    ports = "50000-50010"
    with two_hosts(tmp_path) as apart:
        config = tmp_path / "config.toml"
        config.write_text(config.read_text().replace("[hosts.hostb]\n", f'[hosts.hostb]\nports = "{ports}"\n'))
        writer = apart.writer()
        running = apart.start("move", "vol", "hostb", "--yes", "--bandwidth", "1M")
        running.until_phase("copy")
        source = apart.host("hosta").machine
        only = ("state", "established", "( dport >= :50000 and dport <= :50010 )")
        wait_until(lambda: ":500" in source.run("ss", "-Htn", *only))
        if ":500" not in source.run("ss", "-K", "-Htn", *only):
            pytest.skip("this kernel kills no connection (INET_DIAG_DESTROY)")
        assert running.end() == 0, running.output
        writer.stop()
        assert "the direct path between the hosts" in running.output
        assert "it goes on from what has arrived" in running.output
        apart.assert_settled("hostb", writer)
