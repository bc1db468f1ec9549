"""A long-running process of voltool from inside: ``python3 -I <daemon>.pyz KIND ID``. What it does is its kind's own.

It asks nobody, holds the daemon's lock while it lives, says who it is, and ends at SIGTERM. Syslog has what goes wrong.
Ships to servers.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import signal
import syslog
import threading
import traceback
from types import FrameType
from typing import Callable, Dict, Optional, Sequence, Tuple

from voltool.agent.daemon import Daemon, this_process
from voltool.agent.host import HostState, find_host_state
from voltool.agent.main import settle_process
from voltool.errors import BusyError, VoltoolError

#: ``run(identity, host, life)``, which returns when its work is over or `Life.ending` is set.
_KINDS: Dict[str, Tuple[str, str]] = {
    "door": ("voltool.agent.door.keeping", "run"),
    "serve": ("voltool.agent.fetching.serving", "run"),
    "home": ("voltool.agent.lazymove.homing", "run"),
    "lazy": ("voltool.agent.lazy.running", "run"),
}
_EXIT_FAILED = 1


class Life:
    """What a kind may do with the process it is in. ``ending`` is set when it shall end (SIGTERM, SIGINT)."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.ending = threading.Event()
        self._said = this_process()

    def tell(self, **facts: str) -> None:
        """It is ready and does its work; ``facts`` for those who ask. Can be said again. Not from two threads at once."""
        self._said = dataclasses.replace(self._said, ready=True, facts=facts)
        self.daemon.tell(self._said)

    def begin(self) -> None:
        """It lives, and is not ready."""
        self.daemon.tell(self._said)

    def give_up(self, fault: str) -> None:
        """It cannot do its work."""
        self.daemon.tell(dataclasses.replace(self._said, fault=fault))


def run(arguments: Sequence[str]) -> int:
    """Be the daemon; the exit status: 0 unless it should be started again."""
    kind, identity = arguments
    settle_process()
    syslog.openlog("voltool", syslog.LOG_PID, syslog.LOG_DAEMON)
    host = find_host_state(os.environ, os.geteuid())
    daemon = Daemon(host.directory, kind, identity)
    if daemon.wishes() is None:
        return 0  # it was taken back meanwhile
    try:
        with daemon.hold():
            return _live(daemon, host)
    except BusyError:
        return 0  # it runs already


def _live(daemon: Daemon, host: HostState) -> int:
    life = Life(daemon)

    def end(_number: int, _frame: Optional[FrameType]) -> None:
        # Not here: the thread that is interrupted may just hold the event's lock.
        threading.Thread(target=life.ending.set, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    life.begin()
    syslog.syslog(syslog.LOG_INFO, f"{daemon.unit} begins")
    try:
        _kind(daemon.kind)(daemon.identity, host, life)
    except VoltoolError as error:
        return _failed(life, str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, the host's log must have it
        for line in traceback.format_exc().splitlines():
            syslog.syslog(syslog.LOG_ERR, line)
        return _failed(life, f"{type(error).__name__}: {error}")
    syslog.syslog(syslog.LOG_INFO, f"{daemon.unit} ends")
    return 0


def _failed(life: Life, why: str) -> int:
    syslog.syslog(syslog.LOG_ERR, f"{life.daemon.unit} gives up: {why}")
    if life.daemon.wishes() is not None:
        life.give_up(why)
    return _EXIT_FAILED


def _kind(kind: str) -> Callable[[str, HostState, Life], None]:
    module, function = _KINDS[kind]
    found: Callable[[str, HostState, Life], None] = getattr(importlib.import_module(module), function)
    return found
