"""Progress bars on a terminal: bytes, files, rate, time left. Imports tqdm, so it is imported late."""

from __future__ import annotations

from typing import IO, Any

from tqdm import tqdm

from voltool.events import PhaseEnded, PhaseStarted, Progressed

_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}B/{total_fmt}B {postfix}[{elapsed}<{remaining}, {rate_fmt}]"
_FORMAT_OPEN = "{desc} {n_fmt}B {postfix}[{elapsed}, {rate_fmt}]"


class Bars:
    """One bar at a time: that of the phase that runs."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._bar: Any = None
        self._phase: tuple[str, str] | None = None
        self._total_files = 0

    def take(self, event: PhaseStarted | Progressed | PhaseEnded) -> None:
        """Show an event."""
        if isinstance(event, PhaseEnded):
            self._end()
            return
        phase = (event.subject, event.phase)
        if isinstance(event, PhaseStarted):
            self._begin(phase, event.total_bytes, event.total_files)
            return
        if self._bar is None or self._phase != phase:
            self._begin(phase, 0, 0)
        of = f"/{self._total_files:,}" if self._total_files else ""
        self._bar.set_postfix_str(f"{event.files:,}{of} files ", refresh=False)
        self._bar.update(max(0, event.bytes - self._bar.n))

    def clear(self) -> None:
        """Make room for a line; the bar comes back with the next event."""
        if self._bar is not None:
            self._bar.clear()

    def _begin(self, phase: tuple[str, str], total_bytes: int, total_files: int) -> None:
        self._end()
        self._phase = phase
        self._total_files = total_files
        self._bar = tqdm(
            total=total_bytes or None,
            desc=f"{phase[0]}: {phase[1]}",
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            file=self._stream,
            leave=False,
            dynamic_ncols=True,
            mininterval=0.2,
            miniters=0,
            bar_format=_FORMAT if total_bytes else _FORMAT_OPEN,
        )

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
