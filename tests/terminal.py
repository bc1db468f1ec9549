"""A terminal for tests: voltool runs on a real pty, and what a person would read on the screen is kept, moment for moment.

Understands what tqdm writes: carriage return, line feed, cursor up.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence

_UP = re.compile(r"\x1b\[A")
_OTHER = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """What is on a screen without end; ``seen`` are all states it was in when the cursor went back to begin a line anew."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._lines = [""]
        self._row = self._column = 0
        self.seen: list[str] = []

    def text(self) -> str:
        """What can be read now."""
        return "\n".join(line.rstrip() for line in self._lines).rstrip("\n")

    def feed(self, text: str) -> None:
        """The program writes ``text``."""
        at = 0
        while at < len(text):
            if match := _UP.match(text, at):
                self._row = max(0, self._row - 1)
            elif not (match := _OTHER.match(text, at)):
                self._put(text[at])
                at += 1
                continue
            at = match.end()

    def _put(self, char: str) -> None:
        if char == "\r":
            if self.text() not in self.seen[-1:]:
                self.seen.append(self.text())
            self._column = 0
        elif char == "\n":
            self._down()
        elif char != "\x07":
            if self._column == self._columns:
                self._down()
                self._column = 0
            line = self._lines[self._row].ljust(self._column)
            self._lines[self._row] = line[: self._column] + char + line[self._column + 1 :]
            self._column += 1

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self._lines):
            self._lines.append("")


class OnTerminal:
    """A program on a pty of its own; leave the context when it has ended, else it is killed."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], columns: int = 120) -> None:
        self.screen = Screen(columns)
        self._pid, self._master = pty.fork()
        if self._pid == 0:
            try:
                fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
                os.execve(arguments[0], list(arguments), dict(environment))  # noqa: S606 - no shell is wanted
            finally:
                os._exit(127)
        self._status: int | None = None

    def __enter__(self) -> OnTerminal:
        return self

    def __exit__(self, *_about: object) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        self.hang_up()

    def type(self, text: str) -> None:
        """A person types."""
        os.write(self._master, text.encode())

    def hang_up(self) -> None:
        """The terminal's window is closed. Idempotent."""
        if self._master >= 0:
            os.close(self._master)
        self._master = -1

    def read_until(self, reached: Callable[[str], bool], seconds: float = 120.0) -> None:
        """Go on reading until the screen is as ``reached`` says; AssertionError with what is on it when that does not come."""
        deadline = time.monotonic() + seconds
        while not reached(self.screen.text()):
            if time.monotonic() > deadline or not self._read(1.0):
                raise AssertionError(f"it did not come:\n{self.screen.text()}")

    def wait(self, seconds: float = 120.0) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + seconds
        while self._master >= 0 and self._read(1.0):
            assert time.monotonic() < deadline, self.screen.text()
        _pid, status = os.waitpid(self._pid, 0)
        self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def _read(self, timeout: float) -> bool:
        """False at the end."""
        if not select.select([self._master], [], [], timeout)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the last process has closed it
            return False
        self.screen.feed(data.decode(errors="replace"))
        return bool(data)
