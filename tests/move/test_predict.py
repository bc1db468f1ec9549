"""When the rounds before the lock end."""

from __future__ import annotations

from voltool.move.predict import RoundResult, why_stop

COPY = RoundResult(30.0, 1_000_000, 100_000)


def test_a_round_that_brought_nothing_is_the_last() -> None:
    """Another one would find nothing either and take as long; also where a move goes on and it was the first of the call."""
    nothing = RoundResult(2.0, 0, 100_000, unchanged=True)
    assert why_stop([COPY, nothing], downtime=1.0, most=10) == "nothing has changed meanwhile"
    assert why_stop([nothing], downtime=1.0, most=10) == "nothing has changed meanwhile"


def test_a_round_that_brought_names_alone_is_not() -> None:
    """No byte of a file was sent, but the next round will be shorter."""
    assert why_stop([COPY, RoundResult(2.0, 0, 100_000)], downtime=1.0, most=10) == ""
    assert why_stop([COPY], downtime=1.0, most=10) == ""
