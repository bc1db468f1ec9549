"""What a run does around its dumps: upkeep, notices, what is told at the end; jobs and hosts are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.catalog.samples import make_dump, make_volume
from tests.cli.fakes import Console, Outcome
from voltool.cli.commands import backup
from voltool.errors import HostError, InterruptedByUser, Interruption, UnreachableError, VoltoolError
from voltool.model import KnownVolume, StoredDump
from voltool.policy.runs import RunReport, UpkeepOutcome


class Told:
    """An announcer that keeps what it is told, and has something to complain of."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.reports: list[RunReport] = []
        self.complaints: tuple[str, ...] = ()

    def started(self, run_id: str) -> None:
        self.begun.append(run_id)

    def ended(self, report: RunReport) -> tuple[str, ...]:
        self.reports.append(report)
        return self.complaints


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    announcer = Told()
    monkeypatch.setattr(backup, "_announcer", lambda _invocation: announcer)
    return announcer


@pytest.fixture
def console(own_environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Told) -> Console:
    """Three volumes on three hosts; ``failing`` dumps are told by their jobs."""
    console = Console(own_environment / "state", monkeypatch)
    (tmp_path / "c.toml").write_text('schedule = "monthly"\nretries = 1\nretry_wait = 0\nparallel = 3\n')
    monkeypatch.setenv("VOLTOOL_CONFIG", str(tmp_path / "c.toml"))
    monkeypatch.setattr(backup, "_upkeep", lambda _invocation: lambda _volume, _now: UpkeepOutcome())
    monkeypatch.setattr(backup, "_learner", lambda _invocation: lambda _dump: None)
    for name in ("one", "two", "three"):
        console.add_volume(make_volume(name, host=f"host-{name}"))
    console.job("dump", dump_volume=dump_job)
    return console


def dump_job(world: Any, volume: KnownVolume, options: Any) -> Outcome:
    dump = make_dump(1, volume=volume, dump_id=volume.uuid, store=options.store)
    world.catalog.add_dump(dump)
    return Outcome(dump=dump)


def test_what_fails_after_a_dump_keeps_no_other_from_its_dump(
    console: Console, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def upkeep(volume: KnownVolume, _now_ns: int) -> UpkeepOutcome:
        if volume.name == "one":
            raise ZeroDivisionError("unforeseen")
        if volume.name == "two":
            return UpkeepOutcome(merged="ab" * 16, dropped=("cd" * 16,), alarms=("two: half of it is gone",))
        return UpkeepOutcome(faults=("retention failed",))

    def learner(dump: StoredDump) -> None:
        raise VoltoolError("the index is damaged" + dump.header.volume_name)

    monkeypatch.setattr(backup, "_upkeep", lambda _invocation: upkeep)
    monkeypatch.setattr(backup, "_learner", lambda _invocation: learner)
    done = console("--quiet", "backup")
    (report,) = told.reports
    assert told.begun == [report.run_id]
    assert {run.volume for run in report.volumes if run.dump_id} == {"one", "two", "three"}
    assert all("not in the index of names" in run.warnings[-1] for run in report.volumes)
    assert report.alarms == ("two: half of it is gone",)
    assert set(report.faults) == {"one: the upkeep failed: ZeroDivisionError: unforeseen", "three: retention failed"}
    assert done.code == report.exit_code == 1
    assert done.out == ""
    for text in (*report.alarms, *report.faults):
        assert text in done.err


def test_nobody_could_be_told(console: Console, told: Told) -> None:
    told.complaints = ("the program mail could not be told: it is not there",)
    done = console("--quiet", "backup")
    assert (done.code, told.reports[0].exit_code) == (1, 0)
    assert "the program mail could not be told" in done.err


def test_each_is_tried_as_often_as_it_makes_sense(console: Console, told: Told) -> None:
    """A host that is away is tried again, a hook that fails is not, what nobody foresaw neither hides nor ends anything."""
    tries: list[str] = []

    def job(world: Any, volume: KnownVolume, options: Any) -> Outcome:
        tries.append(volume.name)
        if volume.name == "one" and tries.count("one") == 1:
            raise UnreachableError("the host cannot be reached")
        if volume.name == "two":
            raise HostError("the hook before_clone failed")
        if volume.name == "three":
            raise ZeroDivisionError("unforeseen")
        return dump_job(world, volume, options)

    console.job("dump", dump_volume=job)
    done = console("backup")
    runs = {run.volume: run for run in told.reports[0].volumes}
    assert sorted(tries) == ["one", "one", "three", "three", "two"]
    assert (runs["one"].attempts, runs["one"].exit_code) == (2, 0)
    assert (runs["two"].attempts, runs["two"].exit_code) == (1, 1)
    assert "ZeroDivisionError: unforeseen" in runs["three"].error
    assert done.code == 1
    assert done.out.splitlines()[-1].startswith("backup: 1 dumped")
    assert "2 FAILED: three, two" in done.out
    with console.catalog() as catalog:
        assert {run.volume: run.attempts for run in catalog.last_runs(told.reports[0].ended_ns)} == {
            "one": 2, "two": 1, "three": 2
        }  # fmt: skip


def test_an_interruption_while_something_is_kept_up(
    console: Console, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by SIGTERM: raised in the main thread, wherever that is. The report is made and announced."""

    def upkeep(_volume: KnownVolume, _now_ns: int) -> UpkeepOutcome:
        raise Interruption(InterruptedByUser("interrupted", why="by SIGTERM"))

    monkeypatch.setattr(backup, "_upkeep", lambda _invocation: upkeep)
    done = console("--json", "backup")
    (report,) = told.reports
    assert done.code == report.exit_code == 130
    assert {run.volume for run in report.volumes} == {"one", "two", "three"}
    assert any("interrupted" in fault for fault in report.faults)
    assert done.result["error"]["kind"] == "interrupted"
