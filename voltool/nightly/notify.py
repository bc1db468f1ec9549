"""Tells of a run: programs that get a summary, health checks, metrics, syslog. Implements `nightly.ports.Announcer`.

Nothing here may end a run, or raise: what could not be told is a fault, in words, and each way of telling is tried whatever
happened to the others.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from voltool import __version__
from voltool.backup.ports import Catalog
from voltool.backup.standing import standings
from voltool.errors import VoltoolError
from voltool.nightly.summary import Summary, summary_of, volume_line
from voltool.policy.runs import RunReport
from voltool.showing import shown

if TYPE_CHECKING:
    from voltool.config.settings import Settings

#: Tries of a health check's URL, and the seconds before the second one; then twice as many.
_TRIES = 3
_WAIT = 1.0
#: Health checks keep so much of what they are sent.
_MOST_BODY = 100_000
_SYSLOG = "/dev/log"


@dataclass
class Notifier:
    """Who is told is in ``settings.notify``. ``wait`` and ``syslog`` are others in tests."""

    settings: Settings
    catalog: Catalog
    environment: Mapping[str, str]
    wait: float = _WAIT
    syslog: str = _SYSLOG
    hostname: str = field(default_factory=socket.gethostname)
    _faults: list[str] = field(default_factory=list)

    def started(self, run_id: str) -> None:
        """A run begins: the health check is told. What could not be told is part of what `ended` returns."""
        notify = self.settings.notify
        if notify.ping_start:
            self._try(f"the health check {notify.ping_start}", lambda: self._ping(notify.ping_start or "", run_id))

    def ended(self, report: RunReport) -> tuple[str, ...]:
        """A run has ended. Never raises; what could not be told, in words."""
        notify = self.settings.notify
        summary = summary_of(report, self.hostname)
        program = notify.on_success if summary.ok else notify.on_failure
        url = notify.ping_success if summary.ok else notify.ping_failure
        if notify.syslog:
            self._try("syslog", lambda: self._write_syslog(report, summary))
        if notify.metrics:
            self._try(f"the metrics file {notify.metrics}", lambda: self._write_metrics(notify.metrics or "", report))
        if program:
            what = f"the program {shown(os.fsencode(program[0]))}"
            self._try(what, lambda: self._run(program, report, summary))
        if url:
            self._try(f"the health check {url}", lambda: self._ping(url, summary.text))
        faults, self._faults = tuple(self._faults), []
        return faults

    def _try(self, what: str, tell: Callable[[], None]) -> None:
        try:
            tell()
        except _NotToldError as error:
            self._faults.append(f"{what} could not be told: {error}")
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a notice, the run goes on
            self._faults.append(f"{what} could not be told: {_in_words(error)}")

    # ------------------------------------------------------------------------------------------------------ programs

    def _run(self, program: list[str], report: RunReport, summary: Summary) -> None:
        """The summary on standard input; killed, with all that it started, when it takes too long."""
        environment = {
            **self.environment,
            "VOLTOOL_EXIT_CODE": str(report.exit_code),
            "VOLTOOL_SUBJECT": summary.subject,
            "VOLTOOL_RUN_ID": report.run_id,
            "VOLTOOL_FAILED": " ".join(run.volume for run in report.volumes if run.error),
        }
        timeout = self.settings.notify.timeout
        with tempfile.TemporaryFile() as errors:  # no pipe: a mail program may leave a child behind that keeps it open
            process = subprocess.Popen(
                program,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
            try:
                process.communicate(summary.text.encode("utf-8", "replace"), timeout)
            except subprocess.TimeoutExpired:
                raise _NotToldError(f"it took longer than {timeout} s") from None
            finally:
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            errors.seek(0)
            said = errors.read()
        if process.returncode:
            last = shown(said.strip().rpartition(b"\n")[2])
            raise _NotToldError(f"exit code {process.returncode}" + (f": {last}" if last else ""))

    # ------------------------------------------------------------------------------------------------- health checks

    def _ping(self, url: str, body: str) -> None:
        import tenacity

        request = urllib.request.Request(  # noqa: S310 - the configuration takes http and https only
            url,
            data=body.encode("utf-8", "replace")[:_MOST_BODY],
            headers={"User-Agent": f"voltool/{__version__}", "Content-Type": "text/plain; charset=utf-8"},
        )
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(_TRIES),
            wait=tenacity.wait_exponential(multiplier=self.wait),
            retry=tenacity.retry_if_exception(_may_do_better),
            reraise=True,
        )
        retrying(self._call, request)

    def _call(self, request: urllib.request.Request) -> None:
        try:
            with urllib.request.urlopen(request, timeout=self.settings.notify.timeout) as answer:  # noqa: S310 - see above
                answer.read(1)
        except urllib.error.HTTPError as error:  # it is the answer too
            error.close()
            raise

    # --------------------------------------------------------------------------------------------- metrics and syslog

    def _write_metrics(self, path: str, report: RunReport) -> None:
        from voltool.nightly.metrics import write_metrics, write_replica_metrics

        found = standings(self.catalog, self.settings, report.ended_ns)
        write_metrics(path, report, found)
        replicas = [replica for each in found for replica in each.replicas]
        if replicas:
            write_replica_metrics(path, replicas)

    def _write_syslog(self, report: RunReport, summary: Summary) -> None:
        with _syslog(self.syslog) as log:
            for run in report.volumes:
                log(logging.ERROR if run.error else logging.INFO, volume_line(run))
            for alarm in report.alarms:
                log(logging.CRITICAL, f"suspicious: {shown(alarm.encode('utf-8', 'surrogateescape'))}")
            for fault in report.faults:
                log(logging.ERROR, shown(fault.encode("utf-8", "surrogateescape")))
            log(logging.INFO if summary.ok else logging.ERROR, summary.subject)


class _NotToldError(Exception):
    """Why, in words."""


@contextmanager
def _syslog(address: str) -> Iterator[Callable[[int, str], None]]:
    """A function that writes a line of a severity (as `logging` numbers them)."""
    handler = _SyslogHandler(address, logging.handlers.SysLogHandler.LOG_DAEMON)
    handler.ident = f"voltool[{os.getpid()}]: "
    try:
        yield lambda level, text: handler.emit(logging.LogRecord("voltool", level, "", 0, "%s", (text,), None))
    finally:
        handler.close()
    if handler.failure is not None:
        raise handler.failure


class _SyslogHandler(logging.handlers.SysLogHandler):
    """One that keeps the first failure, where logging prints it."""

    failure: BaseException | None = None

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - the name is logging's
        self.failure = self.failure or sys.exc_info()[1]


def _may_do_better(error: BaseException) -> bool:
    """A server that says that the request is wrong says so again."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500 or error.code == 429
    return isinstance(error, OSError)


def _in_words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, TimeoutError):
        return "no answer in time"
    if isinstance(error, VoltoolError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
