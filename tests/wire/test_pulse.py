from __future__ import annotations

from voltool.wire.pulse import HELD_BACK, Pulse


def ticks(pulse: Pulse, seconds: float, arrived: int, unread: int = 0, start: float = 0.0) -> list[bool]:
    """What `is_over` says at each tick of ``seconds`` in which nothing more comes."""
    count = int(seconds / pulse.interval)
    return [pulse.is_over(start + number * pulse.interval, arrived, unread) for number in range(count + 1)]


def test_silence_is_noticed_and_not_too_early() -> None:
    assert ticks(Pulse(20.0), 20.0, 100) == [False, False, False, False, True]


def test_whatever_comes_counts_as_a_sign_of_life() -> None:
    pulse = Pulse(20.0)
    assert not any(pulse.is_over(number * 5.0, number * 5, 0) for number in range(50))


def test_who_does_not_read_cannot_miss_anything() -> None:
    pulse = Pulse(20.0)
    assert not any(ticks(pulse, 1000.0, 10_000, HELD_BACK + 1))
    assert ticks(pulse, 20.0, 10_000, 0, 1000.0) == [False, False, False, False, True]


def test_who_was_asleep_himself_listens_anew() -> None:
    pulse = Pulse(20.0)
    assert not any(ticks(pulse, 15.0, 100))
    assert not pulse.is_over(1000.0, 100, 0)
    assert ticks(pulse, 20.0, 100, 0, 1000.0)[-1]


def test_beats_come_often_enough_to_lose_some() -> None:
    for silence in (2.0, 20.0, 120.0, 3600.0):
        assert Pulse(silence).interval <= min(15.0, silence / 4)
