"""A host that serves files to a lazy replica which cannot connect to it goes to the replica's door. Ships to servers.

It comes back whenever the connection broke, with pauses that grow. The door has its port for good; where that is taken after a
reboot it has another one of its range, which is looked for: only the door has the key of the certificate.
"""

from __future__ import annotations

import itertools
import threading
import time
from typing import Callable, Iterator, Tuple

from voltool.agent.path.identity import Identity
from voltool.agent.path.joining import join
from voltool.agent.path.link import Link
from voltool.agent.path.listening import parse_ports
from voltool.errors import UsageError, VoltoolError
from voltool.wire.doors import ComeIn, Door, encode_preamble

#: Pauses between attempts to come, seconds: doubled from the first to the last. A command line waits longer than that for who is
#: to come (`remote.doors`).
_SOON, _LATE = 0.2, 4.0
#: How long all addresses of the door are tried, seconds; at other ports of its range shorter.
_PATIENCE, _ELSEWHERE = 5.0, 1.0
#: A range with more ports is not searched; so many of it at a time where the host says nothing.
_MOST_PORTS = 512
_A_FEW = 4
#: Pauses between two searches, seconds.
_SEARCH_SOON, _SEARCH_LATE = 1.0, 60.0
#: How long it may take to come in with a ticket, seconds: nobody waits longer for it.
_TICKET = 6.0
#: See `agent.door.keeping.SILENCE`.
_SILENCE = 30.0


class Visitor:
    """Goes to ``door``, and comes back to it until `end`; each connection that is wanted is given to ``begin``. ``fault``: why it
    is not there now (``is_there``); empty too before it has tried."""

    def __init__(self, identity: Identity, peer: bytes, door: Door, begin: Callable[[Link], None]) -> None:
        self._identity = identity
        self._peer = peer
        self._door = door
        self._begin = begin
        self._ended = threading.Event()
        self._port = door.port
        self._others = self._elsewhere()
        self._search_at, self._search_pause = 0.0, _SEARCH_SOON
        self._found: Tuple[str, ...] = ()
        self.fault = ""
        self.is_there = False

    def start(self) -> None:
        """Go; returns at once."""
        threading.Thread(target=self._run, name="voltool-visitor", daemon=True).start()

    def end(self) -> None:
        """Do not come back."""
        self._ended.set()

    def _run(self) -> None:
        pause = _SOON
        while not self._ended.is_set():
            try:
                link = self._come()
            except VoltoolError as error:
                self._say(error.why or error.what)
                self._ended.wait(pause)
                pause = min(_LATE, pause * 2)
                continue
            # With a ticket nowhere else: what listens at other addresses need not see one.
            self._found = (link.address(),)
            self._say("")
            self._search_at, self._search_pause = 0.0, _SEARCH_SOON
            came = time.monotonic()
            self._stay(link)
            if time.monotonic() - came > _LATE:
                pause = _SOON
            self._ended.wait(pause)
            pause = min(_LATE, pause * 2)

    def _say(self, fault: str) -> None:
        self.fault = fault
        self.is_there = not fault

    def _come(self) -> Link:
        """VoltoolError, of the port where it should be."""
        began = time.monotonic()
        try:
            return self._join(self._port, _PATIENCE)
        except VoltoolError:
            for port in itertools.takewhile(bool, itertools.islice(self._others, self._how_many(began))):
                try:
                    link = self._join(port, _ELSEWHERE)
                except VoltoolError:
                    continue
                self._port = port
                return link
            raise

    def _how_many(self, began: float) -> int:
        """At how many other ports to look now. All, of a host that is quick to refuse, though not each time; few of one that says
        nothing, for each takes long."""
        now = time.monotonic()
        if now - began > _PATIENCE / 2:
            return _A_FEW
        if now < self._search_at:
            return 0
        self._search_pause = min(_SEARCH_LATE, self._search_pause * 2)
        self._search_at = now + self._search_pause
        return _MOST_PORTS

    def _elsewhere(self) -> Iterator[int]:
        """The other ports of the range; then 0, and from the beginning."""
        try:
            first, last = parse_ports(self._door.ports)
        except UsageError:
            return
        while 0 < last - first < _MOST_PORTS:
            for port in range(first, last + 1):
                if self._ended.is_set():
                    return
                if port != self._port:
                    yield port
            yield 0

    def _join(self, port: int, timeout: float, preamble: bytes = b"") -> Link:
        addresses = self._found if preamble else self._door.addresses
        return join(self._identity, self._peer, addresses, port, b"", timeout, silence=_SILENCE, preamble=preamble)

    def _stay(self, link: Link) -> None:
        """Until it breaks: do what the door wants."""
        try:
            while not self._ended.is_set():
                wanted = link.receive()
                if not isinstance(wanted, ComeIn):
                    break
                threading.Thread(
                    target=self._come_in, args=(wanted.ticket,), name="voltool-come-in", daemon=True
                ).start()
            self._say("the door says what it should not")
        except VoltoolError as error:
            self._say(error.why or error.what)
        finally:
            link.close()

    def _come_in(self, ticket: bytes) -> None:
        try:
            link = self._join(self._port, _TICKET, encode_preamble(ticket))
        except VoltoolError:
            return  # who waits for it asks again
        self._begin(link)
