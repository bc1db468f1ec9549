"""Work that goes on in the background after the command that began it has returned, which it does when the work says so.

One fork, before anything is opened: what the child opens is its own. Knows nothing of what is done.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import syslog
import traceback
from collections.abc import Callable

from voltool.errors import Interruption, VoltoolError, error_from_fields
from voltool.events import Event, Notice

_FAILED = 1


class SyslogReporter:
    """Notices go to the syslog; nobody is there to look at progress."""

    _SEVERITIES = {"error": syslog.LOG_ERR, "warning": syslog.LOG_WARNING, "info": syslog.LOG_INFO}  # noqa: RUF012

    def __init__(self, identity: str) -> None:
        syslog.openlog(identity, syslog.LOG_PID, syslog.LOG_DAEMON)

    def report(self, event: Event) -> None:
        """Log it, if it is something to know."""
        if isinstance(event, Notice):
            syslog.syslog(self._SEVERITIES.get(event.severity, syslog.LOG_INFO), event.message)


def in_background(work: Callable[[Callable[[str], None]], None]) -> str:
    """Run ``work`` in a process of its own, in a session of its own; what it says when it is ready.

    ``work`` is given ``ready(text)``: calling it lets this function return ``text``; the process has no terminal from then on.
    Raises what ``work`` raises before that (a VoltoolError). The process outlives this one. Flush the standard streams before.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _be_the_child(work, writing)
    os.close(writing)
    try:
        with open(reading, "rb") as file:
            told = file.read()
    except BaseException:  # interrupted: nobody is told of what would come of it
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    if not told:
        _pid, status = os.waitpid(pid, 0)
        raise VoltoolError("the background process ended before it was ready", why=f"status {status:#x}")
    message = json.loads(told)
    if "error" in message:
        os.waitpid(pid, 0)
        raise error_from_fields(*message["error"])
    return str(message["ready"])


def _be_the_child(work: Callable[[Callable[[str], None]], None], writing: int) -> None:
    """Never returns."""
    status = _FAILED
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

        def ready(text: str) -> None:
            _leave_terminal()
            os.write(writing, json.dumps({"ready": text}).encode())
            os.close(writing)

        work(ready)
        status = 0
    except VoltoolError as error:
        _tell(writing, error)
    except Interruption as interruption:
        _tell(writing, interruption.error)
    except BaseException as error:  # noqa: BLE001 - the process ends here, whatever it is
        syslog.syslog(syslog.LOG_ERR, traceback.format_exc())
        _tell(
            writing, VoltoolError("voltool failed in a way it did not foresee", why=f"{type(error).__name__}: {error}")
        )
    finally:
        os._exit(status)


def _tell(writing: int, error: VoltoolError) -> None:
    message = {"error": [error.kind, error.what, error.where, error.why, error.remedy]}
    try:
        os.write(writing, json.dumps(message).encode())
    except OSError:  # it was ready before: nobody waits any more
        syslog.syslog(syslog.LOG_ERR, str(error))


def _leave_terminal() -> None:
    os.chdir("/")
    sys.stdout.flush()
    sys.stderr.flush()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
