"""Runs apply for tests."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from tests.tree.apply_streams import VOLUME, Stream
from voltool.events import Event, Notice
from voltool.tree.apply.applier import Applied, Applier, ApplySettings
from voltool.tree.apply.staging import StagingKey, open_staging

PIECE = 100_000


class Recorder:
    """A Reporter that remembers."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def report(self, event: Event) -> None:
        self.events.append(event)

    @property
    def notices(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Notice)]


def apply(
    stream: Stream,
    target: Path,
    *,
    selection: str = "",
    into_existing: bool = False,
    numeric_owner: bool = False,
    workers: int = 1,
    reporter: Recorder | None = None,
    encode: Callable[[int], bytes] | None = None,
    pause: float = 0.0,
) -> Applied:
    """Apply the stream (or what ``encode`` makes) to ``target``, leaving out what staging has already.

    ``pause`` seconds are waited after each `PIECE` bytes.
    """
    key = StagingKey(os.fsencode(target), VOLUME, stream.state_id, selection)
    staging = open_staging(key, into_existing=into_existing)
    try:
        settings = ApplySettings(key, numeric_owner=numeric_owner, workers=workers, subject="vol")
        applier = Applier(staging, settings, reporter or Recorder())
        try:
            data = (encode or stream.encode)(applier.resume_after)
            for at in range(0, len(data), PIECE):
                applier.feed(data[at : at + PIECE])
                time.sleep(pause)
            return applier.finish()
        finally:
            applier.close()
    finally:
        staging.close()
