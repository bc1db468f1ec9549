"""Where everything that is shown goes: results to stdout, notices, errors and bars to stderr. The Reporter of the CLI.

Three ways to speak: people (lines; bars on a terminal), machines (`--json`: one object a line, the last one the result)
and `--quiet` (errors only, and what was asked for as such: a listing, a file's content).
"""

from __future__ import annotations

import contextlib
import errno
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from voltool.cli import json_lines
from voltool.cli.json_lines import JsonObject
from voltool.errors import VoltoolError
from voltool.events import Event, Notice, Phase, Progressed, Step, StepEnded

#: At most one progress line of a phase in so many seconds.
_JSON_INTERVAL = 1.0


@dataclass
class Output:
    """The output of one command. ``json``, ``quiet``, ``verbose`` are the global options. Several threads may speak: each line
    stays whole."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    stdout: IO[str] = field(default_factory=lambda: sys.stdout)
    stderr: IO[str] = field(default_factory=lambda: sys.stderr)
    _bars: Any = None
    _last_progress: float = 0.0
    _finished: bool = False
    _speaking: threading.RLock = field(default_factory=threading.RLock, repr=False)

    # ------------------------------------------------------------------------------------------------ the Reporter

    def report(self, event: Event) -> None:
        """Take one event: a JSON line, a bar, or a notice on stderr."""
        with self._speaking:
            self._report(event)

    def _report(self, event: Event) -> None:
        if self.json:
            self._report_json(event)
        elif isinstance(event, Notice):
            self.notice(event.severity, event.message)
        elif self.quiet:
            return
        elif self.stderr.isatty():
            self._show_progress(event)
        elif isinstance(event, StepEnded) and event.predicted_downtime is not None:
            self.notice("info", _round_in_a_line(event, event.predicted_downtime))

    def _report_json(self, event: Event) -> None:
        if isinstance(event, Progressed):
            now = time.monotonic()
            if now - self._last_progress < _JSON_INTERVAL:
                return
            self._last_progress = now
        self.json_line(json_lines.event_object(event))

    def _show_progress(self, event: Phase | Step) -> None:
        if self._bars is None:
            from voltool.cli.bars import Bars

            self._bars = Bars(self.stderr, lambda text: self._print(text, self.stderr))
        self._bars.take(event)

    # ---------------------------------------------------------------------------------------------- for people

    def line(self, text: str = "") -> None:
        """A line of what was asked for (a listing): shown with `--quiet` too, never with `--json`."""
        if not self.json:
            self._print(text, self.stdout)

    def summary(self, text: str) -> None:
        """What was done, in one line."""
        if not self.quiet:
            self.line(text)

    def notice(self, severity: str, text: str) -> None:
        """Something a person should know, on stderr (in JSON: an event)."""
        if self.json:
            self.json_line(json_lines.event_object(Notice(severity, text)))
        elif not self.quiet or severity == "error":
            mark = "" if severity == "info" else f"{severity}: "
            self._print(f"voltool: {mark}{text}", self.stderr)

    def error(self, error: VoltoolError, subject: str = "") -> None:
        """An error, for people on stderr; in JSON it is part of the result."""
        if self.json:
            return
        lines = [f"voltool: {subject + ': ' if subject else ''}{error.what}"]
        for label, text in (("where", error.where), ("why", error.why), ("try", error.remedy)):
            if text:
                lines.append(f"  {label + ':':<6} {text}")
        self._print("\n".join(lines), self.stderr)

    def ask(self, question: str) -> bool:
        """Yes or no, from a person at a terminal; the end of input (Ctrl-D) is no."""
        import typer

        with self._aside():
            try:
                return typer.confirm(question, err=True)
            except typer.Abort:
                print(file=self.stderr)
                return False
            except BaseException:  # Ctrl-C: what is said about that begins on a line of its own
                print(file=self.stderr)
                raise

    # -------------------------------------------------------------------------------------------- for machines

    def json_line(self, value: JsonObject) -> None:
        """One object on a line of its own."""
        if self.json:
            with self._speaking:
                print(json.dumps(value, ensure_ascii=True, separators=(",", ":")), file=self.stdout, flush=True)

    def result(self, command: str, code: int, fields: JsonObject, error: VoltoolError | None = None) -> None:
        """The result: in JSON the last line. Later calls are ignored, so that there is exactly one."""
        if not self._finished:
            self._finished = True
            self.close()
            self.json_line(json_lines.result_object(command, code, fields, error))

    def close(self) -> None:
        """Take the bars off the terminal. Idempotent."""
        bars, self._bars = self._bars, None
        if bars is not None:
            bars.close()

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        with self._bars.aside() if self._bars is not None else contextlib.nullcontext():
            yield

    def _print(self, text: str, stream: IO[str]) -> None:
        """A terminal that is gone takes no more lines; what the command does about that (SIGHUP) must not stumble here."""
        with self._speaking, self._aside():
            try:
                print(text, file=stream, flush=True)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise


def _round_in_a_line(event: StepEnded, predicted: float) -> str:
    text = f"{event.subject}: {event.step}: {event.bytes or 0:,} bytes in {event.seconds:.1f} s; downtime now {predicted:.1f} s"
    return f"{text}; {event.why_stop}" if event.why_stop else text
