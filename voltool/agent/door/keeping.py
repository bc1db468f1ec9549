"""The long-running process that waits at the door of a lazy replica: ``door PURPOSE``. Ships to servers.

It lets in who has one of the certificates in its record, keeps one connection with each, and gets connections for the replica's
processes: a ticket goes to the guest, and who comes with it is handed over, unread. It keeps nothing, and nothing of the files
passes through it. A stranger gets what he gets at any `Listener`. It ends when it is told, or when the replica's key pair is
gone: then the replica is full, or there is none any more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import secrets
import select
import socket
import ssl
import syslog
import threading
import time
from typing import Dict, Iterator, List, Optional

from voltool.agent.daemon_life import Life
from voltool.agent.door.book import DoorBook, is_wanted
from voltool.agent.door.ringing import MOST, name_of, short_path
from voltool.agent.fetching.keys import kept_identity
from voltool.agent.host import HostState
from voltool.agent.path.link import Link
from voltool.agent.path.listening import Listener
from voltool.errors import HostError, PathBrokenError, VoltoolError
from voltool.wire.doors import MAGIC, PREAMBLE_SIZE, TICKET_SIZE, ComeIn, decode_preamble

#: How often is looked whether anybody still needs it, seconds.
_LOOK = 0.5
#: A guest who says nothing for so long is gone, seconds: the kernel asks him.
SILENCE = 30.0
#: Who asks for a guest that is not there waits so long for it to come, seconds.
_COMING = 1.0
_QUESTION = 5.0
_MOST_GUESTS = 64


def run(identity: str, host: HostState, life: Life) -> None:
    """See `agent.daemon_life`."""
    book = DoorBook(host.directory, identity)
    if not is_wanted(host, identity):
        book.daemon.retire()
        return
    keeper = Keeper()
    listener = _listen(book, host, identity, keeper)
    try:
        with _socket(host.directory, identity) as asked:
            threading.Thread(target=_let_in, args=(listener, keeper), name="voltool-door", daemon=True).start()
            threading.Thread(target=_be_asked, args=(asked, keeper), name="voltool-asked", daemon=True).start()
            life.tell(port=str(listener.port))
            while not life.ending.wait(_LOOK):
                if not is_wanted(host, identity):
                    book.daemon.retire()
                    return
    finally:
        listener.close()
        keeper.close()


def _listen(book: DoorBook, host: HostState, purpose: str, keeper: Keeper) -> Listener:
    """At the port of last time, if that can be: the guests come back there by themselves. Another one is written down."""
    wishes = book.wishes()
    assert wishes is not None
    identity = kept_identity(host, purpose)

    def listen(ports: str) -> Listener:
        return Listener(identity, wishes.peers, ports, links=0, silence=SILENCE, claim=keeper.claim)

    if wishes.port:
        with contextlib.suppress(HostError):
            return listen(f"{wishes.port}-{wishes.port}")
    listener = listen(wishes.ports)
    if wishes.port:
        syslog.syslog(
            syslog.LOG_WARNING, f"port {wishes.port} is taken: hosts that serve files come to {listener.port}"
        )
    book.save(dataclasses.replace(wishes, port=listener.port))
    return listener


class Keeper:
    """Who is there, and which tickets have been given out."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._guests: Dict[str, _Guest] = {}
        self._tickets: Dict[bytes, queue.SimpleQueue[socket.socket]] = {}

    def welcome(self, link: Link) -> None:
        """A guest has come; who was there with the same certificate is gone, or will be."""
        guest = _Guest(link)
        with self._changed:
            before = self._guests.get(guest.name)
            if before is None and len(self._guests) >= _MOST_GUESTS:
                link.close()
                return
            self._guests[guest.name] = guest
            self._changed.notify_all()
        if before is not None:
            before.link.close()
        threading.Thread(target=self._watch, args=(guest,), name="voltool-guest", daemon=True).start()

    def guests(self, timeout: float) -> List[bytes]:
        """The certificates of who is there; ``timeout``: how long to wait for the first."""
        with self._changed:
            self._changed.wait_for(lambda: self._guests, timeout)
            return [guest.link.peer for guest in self._guests.values()]

    def fetch(self, name: str, timeout: float) -> socket.socket:
        """A new connection with a guest, TLS not begun. PathBrokenError."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._changed.wait_for(lambda: name in self._guests, min(timeout, _COMING))
            guest = self._guests.get(name)
        if guest is None:
            raise PathBrokenError("it has not come", why="it is to connect to this host")
        ticket = secrets.token_bytes(TICKET_SIZE)
        coming: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        with self._changed:
            self._tickets[ticket] = coming
        try:
            guest.call(ticket)
            return coming.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise PathBrokenError("it was asked to connect once more, and did not") from None
        finally:
            with self._changed:
                del self._tickets[ticket]
            with contextlib.suppress(queue.Empty):
                coming.get_nowait().close()  # too late, or twice

    def claim(self, connection: ssl.SSLSocket, deadline: float) -> bool:
        """See `Listener`: who has a ticket is handed over, once."""
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        # As of a plain socket: nothing of TLS has begun.
        if socket.socket.recv(connection, 1, socket.MSG_PEEK) != MAGIC[:1]:
            return False
        data = b""
        while len(data) < PREAMBLE_SIZE:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            part = socket.socket.recv(connection, PREAMBLE_SIZE - len(data))
            if not part:
                break
            data += part
        ticket = decode_preamble(data)
        with self._changed:
            coming = self._tickets.get(ticket) if ticket is not None else None
            if coming is None or not coming.empty():
                raise PathBrokenError("nobody waits for who came")
            coming.put(socket.socket(fileno=connection.detach()))
        return True

    def close(self) -> None:
        """Nobody is there any more."""
        with self._changed:
            guests = list(self._guests.values())
        for guest in guests:
            guest.link.close()

    def _watch(self, guest: _Guest) -> None:
        guest.await_end()
        guest.link.close()
        with self._changed:
            if self._guests.get(guest.name) is guest:
                del self._guests[guest.name]


class _Guest:
    """A host that serves, and the connection with it that stays."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.name = name_of(link.peer)
        self._calling = threading.Lock()

    def call(self, ticket: bytes) -> None:
        """Ask it to connect. PathBrokenError."""
        if not self._calling.acquire(timeout=_COMING):
            raise PathBrokenError("it does not listen", why="it has not taken what it was asked before")
        try:
            self.link.send(ComeIn(ticket))
        finally:
            self._calling.release()

    def await_end(self) -> None:
        """It never says anything: whatever comes is its end."""
        with contextlib.suppress(OSError, ValueError):
            poll = select.poll()
            poll.register(self.link.fileno(), select.POLLIN | select.POLLRDHUP)
            while not self.link.closed and not poll.poll(1000):
                pass


