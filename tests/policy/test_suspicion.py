"""When an alarm is raised, and when not: what ransomware, an accident and an ordinary month look like."""

from __future__ import annotations

from dataclasses import replace

from tests.catalog.samples import make_dump
from voltool.model import Epoch, StoredDump
from voltool.policy.suspicion import in_words, suspicious

MIB = 1 << 20


def dump(
    number: int, level: int, data: int, entries: int = 1000, ratio: float = 0.4, base: StoredDump | None = None
) -> StoredDump:
    made = make_dump(number, level=level, base=base)
    totals = replace(made.totals, data_bytes=data, entries=entries, stored_bytes=int(data * ratio))
    return replace(made, totals=totals)


def month(last: StoredDump | None = None) -> list[StoredDump]:
    """A full dump of 500 MiB, and twenty days that each change some 2 MiB."""
    full = dump(1, 0, 500 * MIB)
    days = [dump(number, 1, (1 + number % 3) * MIB, 1000 + number, base=full) for number in range(2, 22)]
    return [full, *days, *([last] if last else [])]


def test_an_ordinary_month_is_quiet() -> None:
    assert suspicious(month(), 10) == []
    assert suspicious(month(dump(22, 1, 9 * MIB, 990)), 10) == [], "a busy day"


def test_everything_rewritten() -> None:
    (found,) = suspicious(month(dump(22, 1, 480 * MIB, 1022, ratio=1.0)), 10)
    assert found.dump.header.sequence == 22
    assert "changes 503,316,480 bytes, where level 1 usually changes 2,097,152" in found.why
    assert "compression saves 0% of its data, where it usually saves 60%" in found.why
    assert "voltool dumps --accept" in in_words(found)


def test_much_is_gone() -> None:
    (found,) = suspicious(month(dump(22, 1, MIB, 300)), 10)
    assert "has lost 721 of 1,021 entries" in found.why


def test_a_full_dump_that_does_not_compress_any_more() -> None:
    fulls = [dump(number, 0, 100 * MIB) for number in range(1, 5)]
    assert suspicious([*fulls, dump(5, 0, 100 * MIB, ratio=0.5)], 10) == []
    (found,) = suspicious([*fulls, dump(5, 0, 100 * MIB, ratio=0.99)], 10)
    assert "compression" in found.why
    pictures = [dump(number, 0, 100 * MIB, ratio=0.98) for number in range(1, 5)]
    assert suspicious([*pictures, dump(5, 0, 100 * MIB, ratio=1.0)], 10) == [], "it never did"


def test_the_first_dumps_and_small_ones_are_no_wolf() -> None:
    full = dump(1, 0, 500 * MIB)
    assert suspicious([full, dump(2, 1, MIB), dump(3, 1, 400 * MIB)], 10) == []
    tiny = [dump(1, 0, 40_000, 12), *(dump(number, 1, 10, 12) for number in range(2, 9)), dump(9, 1, 39_000, 4)]
    assert suspicious(tiny, 10) == []


def test_small_volumes_are_watched_as_well() -> None:
    small = [dump(1, 0, 5 * MIB, 60), *(dump(number, 1, 20_000, 60) for number in range(2, 9))]
    assert "changes" in suspicious([*small, dump(9, 1, 5 * MIB, 60)], 10)[0].why
    assert "lost" in suspicious([*small, dump(9, 1, 20_000, 20)], 10)[0].why


def test_an_accepted_dump_is_part_of_what_is_usual() -> None:
    gone = dump(22, 1, MIB, 300)
    next_day = dump(23, 1, MIB, 301)
    both = [*month(gone), next_day]
    assert [each.dump.header.sequence for each in suspicious(both, 10)] == [22, 23], (
        "it is not usual until somebody says so"
    )
    assert suspicious(both, 10, {gone.header.dump_id}) == []


def test_what_has_been_judged_is_not_judged_again() -> None:
    """Retention has thinned out the years: between two dumps that it kept, much has gone that went slowly."""
    kept = [dump(number, 0, 100 * MIB, 5000 - number * 10) for number in (1, 2, 3, 4, 5, 300, 301, 302)]
    assert suspicious(kept, 10) != []
    assert suspicious(kept, 10, judged=300) == []
    assert suspicious([*kept, dump(303, 0, 100 * MIB, 100)], 10, judged=300) != []


def test_a_merged_dump_is_not_judged_beside_the_one_it_was_made_of() -> None:
    days = month()
    newest = days[-1]
    header = replace(newest.header, dump_id="f" * 32, level=0, base_state_id=None, base_dump_id=None)
    synthetic = replace(
        newest, header=header, totals=replace(newest.totals, data_bytes=500 * MIB, stored_bytes=500 * MIB)
    )
    assert suspicious([*days, synthetic], 10) == []


def test_the_factor_is_the_users() -> None:
    busy = month(dump(22, 1, 15 * MIB, 1022))
    assert suspicious(busy, 10) == []
    assert len(suspicious(busy, 5)) == 1


def at_home(dump: StoredDump, number: int, token: str, hours: float) -> StoredDump:
    epoch = Epoch(number, token, f"host {token}")
    return replace(dump, header=replace(dump.header, epoch=epoch, clone_time_ns=int(hours * 3600 * 1_000_000_000)))


def test_a_dump_of_a_home_that_has_been_replaced() -> None:
    before, after = at_home(dump(1, 0, MIB), 1, "old", 0), at_home(dump(101, 0, MIB), 2, "new", 24)
    late = at_home(dump(2, 0, MIB), 1, "old", 48)
    (found,) = suspicious([before, late, after], 10, judged=101)
    assert found.dump is late
    assert found.why == "it is of a home that has been replaced: epoch 1, where the volume had 2, at host new"
    assert suspicious([before, late, after], 10, accepted={late.header.dump_id}) == []
    skewed = at_home(dump(2, 0, MIB), 1, "old", 24.5)
    assert suspicious([before, skewed, after], 10) == [], "clocks differ: it may be from just before a move"
    other = at_home(dump(102, 0, MIB), 2, "another", 48)
    (found,) = suspicious([before, after, other], 10)
    assert found.why == "it is of one of two homes with the same epoch (2); host new is the other one"
    again = [at_home(dump(1, 0, MIB), 1, "first", 0), at_home(dump(2, 0, MIB), 1, "adopted anew", 48)]
    assert suspicious(again, 10) == []
