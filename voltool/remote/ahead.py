"""Connections that are begun before they are needed, side by side, each in a thread of its own: to reach two hosts takes as long
as to reach one, and the rest of the command starts meanwhile.

What goes wrong with one is told to whoever asks for it, in his thread, and to nobody else.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

from voltool.events import Reporter
from voltool.wire.conversation import IntroducedConversation


class Hosts(Protocol):
    """As `backup.ports.Hosts`."""

    def connect(self, host: str) -> AbstractContextManager[IntroducedConversation]:
        """See there."""

    def apart(self, reporter: Reporter) -> Hosts:
        """See there."""


class Ahead:
    """Is the ``hosts`` that it is given, but for what was `begin`: the next `connect` to that host gets it. What nobody asked for
    is closed at the end."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._begun: dict[str, _Begun] = {}

    def begin(self, host: str) -> None:
        """It will be connected to soon. Does nothing where that has been said."""
        if host not in self._begun:
            self._begun[host] = _Begun(self._hosts, host)

    @contextlib.contextmanager
    def connect(self, host: str) -> Iterator[IntroducedConversation]:
        """See `backup.ports.Hosts`."""
        begun = self._begun.pop(host, None)
        if begun is None:
            with self._hosts.connect(host) as session:
                yield session
            return
        try:
            yield begun.session()
        finally:
            begun.close()

    @contextlib.contextmanager
    def borrow(self, host: str) -> Iterator[IntroducedConversation]:
        """As `connect`; where nothing fails, the next one gets the same conversation, which must be free then."""
        self.begin(host)
        begun = self._begun.pop(host)
        try:
            yield begun.session()
        except BaseException:
            begun.close()
            raise
        self._begun[host] = begun

    def apart(self, reporter: Reporter) -> Hosts:
        """See `backup.ports.Hosts`: without what was begun."""
        return self._hosts.apart(reporter)

    def close(self) -> None:
        """Idempotent. What is still being connected ends as soon as it is, without anybody waiting for that."""
        while self._begun:
            _host, begun = self._begun.popitem()
            begun.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Begun:
    def __init__(self, hosts: Hosts, host: str) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._context: AbstractContextManager[IntroducedConversation] = hosts.connect(host)
        self._session: IntroducedConversation | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"voltool-connect-{host}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            session = self._context.__enter__()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to whoever asks for the connection
            self._error = error
            return
        with self._lock:
            self._session = session
            unwanted = self._closed
        if unwanted:
            self._context.__exit__(None, None, None)

    def session(self) -> IntroducedConversation:
        """When it is there. Raises what connecting failed with."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._session is not None
        return self._session

    def close(self) -> None:
        with self._lock:
            wanted = self._session is not None and not self._closed
            self._closed = True
        if wanted:
            self._context.__exit__(None, None, None)