def _let_in(listener: Listener, keeper: Keeper) -> None:
    """Until the listener is closed."""
    with contextlib.suppress(PathBrokenError):
        while True:
            keeper.welcome(listener.accept())


# ---------------------------------------------------------------------------------------------------- who is asked how


@contextlib.contextmanager
def _socket(directory: bytes, purpose: str) -> Iterator[socket.socket]:
    """The daemon's lock is held, so what lies there is a dead one's."""
    with socket.socket(socket.AF_UNIX) as asked, short_path(directory, purpose) as path:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        asked.bind(path)
        asked.listen(64)
        yield asked


def _be_asked(asked: socket.socket, keeper: Keeper) -> None:
    """Until the process ends."""
    while True:
        try:
            asking, _address = asked.accept()
        except OSError:
            time.sleep(0.05)  # out of descriptors, or at the end
            continue
        threading.Thread(target=_answer, args=(asking, keeper), name="voltool-answer", daemon=True).start()


def _answer(asking: socket.socket, keeper: Keeper) -> None:
    with asking, contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        asking.settimeout(_QUESTION)
        data = b""
        while not data.endswith(b"\n") and len(data) < MOST:
            part = asking.recv(MOST)
            if not part:
                return
            data += part
        question = json.loads(data)
        if "who" in question:
            there = [each.hex() for each in keeper.guests(float(question["who"]))]
            asking.sendall(json.dumps({"guests": there}).encode() + b"\n")
            return
        _hand_over(asking, keeper, str(question["take"]), float(question["timeout"]))


def _hand_over(asking: socket.socket, keeper: Keeper, name: str, timeout: float) -> None:
    came: Optional[socket.socket] = None
    why = ""
    try:
        came = keeper.fetch(name, timeout)
    except VoltoolError as error:
        why = f"{error.what}: {error.why}" if error.why else error.what
    answer = json.dumps({"why": why}).encode() + b"\n"
    if came is None:
        asking.sendall(answer)
        return
    with came:
        socket.send_fds(asking, [answer], [came.fileno()])
