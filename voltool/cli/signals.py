"""Ctrl-C, SIGTERM and SIGHUP as an exception of ours, so that what was begun is undone on the way out."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from voltool.errors import InterruptedByUser, Interruption

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """While the context lasts these signals raise Interruption in the main thread.

    A signal that is ignored (nohup) stays ignored. Once one has come the rest are held off until the end: a second
    Ctrl-C must not tear apart the clean-up of the first. Outside the main thread it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    interrupt = _Interrupt()
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class _Interrupt:
    """The handler: raises once. It stays in place, since an ignored signal would be inherited by child processes."""

    def __init__(self) -> None:
        self._raised = False

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self._raised:
            return
        self._raised = True
        raise Interruption(
            InterruptedByUser(
                "interrupted",
                why=f"by {signal.Signals(number).name}",
                remedy="the same command again: it begins anew or goes on where it was",
            )
        )
