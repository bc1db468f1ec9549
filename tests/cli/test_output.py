"""Without a terminal: what cron mails of a move are the rounds, a line each, and nothing that is overwritten."""

from __future__ import annotations

import io

from voltool.cli.output import Output
from voltool.events import Locked, PhaseStarted, Progressed, StepEnded, StepStarted, Unlocked

EVENTS = (
    StepStarted("vol", "copy", ("lock",)),
    PhaseStarted("vol", "dump", 10, 1),
    Progressed("vol", "dump", 10, 1),
    StepEnded("vol", "copy", 0.6, bytes=42_739_703, entries=7, predicted_downtime=0.9),
    StepEnded("vol", "catch up 1", 0.2, bytes=12_960, entries=7, predicted_downtime=0.5, why_stop="short enough"),
    Locked("vol", 60),
    StepEnded("vol", "lock", 0.1),
    StepEnded("vol", "last increment", 0.1, bytes=5, entries=7),
    Unlocked("vol", 0.2, switched=True),
)


def lines(output: Output, stream: io.StringIO) -> list[str]:
    for event in EVENTS:
        output.report(event)
    output.close()
    return stream.getvalue().splitlines()


def test_the_rounds_of_a_move() -> None:
    stream = io.StringIO()
    assert lines(Output(stderr=stream), stream) == [
        "voltool: vol: copy: 42,739,703 bytes in 0.6 s; downtime now 0.9 s",
        "voltool: vol: catch up 1: 12,960 bytes in 0.2 s; downtime now 0.5 s; short enough",
    ]


def test_a_quiet_move() -> None:
    stream = io.StringIO()
    assert lines(Output(quiet=True, stderr=stream), stream) == []
