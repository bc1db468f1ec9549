"""The guardian of a lock: a process of its own that undoes the lock when the agent is gone, silent, or the time is over.

Agent and guardian hold the ends of one socket pair, so each sees the other die. The guardian is in a session of its own
(and a systemd scope, where systemd runs), holds no file of the agent's, and asks nobody. Part of what is shipped.
Sources: setsid(2), unix(7); StartTransientUnit in org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import syslog
import time
from types import FrameType
from typing import Iterator, Optional, Protocol

from voltool.errors import AgentError, RefusedError, VoltoolError
from voltool.frozen import dataclass
from voltool.showing import shown
from voltool.volumes.lock.book import LOCKED, LockBook, LockRecord
from voltool.volumes.lock.hold import break_lease, end_lock, is_in_force, leave_read_only

#: An agent that says nothing for so long has lost its command line, seconds.
SILENCE = 60.0
_READY = b"r"
_BEAT = b"b"
_KEEP = b"k"
_TICK = 0.5
_ATTEMPTS = 60
_SYSTEMD = "/run/systemd/system"


class _Terminated(BaseException):
    """SIGTERM: the machine goes down, or somebody wants the lock to end."""


@dataclass(frozen=True)
class LockLease:
    """The agent's end of a lease: while it holds, the lock ``token`` of ``book`` stands and a guardian watches over it."""

    book: LockBook
    token: str
    connection: socket.socket

    def beat(self) -> None:
        """Say that the command line is there. Does nothing when the guardian is gone (`assert_held` tells)."""
        with contextlib.suppress(OSError):
            self.connection.send(_BEAT)

    def guardian_lives(self) -> bool:
        """Whether the guardian is still there."""
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def assert_held(self) -> LockRecord:
        """The lock's record; RefusedError when the lease is broken, the mounts are gone, or the guardian is."""
        record = self.book.read()
        why = ""
        if record is None or record.token != self.token:
            why = "it was undone"
        elif record.phase != LOCKED:
            why = "the lease was broken: the agent was silent for too long or the time was over"
        elif not is_in_force(record):
            why = "its mounts are gone"
        elif not self.guardian_lives():
            why = "its guardian has ended, so nobody would undo it"
        if why or record is None:
            raise RefusedError(
                "the lock is not held any more", why=why, remedy="begin again: nothing was switched over"
            )
        return record

    @contextlib.contextmanager
    def hold(self) -> Iterator[LockRecord]:
        """For a commit: inside, the lease cannot be broken, and `exchange_held` may be called. RefusedError where it is not
        held any more."""
        with self.book.step("commit"):
            yield self.assert_held()

    def keep(self) -> None:
        """From here on the guardian keeps the lock alone until its time is over or it is unlocked; AgentError."""
        try:
            self.connection.send(_KEEP)
            answer = self.connection.recv(1)
        except OSError as error:
            raise AgentError("the lock's guardian has ended", why=str(error)) from None
        if answer != _KEEP:
            raise AgentError("the lock's guardian has ended")

    def close(self) -> None:
        """Let the guardian go; unless it keeps the lock it undoes what is left of it. Idempotent."""
        self.connection.close()


class Ward(Protocol):
    """Whoever the lock was made for, as the guardian sees it when the lease is over."""

    def is_given_up(self) -> bool:
        """The tree lives elsewhere by now: leave it locked, run no hook. Called under `LockBook.step`."""

    def recover(self) -> None:
        """The lock's mounts are undone: put back what was on its way. Idempotent."""


def start_guardian(book: LockBook, token: str, silence: float = SILENCE, ward: Optional[Ward] = None) -> LockLease:
    """Start the guardian of the lock ``token``, before that lock is made. ``silence`` in seconds.

    AgentError where it does not start.
    """
    ours, theirs = socket.socketpair()
    first = os.fork()
    if first == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                _Guardian(book, token, theirs, silence, ward).run()
        finally:
            os._exit(0)
    theirs.close()
    os.waitpid(first, 0)
    if ours.recv(1) != _READY:
        ours.close()
        raise AgentError("the lock's guardian does not start")
    return LockLease(book, token, ours)


class _Guardian:
    """The other process."""

    def __init__(
        self, book: LockBook, token: str, connection: socket.socket, silence: float, ward: Optional[Ward]
    ) -> None:
        self._book = book
        self._token = token
        self._connection = connection
        self._silence = silence
        self._kept = False
        self._ward = ward

    def run(self) -> None:
        """Watch, then end the lock where it still stands. Never returns an error to anybody: syslog has it."""
        _let_go_of_everything_but(self._connection.fileno())
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _terminate)
        _enter_own_scope()
        self._connection.send(_READY)
        try:
            why = self._watch()
        except (_Terminated, OSError) as error:
            why = f"the guardian was ended ({type(error).__name__})"
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if why:
            self._end(why)

    def _watch(self) -> str:
        """Until the lease is over: why. Empty where the lock was undone by somebody else."""
        heard = time.monotonic()
        while True:
            if self._kept:
                time.sleep(_TICK)
            elif select.select([self._connection], [], [], _TICK)[0]:
                said = self._connection.recv(4096)
                if not said:
                    return "the agent has ended"
                heard = time.monotonic()
                if _KEEP in said:
                    self._kept = True
                    self._connection.send(_KEEP)
                    self._connection.close()
            elif time.monotonic() - heard > self._silence:
                return "the agent was silent for too long"
            record = self._book.read()
            if record is not None and record.token == self._token:
                if time.time() >= record.until:
                    return "its time is over"
            elif self._kept:
                return ""

    def _end(self, why: str) -> None:
        for _attempt in range(_ATTEMPTS):
            if self._try_to_end(why):
                return
            time.sleep(1)

    def _try_to_end(self, why: str) -> bool:
        try:
            if self._ward is not None and self._leave_given_up(self._ward):
                return True
            record = break_lease(self._book, self._token)
            if self._ward is not None:
                self._ward.recover()
            if record is not None:
                syslog.syslog(syslog.LOG_NOTICE, f"{record.name}: {shown(record.path)} is unlocked: {why}")
                end_lock(self._book, self._token)
        except (VoltoolError, OSError) as error:
            syslog.syslog(syslog.LOG_ERR, f"the guardian of a lock failed: {error}")
            return False
        return True

    def _leave_given_up(self, ward: Ward) -> bool:
        with self._book.step("guardian"):
            given_up = ward.is_given_up()
            if given_up:
                leave_read_only(self._book, self._token)
        return given_up


def _terminate(_number: int, _frame: Optional[FrameType]) -> None:
    raise _Terminated


def _let_go_of_everything_but(kept: int) -> None:
    """Hold none of the agent's files: its connection must end with it, and no file system be busy because of us."""
    os.chdir("/")
    nothing = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != kept:
            with contextlib.suppress(OSError):
                os.close(int(name))


def _enter_own_scope() -> None:
    """Leave the login's scope, which systemd-logind may end with the login. Where that fails, the session is all we have."""
    if not os.path.isdir(_SYSTEMD) or shutil.which("busctl") is None:
        return
    manager = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"]
    pid = str(os.getpid())
    unit = ["ssa(sv)a(sa(sv))", f"voltool-guardian-{pid}.scope", "fail", "1", "PIDs", "au", "1", pid, "0"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            ["busctl", "call", *manager, "StartTransientUnit", *unit],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=10, check=False,
        )  # fmt: skip
