"""Which dump a word and a time mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.catalog.samples import SECOND, make_dump, make_volume
from voltool.backup.select import choose_dump, dumps_of_name
from voltool.errors import NotFoundError, UsageError
from voltool.policy.chain import base_of, chain_ends, chain_of, depth_of

VOLUME = make_volume("vol1")
OTHER = make_volume("abc")
DUMPS = [make_dump(number, volume=VOLUME, dump_id=f"{number:x}".ljust(32, "1")) for number in (1, 2, 3)]
OTHERS = [make_dump(7, volume=OTHER, dump_id="abc" + "0" * 29), make_dump(8, volume=OTHER, dump_id="ab" + "1" * 30)]
ALL = [*DUMPS, *OTHERS]
VOLUMES = [OTHER, VOLUME]


def test_a_name_means_the_newest() -> None:
    assert choose_dump("vol1", None, VOLUMES, ALL) == DUMPS[2]


def test_newest_is_by_sequence_not_by_clock() -> None:
    set_back = make_dump(4, volume=VOLUME, time_ns=SECOND)
    assert choose_dump("vol1", None, VOLUMES, [*ALL, set_back]) == set_back


@pytest.mark.parametrize(("at", "number"), [(1, 0), (1.5, 0), (2, 1), (2.999, 1), (3, 2), (99, 2)])
def test_at_means_the_newest_that_is_not_later(at: float, number: int) -> None:
    assert choose_dump("vol1", int(at * SECOND), VOLUMES, ALL) == DUMPS[number]


def test_before_the_first_there_is_nothing() -> None:
    with pytest.raises(NotFoundError, match="that old") as caught:
        choose_dump("vol1", SECOND - 1, VOLUMES, ALL)
    assert "voltool dumps vol1" in caught.value.remedy


def test_a_unique_prefix_of_an_id() -> None:
    assert choose_dump("2", None, VOLUMES, ALL) == DUMPS[1]
    assert choose_dump("AB1", None, VOLUMES, ALL) == OTHERS[1]
    assert choose_dump(DUMPS[0].header.dump_id, None, VOLUMES, ALL) == DUMPS[0]


def test_an_ambiguous_prefix_lists_what_it_could_be() -> None:
    with pytest.raises(NotFoundError, match="several") as caught:
        choose_dump("ab", None, VOLUMES, ALL)
    assert all(dump.header.dump_id in caught.value.why for dump in OTHERS)


def test_a_volumes_name_wins_over_an_id() -> None:
    assert choose_dump("abc", None, VOLUMES, ALL) == OTHERS[1]


def test_a_time_does_not_go_with_an_id() -> None:
    with pytest.raises(UsageError, match="--at"):
        choose_dump("2", 5 * SECOND, VOLUMES, ALL)


@pytest.mark.parametrize("word", ["nothing", "fff", "", "vol", "%", "2*"])
def test_what_nothing_is_called(word: str) -> None:
    with pytest.raises(NotFoundError, match="no volume and no dump"):
        choose_dump(word, None, VOLUMES, ALL)


def test_a_volume_without_dumps() -> None:
    with pytest.raises(NotFoundError, match="no dump yet") as caught:
        choose_dump("new", None, [make_volume("new")], ALL)
    assert caught.value.remedy == "voltool dump new"


def test_a_renamed_volume_keeps_its_dumps_and_a_forgotten_one_its_name() -> None:
    renamed = make_volume("renamed", uuid=VOLUME.uuid)
    assert choose_dump("renamed", None, [renamed], ALL) == DUMPS[2]
    assert choose_dump("vol1", None, [], ALL) == DUMPS[2]


def test_two_forgotten_volumes_of_one_name_are_not_mixed_up() -> None:
    twin = make_dump(9, volume=make_volume("vol1", uuid="e" * 32))
    with pytest.raises(NotFoundError, match="several volumes"):
        choose_dump("vol1", None, [], [*ALL, twin])
    assert dumps_of_name("vol1", [VOLUME], [*ALL, twin]) == DUMPS


def test_chains() -> None:
    zero = make_dump(1)
    one = make_dump(2, level=1, base=zero)
    two = make_dump(3, level=2, base=one)
    other_one = make_dump(4, level=1, base=zero)
    dumps = [zero, one, two, other_one]
    assert chain_of(two, dumps) == (zero, one, two)
    assert [depth_of(dump, dumps) for dump in dumps] == [0, 1, 2, 1]
    assert chain_ends(dumps) == [two, other_one]
    assert base_of(two, [zero, two]) is None
    assert chain_of(two, [zero, two]) == (two,)


def test_a_base_is_found_by_its_state_in_the_same_store() -> None:
    zero = make_dump(1)
    one = make_dump(2, level=1, base=zero)
    elsewhere = make_dump(1, dump_id="e" * 32, store="file:///elsewhere")
    same_state = make_dump(1, dump_id="f" * 32)
    assert base_of(one, [elsewhere]) is None
    assert base_of(one, [same_state]) == same_state
    assert base_of(one, [same_state, zero]) == zero


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), unique_by=lambda pair: pair[1], min_size=1))
def test_at_agrees_with_its_definition(made: list[tuple[int, int]]) -> None:
    volumes = [make_volume(f"v{which}") for which in range(4)]
    dumps = [make_dump(number, volume=volumes[which]) for which, number in made]
    which, at = made[0]
    chosen = choose_dump(f"v{which}", at * SECOND, volumes, dumps)
    candidates = [number for volume, number in made if volume == which and number <= at]
    assert chosen.header.sequence == max(candidates)
