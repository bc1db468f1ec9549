"""Makes what has arrived durable while more arrives: syncfs(2) in a thread, and what may be promised once it is done.

Nobody waits for it: a sync of some hundred MiB would keep the stream, and the host that sends it, waiting for seconds. Ships to
servers.
"""

from __future__ import annotations

import threading
from typing import Optional

from voltool.tree.apply.staging import Progress, Staging


class Checkpoint:
    """One sync at a time. What `begin` is given must have been written before it is called."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._thread: Optional[threading.Thread] = None
        self._progress: Optional[Progress] = None
        self._error: Optional[BaseException] = None

    @property
    def running(self) -> bool:
        """Whether one was begun whose outcome was not collected yet."""
        return self._thread is not None

    def begin(self, progress: Progress) -> None:
        """Sync; ``progress`` is what holds afterwards."""
        assert self._thread is None
        self._progress = progress
        self._thread = threading.Thread(target=self._sync, name="voltool-sync", daemon=True)
        self._thread.start()

    def _sync(self) -> None:
        try:
            self._staging.sync()
        except BaseException as error:  # noqa: BLE001 - `collect` raises it
            self._error = error

    def collect(self, *, wait: bool) -> Optional[Progress]:
        """What holds durably now; None where nothing new does (yet). Raises what the sync has."""
        thread = self._thread
        if thread is None or (thread.is_alive() and not wait):
            return None
        thread.join()
        error, self._error, self._thread = self._error, None, None
        if error is not None:
            raise error
        return self._progress
