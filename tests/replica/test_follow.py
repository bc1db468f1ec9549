"""Followers: every change of state is told once, what fails is tried again, and whoever is removed or added meanwhile is noticed.
Rounds are made up here; real ones: test_following.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.catalog.samples import make_volume
from tests.cli.fakes import FakeHosts
from voltool.catalog.sqlite import SqliteCatalog
from voltool.errors import InterruptedByUser, Interruption, NotFoundError, UnreachableError
from voltool.events import Silent
from voltool.model import SERVING, Epoch, KnownReplica, Peer, ReplicaRecord
from voltool.replica import follow as followers
from voltool.replica.follow import FAILING, GONE, LEVEL, STALE, Change, FollowOptions, follow
from voltool.replica.job import targets_of
from voltool.replica.pair import Round
from voltool.replica.ports import Brought, World
from voltool.replica.sessions import ReplicaSettings
from voltool.replica.target import Target
from voltool.replica.ways import Surroundings
from voltool.wire.replicas import ReplicaStatus

MAIL = make_volume("mail")


class Ground:
    """A catalog with replicas of ``mail``, and rounds that go well unless ``faults`` has an error for their host."""

    def __init__(self, catalog: SqliteCatalog) -> None:
        self.catalog = catalog
        self.world = Surroundings(FakeHosts(), catalog, Silent(), "tester")
        self.faults: dict[str, Exception] = {}
        self.rounds: dict[str, int] = {}
        self.changes: list[tuple[str, str]] = []
        catalog.put_volume(MAIL)

    def add(self, host: str) -> None:
        self.catalog.put_replica(KnownReplica(host.ljust(32, "0"), MAIL.uuid, host, b"/srv/mail"))

    def bring(self, _world: World, target: Target, _how: Any, _pair: Any) -> Round:
        host = target.replica.host
        self.rounds[host] = self.rounds.get(host, 0) + 1
        if host in self.faults:
            raise self.faults[host]
        identity = target.replica.replica_id
        record = ReplicaRecord(identity, MAIL.uuid, "mail", b"/srv/mail", Peer("a", "", "", b""), SERVING, 1)
        brought = Brought("s", Epoch(1, "t", "a"), self.rounds[host], time.time_ns(), 1, 1, 0.1)
        return Round(brought, 1, 1, ReplicaStatus(record), target.volume)

    def follow(self, steps: dict[tuple[str, str], Callable[[], None]], max_lag: int | None = None) -> None:
        """Until all changes in ``steps`` have been seen; each one's function is called then."""
        waiting = dict(steps)

        def told(change: Change) -> None:
            seen = (change.target.replica.host, change.state)
            self.changes.append(seen)
            waiting.pop(seen, lambda: None)()
            if not waiting:
                raise Interruption(InterruptedByUser("interrupted"))

        options = FollowOptions(lambda _name: ReplicaSettings(), 0.1, lambda _name: max_lag)
        follow(self.world, lambda: targets_of(self.world, "mail"), options, told)


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    ground = Ground(SqliteCatalog(str(tmp_path / "catalog.sqlite")))
    monkeypatch.setattr(followers, "bring", ground.bring)
    monkeypatch.setattr(followers, "_LOOK", 0.1)
    return ground


def test_each_change_is_told_once_and_none_is_in_anothers_way(ground: Ground) -> None:
    ground.add("good")
    ground.add("bad")
    ground.faults["bad"] = UnreachableError("the host cannot be reached")

    def mend() -> None:
        wait_until(lambda: ground.rounds["good"] > 5)
        ground.faults.clear()

    ground.follow({("good", LEVEL): lambda: None, ("bad", FAILING): mend, ("bad", LEVEL): lambda: None})
    assert sorted(ground.changes) == [("bad", FAILING), ("bad", LEVEL), ("good", LEVEL)]
    assert all(not thread.name.startswith("voltool-follow") for thread in threading.enumerate())
    by_host = {each.host: each for each in ground.catalog.replicas()}
    assert (by_host["bad"].fault, by_host["bad"].sequence) == ("", ground.rounds["bad"])
    assert by_host["good"].sequence > 1


def test_one_that_fails_for_too_long_is_stale(ground: Ground) -> None:
    ground.add("bad")
    ground.faults["bad"] = ValueError("nobody foresaw it")
    ground.follow({("bad", STALE): lambda: None}, max_lag=0)
    (known,) = ground.catalog.replicas()
    assert "nobody foresaw it" in known.fault


def test_those_that_go_and_come_are_noticed(ground: Ground) -> None:
    ground.add("first")

    def add() -> None:
        ground.add("second")

    def remove() -> None:
        ground.catalog.remove_replica("first".ljust(32, "0"))

    ground.follow({("first", LEVEL): add, ("second", LEVEL): remove, ("first", GONE): lambda: None})
    assert [each.host for each in ground.catalog.replicas()] == ["second"], "nobody brought the removed one back"


def test_when_none_is_left_it_ends(ground: Ground) -> None:
    ground.add("only")
    with pytest.raises(NotFoundError, match="left"):
        ground.follow(
            {("only", LEVEL): lambda: ground.catalog.remove_replica("only".ljust(32, "0")), ("x", LEVEL): lambda: None}
        )


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
