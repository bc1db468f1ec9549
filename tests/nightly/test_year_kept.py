"""A bad year of fifty volumes under the real schedule and the real retention, with synthetic fulls for those that are incremental
for ever: at the end of every day every promised point in time can be restored."""

from __future__ import annotations

from dataclasses import replace

from tests.nightly.year import DAY, Year
from tests.policy.test_year import Bookkeeper
from voltool.model import KnownVolume, StoredDump
from voltool.policy.chain import Lineage, point_of
from voltool.policy.retention import Circumstances, Rules, decide, is_synthetic_due

FOR_EVER = "9"
SCHEDULES = ["monthly"] * 20 + ["weekly"] * 12 + ["hanoi"] * 8 + [FOR_EVER] * 10
RULES = (
    Rules(last=3, daily=7, weekly=4, monthly=12, yearly=2),
    Rules(daily=14, monthly=3),
    Rules(last=1, min_age=0),
)


class Keeper:
    """What upkeep does at the end of each day, held against a bookkeeper who drops nothing."""

    def __init__(self) -> None:
        self.books: dict[str, Bookkeeper] = {}
        self.seen = 0
        self.merged = 0
        self.dropped = 0

    def at_days_end(self, year: Year) -> None:
        new = [(volume, dump) for _day, volume, _due, dump in year.made[self.seen :] if dump is not None]
        self.seen = len(year.made)
        for volume, dump in new:
            self._books_of(year, volume).waiting.append(dump)
        about = Circumstances(year.true_ns + DAY // 12, year.zone)  # two hours after the run began
        worked_on = {volume.uuid for volume, _dump in new}
        for number, volume in enumerate(year.volumes):
            if volume.uuid in worked_on:
                self._keep(year, volume, SCHEDULES[number], about)
            dumps = year.dumps_of(volume)
            lineage = Lineage(dumps)
            assert all(lineage.is_whole(dump) for dump in dumps)
            promised = self._books_of(year, volume).promised(about.now_ns)
            assert promised <= {point_of(dump) for dump in dumps}, (volume.name, year.day)

    def _books_of(self, year: Year, volume: KnownVolume) -> Bookkeeper:
        rules = RULES[int(volume.name.removeprefix("vol")) % len(RULES)]
        return self.books.setdefault(volume.uuid, Bookkeeper(rules, year.zone))

    def _keep(self, year: Year, volume: KnownVolume, schedule: str, about: Circumstances) -> None:
        every = "monthly" if schedule == FOR_EVER else "never"
        due = is_synthetic_due(year.dumps_of(volume), every, about)
        if due is not None:
            year.add(self._merged(due))
        for decision in decide(year.dumps_of(volume), self._books_of(year, volume).rules, about):
            if not decision.keep:
                self.dropped += 1
                year.drop(decision.dump)

    def _merged(self, dump: StoredDump) -> StoredDump:
        self.merged += 1
        header = replace(dump.header, dump_id=f"f{self.merged:031x}", level=0, base_state_id=None, base_dump_id=None)
        return replace(dump, header=header)


def test_a_bad_year_of_schedule_and_retention() -> None:
    keeper = Keeper()
    year = Year(SCHEDULES, at_days_end=keeper.at_days_end)
    year.run()
    made = [(volume, due, dump) for _day, volume, due, dump in year.made if dump is not None]
    assert len(made) > 15_000
    assert keeper.dropped > len(made) / 2
    assert 100 < keeper.merged < 150, "ten volumes, a month each, and the months that a wrong clock saw"
    # Incremental for ever: one full dump at the beginning, and those that were merged.
    fulls = [
        dump for volume, _due, dump in made if dump.header.level == 0 and int(volume.name.removeprefix("vol")) >= 40
    ]
    assert len(fulls) == 10
