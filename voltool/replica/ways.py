"""The ways to hosts of one job in a thread of its own: what it says is said of its replica, and it can be ended from outside."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator

from voltool.errors import VoltoolError
from voltool.events import Event, Notice, Reporter
from voltool.replica.ports import Catalog, Hosts
from voltool.replica.target import Target
from voltool.wire.conversation import IntroducedConversation


class Ways:
    """Is `Hosts` for one job. ``end`` is called from other threads."""

    def __init__(self, hosts: Hosts, reporter: Reporter) -> None:
        self._hosts = hosts.apart(reporter)
        self._lock = threading.Lock()
        self._open: list[IntroducedConversation] = []
        #: Why it was ended from outside, if it was.
        self.ended_by: VoltoolError | None = None

    @contextlib.contextmanager
    def connect(self, host: str) -> Iterator[IntroducedConversation]:
        """See `Hosts`."""
        if self.ended_by is not None:
            raise self.ended_by
        with self._hosts.connect(host) as session:
            with self._lock:
                if self.ended_by is not None:
                    raise self.ended_by
                self._open.append(session)
            try:
                yield session
            finally:
                with self._lock:
                    self._open.remove(session)

    def apart(self, reporter: Reporter) -> Hosts:
        """See `Hosts`; cannot be ended."""
        return self._hosts.apart(reporter)

    def end(self, error: VoltoolError) -> None:
        """Whoever is in a conversation, or begins one, gets ``error``. Idempotent."""
        with self._lock:
            self.ended_by = self.ended_by or error
            for session in self._open:
                session.give_up(self.ended_by)


class About:
    """A Reporter that says of which replica an event is. ``quietly``: only what a person must
    know is passed on, and that once."""

    def __init__(self, reporter: Reporter, target: Target, *, quietly: bool = False) -> None:
        self._reporter = reporter
        self._subject = target.subject
        self._volume = target.volume.name
        self._quietly = quietly
        self._said: set[str] = set()

    def report(self, event: Event) -> None:
        """See `Reporter`."""
        if isinstance(event, Notice):
            if self._quietly and (event.severity == "info" or event.message in self._said):
                return
            self._said.add(event.message)
            message = event.message.removeprefix(f"{self._volume}: ")
            self._reporter.report(Notice(event.severity, f"{self._subject}: {message}"))
        elif not self._quietly:
            self._reporter.report(dataclasses.replace(event, subject=self._subject))


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """A `World` of its own for a job in a thread."""

    hosts: Hosts
    catalog: Catalog
    reporter: Reporter
    caller: str
