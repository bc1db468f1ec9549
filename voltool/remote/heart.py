"""Beats while the command line is busy elsewhere, and notices when a host is silent: `wire.pulse` says when that is too long."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from voltool.ssh.stream import Stream
from voltool.wire.framing import BEAT_FRAME
from voltool.wire.pulse import Pulse


class Heart:
    """Two threads, so that a beat that does not go out cannot keep us from noticing. ``missed`` is called by one of them when the
    host was silent for too long. With a ``silence`` of 0 nothing of that is done."""

    def __init__(self, stream: Stream, silence: float, missed: Callable[[], None]) -> None:
        self._missed = missed
        self._stream = stream
        self._silence = silence
        self._pulse = Pulse(silence)
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=act, name="voltool-heart", daemon=True) for act in (self._beat, self._listen)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads if self._silence else ():
            thread.start()

    def stop(self) -> None:
        """Neither beat nor listen any more. Idempotent; the stream may be closed then."""
        self._ended.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(self._pulse.interval)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, nothing else is written."""
        with self._writing:
            yield

    def _beat(self) -> None:
        while not self._ended.wait(self._pulse.interval):
            if self._writing.acquire(blocking=False):
                try:
                    self._stream.try_write(BEAT_FRAME)
                finally:
                    self._writing.release()

    def _listen(self) -> None:
        while not self._ended.wait(self._pulse.interval):
            if self._pulse.is_over(time.monotonic(), *self._stream.arrived()):
                self._missed()
                return
