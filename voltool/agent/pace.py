"""How fast an agent may go: bandwidth, nice, ionice; and how often it reports progress. Ships to servers."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import time
from typing import Dict

from voltool.agent.path.held import DataWay
from voltool.events import Progressed
from voltool.wire.conversation import Buffer, Conversation

_IOPRIO_CLASS_IDLE = 3 << 13
_IOPRIO_WHO_PROCESS = 1
#: ioprio_set(2) has no wrapper in libc; its number by machine.
_IOPRIO_SET: Dict[str, int] = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282, "i686": 289}
_REPORT_EVERY = 0.1


def be_nice(nice: int, *, idle_io: bool) -> None:
    """Lower this process's (and its workers') priority; what the host refuses is left as it is."""
    if nice:
        with contextlib.suppress(OSError):
            os.nice(nice)
    number = _IOPRIO_SET.get(platform.machine())
    if idle_io and number is not None:
        ctypes.CDLL(None).syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_CLASS_IDLE)


class Pace:
    """Sends data no faster than ``bandwidth`` bytes/s (0: as fast as it goes) and reports at most ten times a second. ``way``:
    where the data goes."""

    def __init__(self, conversation: Conversation, subject: str, bandwidth: int) -> None:
        self._conversation = conversation
        self.way: DataWay = conversation
        self._subject = subject
        self._bandwidth = bandwidth
        self._due = time.monotonic()
        self._reported = 0.0

    def send(self, data: Buffer) -> None:
        """Send, then wait as long as the bandwidth asks for."""
        self.way.send_data(data)
        if self._bandwidth:
            now = time.monotonic()
            self._due = max(self._due, now - 1.0) + len(data) / self._bandwidth
            if self._due > now:
                time.sleep(self._due - now)

    def progress(self, phase: str, size: int, files: int) -> None:
        """Report how far ``phase`` is (bytes, files), now and then."""
        now = time.monotonic()
        if now - self._reported >= _REPORT_EVERY:
            self._reported = now
            self._conversation.report(Progressed(self._subject, phase, size, files))
