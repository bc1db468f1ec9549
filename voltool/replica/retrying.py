"""Waits for who works on a replica: a follower does every second, for a moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from voltool.errors import BusyError

T = TypeVar("T")
#: How long (seconds) is waited, and how long between two attempts.
_PATIENCE, _PAUSE = 15.0, 0.4


def when_free(act: Callable[[], T]) -> T:
    """``act``, again and again while it raises BusyError, for some seconds; then that error."""
    import tenacity

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(BusyError),
        stop=tenacity.stop_after_delay(_PATIENCE),
        wait=tenacity.wait_fixed(_PAUSE) + tenacity.wait_random(0, _PAUSE),
        reraise=True,
    )
    return retrying(act)
