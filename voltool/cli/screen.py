"""The lines at the bottom of a terminal that change while something runs. Imports tqdm, so it is imported late.

tqdm draws them, one object a line, each at a position of its own. All drawing is done by one thread, a few times a second:
whoever reports progress only changes numbers, and what takes long without a report (a sync, a rename) is still seen to last.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, ClassVar

from tqdm import tqdm

_INTERVAL = 0.1
_METER = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}B/{total_fmt}B{postfix} [{elapsed}<{remaining}, {rate_fmt}]"
_METER_OPEN = "{desc} {n_fmt}B{postfix} [{elapsed}, {rate_fmt}]"
_TEXT = "{desc}"


@dataclass(eq=False)
class Row:
    """One line: ``text`` alone, or, where ``meter`` is set, followed by a bar of bytes (of ``total``, 0: not known) and a count
    of files."""

    text: Callable[[], str]
    meter: bool = False
    total: int = 0
    total_files: int = 0
    bytes: int = 0
    files: int = 0


class Screen:
    """The lines of one terminal. `show` them, print `aside` of them, `close` in the end."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = _Returning(stream)
        self._changed = threading.Condition()
        self._rows: list[Row] = []
        self._lines: list[_Line] = []  # of the thread alone
        self._aside = 0
        self._ended = False
        self._empty = True
        self._thread: threading.Thread | None = None

    def show(self, rows: Sequence[Row], *, at_once: bool = True) -> None:
        """Show these lines from now on, instead of the ones before; or (not ``at_once``) from the next drawing on."""
        with self._changed:
            self._rows = list(rows)
            if at_once:
                self._changed.notify_all()
            if rows and self._thread is None and not self._ended:
                self._thread = threading.Thread(target=self._draw_until_the_end, name="voltool-screen", daemon=True)
                self._thread.start()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Something else is written (or asked) meanwhile; the lines come back below it."""
        with self._changed:
            self._aside += 1
        try:
            self._wait_until_empty()
            yield
        finally:
            self._aside -= 1

    def close(self) -> None:
        """Take all lines off the terminal. Idempotent."""
        self._ended = True
        self._wait_until_empty()

    def _wait_until_empty(self) -> None:
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._empty or self._thread is None or not self._thread.is_alive())

    def _draw_until_the_end(self) -> None:
        # Signals interrupt the main thread only: no line is left half-drawn here.
        try:
            with self._changed:
                while not self._ended:
                    self._draw([] if self._aside else self._rows)
                    self._changed.notify_all()
                    self._changed.wait(_INTERVAL)
                self._draw([])
        finally:
            with self._changed:
                self._empty = True
                self._changed.notify_all()

    def _draw(self, rows: list[Row]) -> None:
        while len(self._lines) > len(rows):
            self._lines.pop().close()
        while len(self._lines) < len(rows):
            self._lines.append(_Line(self._stream, len(self._lines)))
        for line, row in zip(self._lines, rows, strict=True):
            line.draw(row)
        self._empty = not rows


class _Line(tqdm):  # type: ignore[type-arg]
    """tqdm for one row at a time, without tqdm's own thread, which is not needed beside ours; and with a lock of threads alone:
    tqdm's own is one of processes too, and may start a helper process of Python's."""

    monitor_interval: ClassVar[int] = 0
    _lock = threading.RLock()

    def __init__(self, stream: Any, position: int) -> None:
        super().__init__(
            file=stream,
            position=position,
            leave=False,
            dynamic_ncols=True,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            mininterval=0.0,
            miniters=0,
            smoothing=0.1,
            bar_format=_TEXT,
        )
        self._row: Row | None = None

    def draw(self, row: Row) -> None:
        """Show ``row`` as it is now."""
        if row is not self._row:
            self._row = row
            self.total = row.total or None
            self.reset()
        self.desc = row.text()
        if not row.meter:
            self.bar_format = _TEXT
            self.refresh(nolock=True)
            return
        self.bar_format = _METER if row.total else _METER_OPEN
        of = f"/{row.total_files:,}" if row.total_files else ""
        self.set_postfix_str(f"{row.files:,}{of} files", refresh=False)
        if row.bytes > self.n:
            self.update(row.bytes - self.n)
        else:  # an update by nothing would take the time that nothing came out of the rate
            self.refresh(nolock=True)


class _Returning:
    """A stream that leaves the cursor at the begin of the line, so that a terminal's ^C is overwritten by the next text."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text``."""
        return self._stream.write(text + "\r" if text.startswith("\r") else text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
