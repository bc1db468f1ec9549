"""Sixteen nights of one volume, dumped, merged and pruned for real, each on its day; what is promised restores as it was."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests import judge
from tests.core.harness import Rig
from voltool.backup.upkeep import VolumeUpkeep
from voltool.config.settings import KeepSection, Settings
from voltool.model import StoredDump
from voltool.policy.chain import Lineage, recency

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
DAYS = 16
MONDAY = datetime(2036, 6, 2, 2, 30, tzinfo=UTC)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    volume = tmp_path / "v/vol"
    volume.mkdir(parents=True)
    return Rig(tmp_path / "rig", volume)


class Calendar:
    """The clock of the command line and of the agents it starts, on chosen days (of the future, so that files are at rest)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = time.time_ns
        self._start = int(MONDAY.timestamp()) * SECOND
        self._began = real()
        self._day = 0
        monkeypatch.setattr(time, "time_ns", lambda: self.now_ns + real() - self._began)

    @property
    def now_ns(self) -> int:
        return self._start + self._day * DAY

    def next(self) -> int:
        self._day += 1
        return self.now_ns


def live(volume: Path, dice: random.Random) -> None:
    """A day of a volume: a file changed in its middle, one new, one gone, a directory renamed, a link."""
    names = sorted(path for path in volume.rglob("*") if path.is_file() and not path.is_symlink())
    changed = dice.choice(names)
    with open(changed, "r+b") as file:
        file.seek(dice.randrange(max(1, changed.stat().st_size)))
        file.write(dice.randbytes(500))
    if len(names) > 6:
        dice.choice([name for name in names if name != changed]).unlink()
    folder = volume / f"folder {dice.randrange(4)}"
    folder.mkdir(exist_ok=True)
    (folder / f"file {dice.randrange(100)}").write_bytes(dice.randbytes(dice.randrange(3000)))
    folder.rename(volume / f"renamed {dice.randrange(10**6)}")
    os.utime(volume, ns=(0, dice.randrange(10**18)))


def test_a_fortnight_of_nights(rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dice = random.Random(5)
    calendar = Calendar(monkeypatch)
    (rig.path / "large").write_bytes(dice.randbytes(2_500_000))
    (rig.path / "text").write_text("text")
    settings = Settings(
        keep=KeepSection(last=2, daily=3, weekly=3, min_age=0), synthetic_full="weekly", timezone="UTC", min_free=0
    )
    upkeep = VolumeUpkeep(rig.world, settings)
    merges = []
    with rig:
        for day in range(DAYS):
            now_ns = calendar.next() + 3600 * SECOND
            live(rig.path, dice)
            subprocess.run(["cp", "-a", rig.path, tmp_path / f"day {day}"], check=True)
            if day in (4, 9):  # nobody came
                continue
            rig.dump((0, 2, 1, 3, 2, 4, 1)[day % 7] if day else 0)
            assert rig.problems() == {}
            outcome = upkeep(rig.volume, now_ns)
            assert (outcome.alarms, outcome.faults) == ((), ())
            if outcome.merged:
                merges.append(day)
        dumps = rig.catalog.dumps()
        lineage = Lineage(dumps)
        by_day = {_day_of(dump): dump for dump in sorted(dumps, key=recency)}
        # The first day is a Tuesday: the days 5 and 12 are Sundays; 13, 14, 15 are the last three.
        assert {5, 12, 13, 14, 15} <= {day for day, dump in by_day.items() if lineage.is_whole(dump)}
        assert len(dumps) < DAYS - 4, [(day, dump.header.level) for day, dump in by_day.items()]
        assert merges, "there is a full dump in each week, made without reading the volume"
        for day, dump in by_day.items():
            rig.restore(dump, tmp_path / "restored")
            assert judge.compare(tmp_path / f"day {day}", tmp_path / "restored") == []
            shutil.rmtree(tmp_path / "restored")
        again = upkeep(rig.volume, now_ns)
        assert (again.merged, again.dropped) == (None, ())


def _day_of(dump: StoredDump) -> int:
    return (dump.header.clone_time_ns // SECOND - int(MONDAY.timestamp())) * SECOND // DAY - 1


def test_upkeep_tells_what_is_wrong_and_never_raises(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with rig:
        (rig.path / "file").write_text("text")
        rig.dump(0)
        now_ns = time.time_ns() + DAY
        outcome = VolumeUpkeep(rig.world, Settings(timezone="Mars/Olympus"))(rig.volume, now_ns)
        assert "no time zone" in outcome.faults[0]
        (rig.path / "file").write_text("other")
        one = rig.dump(1)
        path = rig.directory / "store" / one.file
        path.write_bytes(path.read_bytes()[:-50])
        # A full dump is due next month; what it would be made of is damaged: the old ones stay.
        settings = Settings(keep=KeepSection(last=1, min_age=0), synthetic_full="monthly")
        outcome = VolumeUpkeep(rig.world, settings)(rig.volume, now_ns + 40 * DAY)
        assert outcome.merged is None
        assert "no synthetic full dump" in outcome.faults[0]
        assert outcome.dropped == ()
        assert len(list((rig.directory / "store/vol").iterdir())) == 2
