"""Where everything that is shown goes: results to stdout, notices, errors and bars to stderr. The Reporter of the CLI.

Three ways to speak: people (lines; bars on a terminal), machines (`--json`: one object a line, the last one the result)
and `--quiet` (errors only, and what was asked for as such: a listing, a file's content).
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from typing import IO, Any

from voltool.cli import json_lines
from voltool.cli.json_lines import JsonObject
from voltool.errors import VoltoolError
from voltool.events import Event, Notice, PhaseEnded, PhaseStarted, Progressed

#: At most one progress line of a phase in so many seconds.
_JSON_INTERVAL = 1.0


@dataclass
class Output:
    """The output of one command. ``json``, ``quiet``, ``verbose`` are the global options."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    stdout: IO[str] = field(default_factory=lambda: sys.stdout)
    stderr: IO[str] = field(default_factory=lambda: sys.stderr)
    #: Files whose names are in the error stream already are not shown twice.
    _bars: Any = None
    _last_progress: float = 0.0
    _finished: bool = False

    # ------------------------------------------------------------------------------------------------ the Reporter

    def report(self, event: Event) -> None:
        """Take one event: a JSON line, a bar, or a notice on stderr."""
        if self.json:
            self._report_json(event)
        elif isinstance(event, Notice):
            self.notice(event.severity, event.message)
        elif not self.quiet and self.stderr.isatty():
            self._show_progress(event)

    def _report_json(self, event: Event) -> None:
        if isinstance(event, Progressed):
            now = time.monotonic()
            if now - self._last_progress < _JSON_INTERVAL:
                return
            self._last_progress = now
        self.json_line(json_lines.event_object(event))

    def _show_progress(self, event: PhaseStarted | Progressed | PhaseEnded) -> None:
        if self._bars is None:
            from voltool.cli.bars import Bars

            self._bars = Bars(self.stderr)
        self._bars.take(event)

    # ---------------------------------------------------------------------------------------------- for people

    def line(self, text: str = "") -> None:
        """A line of what was asked for (a listing): shown with `--quiet` too, never with `--json`."""
        if not self.json:
            self._clear_bars()
            print(text, file=self.stdout, flush=True)

    def summary(self, text: str) -> None:
        """What was done, in one line."""
        if not self.quiet:
            self.line(text)

    def notice(self, severity: str, text: str) -> None:
        """Something a person should know, on stderr (in JSON: an event)."""
        if self.json:
            self.json_line(json_lines.event_object(Notice(severity, text)))
        elif not self.quiet or severity == "error":
            self._clear_bars()
            mark = "" if severity == "info" else f"{severity}: "
            print(f"voltool: {mark}{text}", file=self.stderr, flush=True)

    def error(self, error: VoltoolError, subject: str = "") -> None:
        """An error, for people on stderr; in JSON it is part of the result."""
        if self.json:
            return
        self._clear_bars()
        print(f"voltool: {subject + ': ' if subject else ''}{error.what}", file=self.stderr)
        for label, text in (("where", error.where), ("why", error.why), ("try", error.remedy)):
            if text:
                print(f"  {label + ':':<6} {text}", file=self.stderr)
        self.stderr.flush()

    # -------------------------------------------------------------------------------------------- for machines

    def json_line(self, value: JsonObject) -> None:
        """One object on a line of its own."""
        if self.json:
            print(json.dumps(value, ensure_ascii=True, separators=(",", ":")), file=self.stdout, flush=True)

    def result(self, command: str, code: int, fields: JsonObject, error: VoltoolError | None = None) -> None:
        """The result: in JSON the last line. Later calls are ignored, so that there is exactly one."""
        if not self._finished:
            self._finished = True
            self._clear_bars()
            self.json_line(json_lines.result_object(command, code, fields, error))

    def close(self) -> None:
        """Take the bars off the terminal."""
        self._clear_bars()

    def _clear_bars(self) -> None:
        if self._bars is not None:
            self._bars.clear()
