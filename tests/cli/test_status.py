"""`voltool status`: what is wrong comes first, and silence is an exit code."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest

from tests.catalog.samples import SECOND, make_dump, make_volume
from tests.cli.fakes import Console
from tests.cli.test_json import check_lines
from voltool.cli.output import Output
from voltool.cli.standing_shown import show_table
from voltool.policy.moves import RUNNING, LockWindow, MoveRecord, MoveStep
from voltool.policy.runs import VolumeRun

NOW = time.time_ns()
DAY = 86_400 * SECOND
CONFIG = 'schedule = "weekly"\ntimezone = "UTC"\n[volumes.hand]\nschedule = ""\n'


@pytest.fixture
def site(voltool: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Console:
    """``good`` was dumped an hour ago, ``hand`` is in no schedule."""
    config = tmp_path / "voltool.toml"
    config.write_text(CONFIG)
    monkeypatch.setenv("VOLTOOL_CONFIG", str(config))
    for name in ("good", "hand"):
        voltool.add_volume(make_volume(name))
    add_dump(voltool, 1, "good", NOW - 2 * DAY)
    add_dump(voltool, 2, "good", NOW - 3600 * SECOND, level=1)
    return voltool


def add_dump(console: Console, number: int, name: str, time_ns: int, level: int = 0) -> None:
    with console.catalog() as catalog:
        base = make_dump(1, volume=make_volume(name)) if level else None
        catalog.add_dump(make_dump(number, volume=make_volume(name), time_ns=time_ns, level=level, base=base))


def test_all_is_well(site: Console) -> None:
    done = site("status")
    assert (done.code, done.err) == (0, "")
    assert "in no schedule: hand" in done.out
    good = next(line for line in done.out.splitlines() if line.startswith("good"))
    assert good.split()[1:2] == ["hostA"]
    assert "0:2d  1:1h" in good
    assert good.endswith("ok")
    assert check_lines(site("status", "--json"))["concerns"] == []


def test_silence_is_an_exit_code(site: Console) -> None:
    site.add_volume(make_volume("late"))
    site.add_volume(make_volume("never"))
    add_dump(site, 3, "late", NOW - 4 * DAY)
    done = site("status")
    assert done.code == 3
    assert [line.partition(":")[0] for line in done.out.splitlines() if "overdue: " in line] == ["late", "never"]
    assert "4 days ago" in done.out
    last = check_lines(site("status", "--json"))
    assert [each["volume"] for each in last["concerns"]] == ["late", "never"]
    assert site("status", "good").code == 0
    assert site("status", "late").code == 3
    assert site("status", "nothing").code == 1


def test_what_may_be_nowhere_comes_first(site: Console) -> None:
    site.add_volume(make_volume("late"))
    steps = (MoveStep("copy", NOW, 1.0), MoveStep("switch", NOW, 1.0), MoveStep("publish", NOW, -1.0))
    locks = (LockWindow(NOW, -1.0, 30),)
    move = MoveRecord("m", make_volume("good").uuid, "good", "hostA", b"/a\x1b", "hostB", b"/b", NOW, NOW, RUNNING)
    with site.catalog() as catalog:
        catalog.put_move(MoveRecord(**{**vars(move), "steps": steps, "locks": locks}))
    done = site("status")
    first = done.out.splitlines()
    assert first[0].startswith("IN SERVICE NOWHERE? good: ")
    assert "hostA:/a\\x1b to hostB:/b" in first[0]
    assert "voltool move --status good" in first[1]
    assert site("status", "good").code == 3
    last = check_lines(site("status", "--json"))
    assert last["concerns"][0]["kind"] == "nowhere"


def test_what_the_last_run_and_the_configuration_say(site: Console, tmp_path: Path) -> None:
    def turn(name: str, error: str) -> VolumeRun:
        return VolumeRun(
            "r", name, make_volume(name).uuid, "hostA", 0, NOW - SECOND, NOW, 1 if error else 0, error=error
        )

    with site.catalog() as catalog:
        catalog.add_run(turn("good", ""))
        catalog.add_run(turn("hand", "no\nroute"))
        catalog.put_suspicious(make_volume("good").uuid, {f"{2:032x}": "it lost much", f"{1:032x}": "x"})
        catalog.accept_dump(f"{1:032x}")
    (tmp_path / "voltool.toml").write_text(CONFIG.replace('"weekly"', '"wekly"'))
    done = site("status")
    for text in (
        "good: dump 000000000000 is suspicious: it lost much",
        "hand: failed in the last run: no\\x0aroute",
        "the schedule 'wekly' is malformed",
        "1 ok, 0 partial, 1 failed",
    ):
        assert text in done.out
    assert done.out.count("is suspicious") == 1


def test_the_hosts_are_asked_only_when_told(site: Console) -> None:
    site.hosts.dead = {"hostA"}
    assert site("status").code == 0
    done = site("status", "--hosts")
    assert "hostA could not be asked: no route" in done.out


def test_a_table_on_a_terminal(site: Console) -> None:
    from voltool.backup.standing import standings
    from voltool.config.settings import Settings

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with site.catalog() as catalog:
        show_table(Output(stdout=terminal), standings(catalog, Settings(), NOW), NOW)
    assert "VOLUME" in terminal.getvalue()
    assert "good" in terminal.getvalue()
