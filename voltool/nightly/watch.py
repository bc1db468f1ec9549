"""One volume's dump as the run sees it from outside: when it last made progress, and a way to end it.

Stands between the job and its hosts and reporter. Beats of a connection are no progress; data, answers and events are.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from voltool.backup.ports import Hosts
from voltool.errors import AgentError, UnreachableError, VoltoolError
from voltool.events import Event, Notice, Reporter
from voltool.wire.conversation import Buffer, IntroducedConversation
from voltool.wire.messages import HelloReply, Message

#: So many warnings of one volume are remembered; how many more there were is said.
_MOST_WARNINGS = 20


class DeadHosts:
    """Hosts that could not be reached in this pass: nobody waits for them a second time. Thread-safe."""

    def __init__(self) -> None:
        self._errors: dict[str, UnreachableError] = {}
        self._doors: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def knocking(self, host: str) -> Iterator[None]:
        """Inside, a connection to ``host`` is made: one at a time, so that of several volumes only the first waits in vain.

        Raises the error of a host that is dead.
        """
        with self._lock:
            door = self._doors.setdefault(host, threading.Lock())
        with door:
            if host in self._errors:
                raise self._errors[host]
            try:
                yield
            except UnreachableError as error:
                self._errors[host] = error
                raise


class Watch:
    """Is `Hosts` and `Reporter` for one dump."""

    def __init__(self, hosts: Hosts, reporter: Reporter, dead: DeadHosts) -> None:
        self._reporter = reporter
        self._hosts = hosts.apart(self)
        self._dead = dead
        self._lock = threading.Lock()
        self._sessions: list[IntroducedConversation] = []
        self._progressed = time.monotonic()
        self._warnings: list[str] = []
        #: Why it was ended from outside, if it was.
        self.ended_by: VoltoolError | None = None

    # ------------------------------------------------------------------------------------------- for the job

    @contextlib.contextmanager
    def connect(self, host: str) -> Iterator[IntroducedConversation]:
        """See `backup.ports.Hosts`."""
        with contextlib.ExitStack() as stack:
            with self._dead.knocking(host):
                session = stack.enter_context(self._hosts.connect(host))
            with self._lock:
                self._sessions.append(session)
                if self.ended_by is not None:
                    raise self.ended_by
            self.touch()
            try:
                yield _Watched(session, self)
            finally:
                with self._lock:
                    self._sessions.remove(session)

    def apart(self, reporter: Reporter) -> Hosts:
        """See `backup.ports.Hosts`; not watched."""
        return self._hosts.apart(reporter)

    def report(self, event: Event) -> None:
        """See `events.Reporter`."""
        self.touch()
        if isinstance(event, Notice) and event.severity != "info":
            self._warnings.append(event.message)
        self._reporter.report(event)

    # ------------------------------------------------------------------------------------------- for the run

    def touch(self) -> None:
        """There is progress."""
        self._progressed = time.monotonic()

    def silent_for(self) -> float:
        """Seconds since the last progress; 0 while there is no conversation that could be ended."""
        with self._lock:
            return time.monotonic() - self._progressed if self._sessions else 0.0

    def end(self, error: VoltoolError) -> None:
        """End the dump, from any thread: its conversations give ``error``. Idempotent."""
        with self._lock:
            self.ended_by = self.ended_by or error
            for session in self._sessions:
                session.give_up(self.ended_by)

    def warnings(self) -> tuple[str, ...]:
        """What the job warned of."""
        found = tuple(self._warnings[:_MOST_WARNINGS])
        more = len(self._warnings) - len(found)
        return (*found, f"and {more} more") if more else found


class _Watched:
    """A conversation whose messages count as progress."""

    def __init__(self, session: IntroducedConversation, watch: Watch) -> None:
        self._session = session
        self._watch = watch
        self.agent: HelloReply = session.agent
        self.host, self.ports, self.silence = session.host, session.ports, session.silence

    def send(self, message: Message) -> None:
        self._session.send(message)
        self._watch.touch()

    def send_data(self, data: Buffer) -> None:
        self._session.send_data(data)
        self._watch.touch()

    def receive(self) -> Any:
        received = self._session.receive()
        self._watch.touch()
        return received

    def address(self) -> str:
        return self._session.address()

    def attend(self, timeout: float) -> bool:
        return self._session.attend(timeout)

    def report(self, event: Event) -> None:
        self._session.report(event)

    def give_up(self, error: VoltoolError) -> None:
        self._session.give_up(error)


def stalled(host: str, seconds: float) -> AgentError:
    """The error of a dump that made no progress."""
    return AgentError(
        "the dump made no progress and was ended",
        where=host,
        why=f"nothing has happened for {seconds:.0f} s",
        remedy="look for a hung disk, mount or hook there; stall_timeout in the configuration says how long to wait",
    )
