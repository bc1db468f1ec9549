"""A home that hears of another epoch: it retires and names what only it has, or both are read-only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.host import UUID, Collected, adoption, host_state
from tests.filesystems import LoopFilesystem
from voltool.agent.adopt import adopt_volume, show_volume
from voltool.agent.doctor import examine
from voltool.agent.dump import dump
from voltool.agent.host import HostState
from voltool.agent.keep import keep_state
from voltool.agent.lock import unlock_volume
from voltool.agent.moving.retired import list_retired, purge_retired
from voltool.agent.replica import hearing
from voltool.agent.replica.choosing import choose_home
from voltool.agent.replica.hearing import hear_epoch
from voltool.agent.replica.standing import is_registered, show_standing
from voltool.errors import BusyError, MovedError, RefusedError
from voltool.model import Epoch, Peer
from voltool.volumes.lock.book import LockBook
from voltool.volumes.lock.hold import in_container, unlock_tree
from voltool.volumes.moving.stepping_down import SteppingDown
from voltool.wire import messages, moving, replicas

PEER = Peer("hostb", "b" * 32, "b", b"/srv/vol")


class Talk(Collected):
    """A command line that wants everything and has no manifest."""

    def __init__(self, *answers: object) -> None:
        super().__init__()
        self.sent: list[object] = []
        self._answers = list(answers)

    def send(self, message: messages.Message) -> None:
        self.sent.append(message)

    def send_data(self, data: Any) -> None:
        del data

    def receive(self) -> Any:
        return self._answers.pop(0)


class Home:
    """A volume on a file system of its own, and the state that a replica has of it."""

    def __init__(self, directory: Path, filesystem: LoopFilesystem, *, mounted: bool = False) -> None:
        self.host: HostState = host_state(directory / "state")
        self.path = filesystem.path if mounted else filesystem.path / "vol"
        if mounted:
            pass
        elif filesystem.kind == "btrfs":
            subprocess.run(["btrfs", "-q", "subvolume", "create", str(self.path)], check=True)
        else:
            self.path.mkdir()
        (self.path / "d").mkdir()
        for number in range(20):
            (self.path / "d" / f"f{number}").write_bytes(b"%d" % number * 100)
        adopt_volume(adoption(self.path), Collected(), self.host)
        self.state = self.dump("a")

    def dump(self, mark: str) -> str:
        """A dump; the state it leads to."""
        request = messages.StartDump(UUID, bytes(self.path), mark * 32, 0, None, None)
        reply = dump(request, Talk(messages.Proceed()), self.host)
        assert isinstance(reply, messages.DumpReply)
        state = reply.result.totals.state_id
        keep_state(messages.KeepState(UUID, bytes(self.path), state, 0, mark * 32), Collected(), self.host)
        return state

    def hear(self, number: int = 2, token: str = "t" * 32, state: str | None = None, *answers: object) -> Any:
        request = replicas.HearEpoch(
            UUID, Epoch(number, token, "b"), PEER, self.state if state is None else state, timeout=0
        )
        return hear_epoch(request, Talk(*answers), self.host)

    def write_on(self) -> None:
        """What nobody else has."""
        (self.path / "new").write_bytes(b"only here")
        (self.path / "d" / "f3").write_bytes(b"changed")
        (self.path / "d" / "f4").unlink()
        os.utime(self.path / "d" / "f5")

    def clear(self) -> None:
        unlock_tree(LockBook(self.host.directory, UUID))
        subprocess.run(["chattr", "-i", str(self.path)], check=False, capture_output=True)


@pytest.fixture(params=["ext4", "btrfs"])
def home(
    request: pytest.FixtureRequest, tmp_path: Path, make_filesystem: Callable[..., LoopFilesystem]
) -> Iterator[Home]:
    if in_container():
        pytest.skip("needs the machine's first pid namespace: nothing is locked in a container")
    made = Home(tmp_path, make_filesystem(request.param))
    yield made
    made.clear()


@pytest.mark.parametrize("home", ["ext4", "btrfs"], indirect=True)
def test_a_lower_epoch_retires_and_names_what_only_it_has(home: Home) -> None:
    home.write_on()
    heard = home.hear()
    assert heard.outcome == "retired"
    assert list(heard.aside) == [b"d/f3", b"d/f4", b"d/f5", b"new"]
    assert heard.aside_count == 4
    kept = Path(os.fsdecode(heard.aside_place))
    assert (kept / "new").read_bytes() == b"only here"
    assert os.listdir(home.path) == []
    with pytest.raises(MovedError, match="promoted"):
        show_volume(messages.ShowVolume(UUID, bytes(home.path)), Collected(), home.host)
    again = home.hear()
    assert (again.outcome, again.aside, again.aside_count) == ("known", heard.aside, 4)
    (copy,) = list_retired(moving.ListRetired(), Collected(), home.host).copies
    assert copy.move.aside_count == 4
    (finding,) = examine(messages.Examine(fix=True), Collected(), home.host).findings
    assert (finding.kind, finding.fixed) == ("aside", False)
    assert "d/f3" in finding.what
    assert (kept.parent / f"aside-{'t' * 12}").read_bytes() == b"d/f3\0d/f4\0d/f5\0new\0"


def test_a_mount_point_leaves_entry_by_entry(tmp_path: Path, make_filesystem: Callable[..., LoopFilesystem]) -> None:
    if in_container():
        pytest.skip("needs the machine's first pid namespace: nothing is locked in a container")
    home = Home(tmp_path, make_filesystem("xfs"), mounted=True)
    home.write_on()
    heard = home.hear()
    assert list(heard.aside) == [b"d/f3", b"d/f4", b"d/f5", b"new"]
    assert os.listdir(home.path) == [".voltool"]
    assert (Path(os.fsdecode(heard.aside_place)) / "new").read_bytes() == b"only here"
    home.clear()


def test_what_is_aside_goes_with_the_retired_copy(home: Home) -> None:
    home.write_on()
    kept = Path(os.fsdecode(home.hear().aside_place))
    purge_retired(moving.PurgeRetired(UUID), Collected(), home.host)
    assert not kept.exists()
    assert examine(messages.Examine(fix=False), Collected(), home.host).findings == ()


def test_a_later_home_is_remembered(home: Home) -> None:
    home.hear()
    assert home.hear(3, "u" * 32).epoch.number == 3
    standing = show_standing(replicas.ShowStanding(UUID), Collected(), home.host)
    assert (standing.standing, standing.epoch) == ("away", Epoch(3, "u" * 32, "b"))
    assert home.hear(2).epoch.number == 3


def test_nothing_is_aside_where_nothing_was_written(home: Home) -> None:
    heard = home.hear()
    assert (heard.outcome, heard.aside_count) == ("retired", 0)
    assert examine(messages.Examine(fix=False), Collected(), home.host).findings == ()


def test_a_state_that_nobody_knows_keeps_everything_aside(home: Home) -> None:
    heard = home.hear(2, "t" * 32, "0" * 64, messages.EndOfData())
    assert (heard.outcome, heard.aside_count) == ("retired", -1)
    (finding,) = examine(messages.Examine(fix=False), Collected(), home.host).findings
    assert "nobody knows" in finding.what


def test_who_writes_keeps_it_busy(home: Home) -> None:
    with (home.path / "d" / "f1").open("ab") as file:
        with pytest.raises(BusyError):
            home.hear()
        file.write(b"goes on")
    assert home.hear().outcome == "retired"


def test_the_higher_epoch_and_the_same_one_stay(home: Home) -> None:
    own = show_volume(messages.ShowVolume(UUID, bytes(home.path)), Collected(), home.host).record.epoch
    assert home.hear(0).outcome == "mine"
    assert home.hear(own.number, own.token).outcome == "mine"
    (home.path / "writable").touch()


@pytest.mark.parametrize("home", ["ext4", "btrfs"], indirect=True)
def test_an_equal_epoch_is_a_split_until_one_is_chosen(home: Home) -> None:
    heard = home.hear(1)
    assert (heard.outcome, heard.epoch.number) == ("split", 1)
    with pytest.raises(OSError, match="Read-only"):
        (home.path / "no").touch()
    with pytest.raises(RefusedError, match="split"):
        home.dump("b")
    with pytest.raises(RefusedError, match="split"):
        unlock_volume(messages.UnlockVolume(UUID, bytes(home.path)), Collected(), home.host)
    shown = show_volume(messages.ShowVolume(UUID, bytes(home.path)), Collected(), home.host)
    assert shown.split is not None
    (finding,) = examine(messages.Examine(fix=True), Collected(), home.host).findings
    assert (finding.kind, finding.fixed) == ("split", False)
    choose = replicas.ChooseHome(UUID, Epoch(2, "u" * 32, "a"), 50)
    assert choose_home(choose, Collected(), home.host).record.sequence == 50
    assert choose_home(choose, Collected(), home.host).record.epoch.number == 2
    (home.path / "yes").touch()
    home.dump("b")


def test_a_split_holds_over_a_reboot_and_is_closed_again(home: Home) -> None:
    home.hear(1)
    book = LockBook(home.host.directory, UUID)
    record = book.read()
    assert record is not None
    unlock_tree(book)  # mounts do not outlive a boot
    with pytest.raises(RefusedError, match="split"):
        home.dump("b")
    assert home.hear(1).outcome == "split"
    with pytest.raises(OSError, match="Read-only"):
        (home.path / "no").touch()


def test_a_split_home_that_is_not_chosen_retires(home: Home) -> None:
    home.write_on()
    home.hear(1)
    heard = home.hear(2, "u" * 32)
    assert (heard.outcome, heard.aside_count) == ("retired", 4)


@pytest.mark.parametrize("cut", ["settle", "leave_retired", "find_aside"])
def test_a_hearing_that_is_cut_off_is_gone_on_with(home: Home, monkeypatch: pytest.MonkeyPatch, cut: str) -> None:
    class CutOffError(BaseException):
        pass

    def die(*_arguments: object, **_named: object) -> None:
        raise CutOffError

    home.write_on()
    with monkeypatch.context() as patch:
        if cut == "find_aside":
            patch.setattr(hearing, "find_aside", die)
        elif cut == "settle":
            patch.setattr(SteppingDown, "settle", die)
        else:
            patch.setattr("voltool.volumes.records.forget", die)
        with pytest.raises(CutOffError):
            home.hear()
    with pytest.raises(MovedError):
        home.dump("b")
    heard = home.hear()
    assert (heard.outcome, heard.aside_count) == ("known" if cut == "leave_retired" else "retired", 4)
    assert show_standing(replicas.ShowStanding(UUID), Collected(), home.host).standing == "away"
    assert not is_registered(UUID, home.host)
