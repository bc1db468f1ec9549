"""Claims: what several processes take, each number only once."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from voltool.agent.lazy.shared import Claims

_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "take_first", "give_back"]),
        st.integers(0, 2),
        st.integers(0, 30),
        st.integers(1, 12),
    ),
    max_size=30,
)


def test_a_span_is_the_first_that_is_free_and_nobody_gets_what_somebody_has(tmp_path: Path) -> None:
    everybody = [Claims(bytes(tmp_path / "claims")) for _who in range(3)]

    @given(_STEPS)
    def check(steps: list[tuple[str, int, int, int]]) -> None:
        owners: dict[int, int] = {}
        for what, who, start, length in steps:
            stop = start + length
            free = [number for number in range(start, stop) if number not in owners]
            if what == "take":
                assert everybody[who].take(start) is (start in free)
                owners.setdefault(start, who)
            elif what == "take_first":
                first = free[0] if free else stop
                end = next((number for number in range(first, stop) if number in owners), stop)
                assert everybody[who].take_first(start, stop) == (first, end)
                owners.update(dict.fromkeys(range(first, end), who))
            else:
                everybody[who].give_back_span(start, stop)
                owners = {
                    number: owner for number, owner in owners.items() if owner != who or not start <= number < stop
                }
        for claims in everybody:
            claims.give_back_span(0, 64)

    check()
