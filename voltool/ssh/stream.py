"""The narrow interface to a command that runs somewhere: bytes in, bytes out, the tail of its complaints.

`ProcessStream` is a local process (``local``, or the system's ``ssh``); `paramiko_channel.ChannelStream` a channel of an
SSH connection. Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import select
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

Buffer = bytes | bytearray | memoryview

#: How much of stderr is kept: enough for a traceback.
STDERR_KEPT = 16 << 10
#: How long a process that was dropped, and so told to end, may take for it, seconds.
_DROPPED_GRACE = 5.0
_F_SETPIPE_SZ = 1031
_PIPE_SIZE = 1 << 20


class Stream(Protocol):
    """stdin and stdout of one running command. Used by one thread at a time, except ``write`` before the first data, and what
    says so; ``close`` last of all."""

    def read(self, limit: int, timeout: float | None = None) -> bytes:
        """At most ``limit`` bytes, at least one; blocks; ``b""`` at the end, also when the connection broke.

        Raises TimeoutError when nothing came within ``timeout`` seconds.
        """

    def readable(self) -> bool:
        """Whether ``read`` would return at once (also at the end)."""

    def write(self, data: Buffer) -> None:
        """Write all of it; blocks while the other side is slow. Raises BrokenPipeError when the other side is gone.

        Never deadlocks against a command that writes while we do: what arrives meanwhile is kept for ``read``.
        """

    def try_write(self, data: bytes) -> None:
        """Write a few bytes if that can be done at once, else nothing; also while another thread reads, never while one
        writes. What is broken is not told."""

    def arrived(self) -> tuple[int, int]:
        """How many bytes came so far, and how many of them were not read yet. From any thread, before ``close``."""

    def drop(self) -> None:
        """Break the connection off: whoever reads is at the end, whoever writes gets BrokenPipeError. From any thread, before
        ``close``."""

    def close(self, grace: float = 0.0) -> None:
        """End stdin, wait ``grace`` seconds for the command to end by itself, then drop it. Idempotent."""

    def stderr_tail(self) -> str:
        """The last lines the command wrote to stderr, control characters replaced."""

    def exit_status(self, timeout: float) -> int | None:
        """The command's exit status, if it ends within ``timeout`` seconds; negative: the signal that killed it."""


class StderrTail:
    """Keeps the end of what a command says; ``listener`` sees each piece first (to answer a password prompt)."""

    def __init__(self, listener: Callable[[bytes], None] | None = None) -> None:
        self._lock = threading.Lock()
        self._kept = b""
        self._listener = listener

    def feed(self, data: bytes) -> None:
        """Take what was read; called by the thread that reads stderr."""
        with self._lock:
            self._kept = (self._kept + data)[-STDERR_KEPT:]
        if self._listener is not None:
            self._listener(data)

    def text(self) -> str:
        """The last lines, safe to print."""
        with self._lock:
            return printable(self._kept)


def printable(data: bytes, lines: int = 12) -> str:
    """The last ``lines`` lines of ``data`` with control characters replaced, so that they cannot play with a terminal."""
    text = data.decode(errors="replace").replace("\r", "")
    kept = [line for line in text.split("\n") if line.strip()][-lines:]
    return "\n".join(
        "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line) for line in kept
    )


class ProcessStream:
    """A `Stream` to a process of this machine, in a session of its own so that Ctrl-C is ours to handle."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        listener: Callable[[bytes], None] | None = None,
        own_session: bool = True,
    ) -> None:
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=environment,
            start_new_session=own_session,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in = self._process.stdin.fileno()
        self._out = self._process.stdout.fileno()
        for descriptor in (self._in, self._out):
            with contextlib.suppress(OSError):  # beyond /proc/sys/fs/pipe-max-size: only slower
                fcntl.fcntl(descriptor, _F_SETPIPE_SZ, _PIPE_SIZE)
        os.set_blocking(self._in, False)
        self._early: collections.deque[bytes] = collections.deque()
        self._closed = False
        self._received = 0
        self._wake_read, self._wake_write = os.pipe()
        self._dropped = False
        self._tail = StderrTail(listener)
        self._reader = threading.Thread(target=self._read_stderr, name="voltool-stderr", daemon=True)
        self._reader.start()

    def read(self, limit: int, timeout: float | None = None) -> bytes:
        """See `Stream`."""
        if self._early:
            piece = self._early.popleft()
            if len(piece) > limit:
                self._early.appendleft(piece[limit:])
            return piece[:limit]
        if self._closed:
            return b""
        if not select.select([self._out, self._wake_read], [], [], timeout)[0]:
            raise TimeoutError
        return b"" if self._dropped else self._take(limit)

    def _take(self, limit: int) -> bytes:
        data = os.read(self._out, limit)
        self._received += len(data)
        return data

    def readable(self) -> bool:
        """See `Stream`."""
        return bool(self._early) or self._closed or bool(select.select([self._out, self._wake_read], [], [], 0)[0])

    def write(self, data: Buffer) -> None:
        """See `Stream`."""
        view = memoryview(data).cast("B")
        watch_output = True
        while view:
            if self._closed or self._dropped:
                raise BrokenPipeError
            try:
                view = view[os.write(self._in, view) :]
            except BlockingIOError:
                watch_output = self._wait_for_room(watch_output=watch_output)

    def _wait_for_room(self, *, watch_output: bool) -> bool:
        readable, _, _ = select.select([self._wake_read, *([self._out] if watch_output else [])], [self._in], [])
        if self._out not in readable:
            return watch_output
        piece = self._take(1 << 16)
        if piece:
            self._early.append(piece)
        return bool(piece)

    def try_write(self, data: bytes) -> None:
        """See `Stream`. Up to PIPE_BUF bytes go into a pipe all or none (pipe(7))."""
        with contextlib.suppress(OSError):
            os.write(self._in, data)

    def arrived(self) -> tuple[int, int]:
        """See `Stream`."""
        (unread,) = struct.unpack("i", fcntl.ioctl(self._out, termios.FIONREAD, bytes(4)))
        return self._received + unread, unread

    def drop(self) -> None:
        """See `Stream`."""
        self._dropped = True
        self._process.terminate()  # an agent cleans up then; one that cannot is killed by `close`
        os.write(self._wake_write, b"x")

    def close(self, grace: float = 0.0) -> None:
        """See `Stream`."""
        if self._closed:
            return
        self._closed = True
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.close()
        deadline = time.monotonic() + (min(grace, _DROPPED_GRACE) if self._dropped else grace)
        while process.poll() is None and time.monotonic() < deadline:
            # Take what it still says, or it may wait for us for ever.
            if select.select([self._out], [], [], 0.02)[0] and not os.read(self._out, 1 << 20):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        process.stdout.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        if process.poll() is None and not self._dropped:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
        if process.poll() is None:
            process.kill()
            process.wait()
        self._reader.join(1.0)
        if not self._reader.is_alive():
            process.stderr.close()

    def stderr_tail(self) -> str:
        """See `Stream`."""
        if self._process.poll() is not None:
            self._reader.join(1.0)
        return self._tail.text()

    def exit_status(self, timeout: float) -> int | None:
        """See `Stream`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout)
        return None

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        descriptor = self._process.stderr.fileno()
        with contextlib.suppress(OSError):
            while data := os.read(descriptor, 4096):
                self._tail.feed(data)
        if self._closed:  # somebody kept it open beyond `close`, which has left it to us
            self._process.stderr.close()
