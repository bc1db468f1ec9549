"""Many replicas at once: one that hangs or fails keeps nobody else from being synced, and an interruption ends all that still
runs. Rounds are made up here; real ones: test_on_hosts.py."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.replica.test_follow import Ground
from voltool.catalog.sqlite import SqliteCatalog
from voltool.errors import BusyError, InterruptedByUser, Interruption, UnreachableError, VoltoolError
from voltool.replica import job, retrying
from voltool.replica.job import Synced, sync, targets_of
from voltool.replica.pair import Round
from voltool.replica.sessions import ReplicaSettings
from voltool.replica.target import Target
from voltool.replica.ways import Ways


class Hanging(Ground):
    """``hung`` answers nobody until it is given up, or ``gate`` is opened."""

    gate = threading.Event()

    def bring(self, world: Any, target: Target, how: Any, pair: Any) -> Round:
        if target.replica.host == "hung":
            while not self.gate.wait(0.02):
                assert isinstance(world.hosts, Ways)
                if world.hosts.ended_by is not None:
                    raise world.hosts.ended_by
        return super().bring(world, target, how, pair)


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hanging:
    ground = Hanging(SqliteCatalog(str(tmp_path / "catalog.sqlite")))
    ground.gate.clear()
    monkeypatch.setattr(job, "bring", ground.bring)
    for host in ("dead", "good", "hung"):
        ground.add(host)
    ground.faults["dead"] = UnreachableError("the host cannot be reached", why="no route")
    return ground


def run(ground: Ground, interrupt_after: int = -1) -> list[tuple[str, str]]:
    """Which host ended how, in the order in which they did."""
    ended: list[tuple[str, str]] = []

    def told(done: Synced) -> None:
        ended.append((done.target.replica.host, done.error.kind if done.error else "ok"))
        if len(ended) == 2:
            Hanging.gate.set()
        if len(ended) == interrupt_after:
            raise Interruption(InterruptedByUser("interrupted", why="by SIGINT"))

    try:
        sync(ground.world, targets_of(ground.world), lambda _name: ReplicaSettings(), told)
    except Interruption:
        ended.append(("", "interrupted"))
    return ended


def test_a_hung_host_is_waited_for_last(ground: Hanging) -> None:
    ended = run(ground)
    assert sorted(ended[:2]) == [("dead", "unreachable"), ("good", "ok")]
    assert ended[2:] == [("hung", "ok")]
    faults = {each.host: each.fault for each in ground.catalog.replicas()}
    assert "no route" in faults["dead"]
    assert faults["good"] == faults["hung"] == ""


def test_an_interruption_ends_what_still_runs_and_what_was_done_is_remembered(ground: Hanging) -> None:
    ended = run(ground, interrupt_after=1)
    assert ended[-1] == ("", "interrupted")
    assert dict(ended)["hung"] == "interrupted"
    assert dict(ended)["good"] == "ok"
    known = {each.host: each for each in ground.catalog.replicas()}
    assert known["good"].sequence == 1
    assert "by SIGINT" in known["hung"].fault


def test_the_exit_code_tells_that_one_is_older_than_its_limit_all_the_same(ground: Hanging) -> None:
    def code(max_lag: int | None, age: int = 0) -> int:
        return done[0].exit_code(max_lag, time.time_ns() + age * 1_000_000_000)

    Hanging.gate.set()
    done: list[Synced] = []
    good = [target for target in targets_of(ground.world) if target.replica.host == "good"]
    sync(ground.world, good, lambda _name: ReplicaSettings(), done.append)
    assert [code(None), code(60), code(60, age=90), code(None, age=90)] == [0, 0, 3, 0]
    done[0] = Synced(done[0].target, error=UnreachableError("x"))
    assert code(60, age=90) == 6


def test_one_that_somebody_works_on_is_waited_for(ground: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "_PAUSE", 0.01)
    errors: list[VoltoolError] = [BusyError("somebody works on it"), BusyError("somebody works on it")]

    def bring(world: Any, target: Target, how: Any, pair: Any) -> Round:
        if target.replica.host == "good" and errors:
            raise errors.pop()
        return ground.bring(world, target, how, pair)

    monkeypatch.setattr(job, "bring", bring)
    assert ("good", "ok") in run(ground)
    monkeypatch.setattr(retrying, "_PATIENCE", 0.05)
    ground.faults["good"] = BusyError("somebody works on it")
    ground.gate.clear()
    assert ("good", "busy") in run(ground)
