"""Large files go to the disk while they still arrive, so that there is little left to wait for in the end.

It promises nothing: what must be durable is made so by `Staging.sync`. Part of what is shipped to servers. Sources:
sync_file_range(2), fdatasync(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import threading
from typing import Optional, Tuple

from voltool import inodes
from voltool.dumpfile import format as fmt
from voltool.tree.apply.files import translate

#: How much is written before the disk is to begin with it.
STEP = 128 << 20
#: SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE, _WAIT_AFTER.
_ALL = 1 | 2 | 4
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


class EarlyWriteback:
    """A thread, begun with the first file, that sends files to the disk one by one; always `close` it."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[Tuple[int, bool]] = queue.Queue()
        self._thread: Optional[threading.Thread] = None
        self._error: Optional[OSError] = None

    def send(self, descriptor: int, *, compressible: bool = False) -> None:
        """Begin with what was written to this file so far; while one waits for its turn, another is passed over.
        ``compressible``: it is complete, and is not to have the flag +m. Raises what went wrong with an earlier one."""
        self._raise_error()
        if self._waiting.qsize():
            if compressible:
                _stay_compressible(descriptor)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="voltool-writeback", daemon=True)
            self._thread.start()
        with contextlib.suppress(OSError):
            # A descriptor of its own, which may outlive the other one; not a writer's, since fs-verity suffers none.
            self._waiting.put((os.open(f"/proc/self/fd/{descriptor}", _OPEN), compressible))

    def finish(self) -> None:
        """Wait until everything that was sent is on the disk. Raises what went wrong."""
        self._end()
        self._raise_error()

    def close(self) -> None:
        """What waits is not begun any more; idempotent."""
        with contextlib.suppress(queue.Empty):
            while True:
                os.close(self._waiting.get_nowait()[0])
        self._end()

    def _end(self) -> None:
        if self._thread is not None:
            self._waiting.put((-1, False))
            self._thread.join()
            self._thread = None

    def _raise_error(self) -> None:
        if self._error is not None:
            raise translate(self._error, "a file") from self._error

    def _run(self) -> None:
        sync_range = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
        whole = (ctypes.c_int64(0), ctypes.c_int64(0), ctypes.c_uint(_ALL))
        while True:
            descriptor, compressible = self._waiting.get()
            if descriptor < 0:
                return
            if sync_range is not None:
                # Waits without the inode's lock, which fdatasync may hold against those who write on.
                sync_range(descriptor, *whole)
            self._make_durable(descriptor, compressible=compressible)

    def _make_durable(self, descriptor: int, *, compressible: bool) -> None:
        try:
            os.fdatasync(descriptor)  # beyond the caches of the device, which would be waited for later
            if compressible:
                _stay_compressible(descriptor)
        except OSError as error:
            self._error = error
        finally:
            os.close(descriptor)


def _stay_compressible(descriptor: int) -> None:
    """Take +m off. A btrfs that compresses sets it when a part of a file did not shrink; and what goes to the disk while the file
    still arrives are parts in which nobody wrote it before."""
    with contextlib.suppress(OSError):
        if inodes.get_flags(descriptor)[0] & fmt.FLAG_NOCOMP:
            inodes.set_flags(descriptor, 0, fmt.FLAG_NOCOMP)
