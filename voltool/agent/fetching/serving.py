"""The long-running process that serves the files of one tree to one lazy replica: ``serve ID``. Ships to servers.

It reads what its record says (`served`), waits for the one peer whose certificate is in it, and answers. It needs no
manifest and keeps nothing: whoever asks knows what is right. It ends when it is told, when its tree is gone (a clone that was
given up, a replica that was removed), or when nobody has come for `_UNUSED`; then its record and key go too.
"""

from __future__ import annotations

import contextlib
import os
import syslog
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Dict, Iterator, Optional

from voltool.agent.daemon_life import Life
from voltool.agent.door.visiting import Visitor
from voltool.agent.fetching.answering import Answerer
from voltool.agent.fetching.asking import FetchLink
from voltool.agent.fetching.served import ServeBook, open_tree
from voltool.agent.host import HostState
from voltool.agent.path.listening import Listener
from voltool.errors import HostError, NotFoundError, PathBrokenError, VoltoolError
from voltool.wire.fetching import WANTS, FetchDecoder, FetchFrame
from voltool.wire.messages import Done

#: Without any link for so long the process ends, and its key goes, seconds. `voltool replica sync` starts it again.
_UNUSED = 14 * 86_400
#: How often is looked whether the tree is still there, seconds.
_LOOK = 10.0
_TICK = 0.5
#: A peer has some connections that fill, and some that read; more are none of ours.
_MOST_LINKS = 32


def run(identity: str, host: HostState, life: Life) -> None:
    """See `agent.daemon_life`."""
    book = ServeBook(host, identity)
    wishes = book.wishes()
    try:
        os.close(open_tree(host, wishes))
    except NotFoundError as error:
        syslog.syslog(syslog.LOG_NOTICE, f"nothing is served to {identity} any more: {error}")
        book.retire()
        return
    listener = _listen(book)
    try:
        server = FileServer(lambda: open_tree(host, wishes), lambda message: book.hear(host, message))
        visitor = None
        if wishes.door is not None:
            visitor = Visitor(book.identity(), wishes.peer, wishes.door, server.begin)
            visitor.start()
        if _is_over(listener, server, life, visitor):
            book.retire()
    finally:
        listener.close()


def _listen(book: ServeBook) -> Listener:
    """At the port of last time, if that can be: the peer comes back there by itself."""
    wishes, identity = book.wishes(), book.identity()
    if wishes.port:
        with contextlib.suppress(HostError):
            return Listener(identity, [wishes.peer], f"{wishes.port}-{wishes.port}", links=0)
    return Listener(identity, [wishes.peer], wishes.ports, links=0)


def _is_over(listener: Listener, server: FileServer, life: Life, visitor: Optional[Visitor]) -> bool:
    """Serve until that is over for ever (True: the tree is gone, or nobody comes), or the process shall end (False). What there
    is to be said of it is said meanwhile."""
    said: Dict[str, str] = {}
    threading.Thread(target=_accept, args=(listener, server), name="voltool-accept", daemon=True).start()
    used = time.monotonic()
    looked = used
    while True:
        facts = {"port": str(listener.port), "door": visitor.fault if visitor is not None else ""}
        if facts != said:
            said = facts
            life.tell(**facts)
        seeking = visitor is not None and not visitor.is_there
        if life.ending.wait(_TICK / 5 if seeking else _TICK) or server.released.is_set():
            return server.released.is_set()
        if time.monotonic() - looked < _LOOK:
            continue
        looked = time.monotonic()
        if server.links or (visitor is not None and visitor.is_there):
            used = time.monotonic()
        if time.monotonic() - used > _UNUSED or not server.has_tree():
            return True


def _accept(listener: Listener, server: FileServer) -> None:
    """Until the listener is closed."""
    with contextlib.suppress(PathBrokenError):
        while True:
            server.begin(listener.accept())


class FileServer:
    """Answers over links, each in a thread of its own. ``open_root`` gives a descriptor of the tree's root, NotFoundError
    where it is not there any more. ``hear`` is given what the peer says besides; where it says yes, nobody will fetch any more
    (``released``)."""

    def __init__(self, open_root: Callable[[], int], hear: Callable[[object], bool] = lambda _message: False) -> None:
        self._open_root = open_root
        self._hear = hear
        self.released = threading.Event()
        self._lock = threading.Lock()
        self.links = 0

    def has_tree(self) -> bool:
        """Whether there is still something to serve; what cannot be told for the moment counts as there."""
        try:
            os.close(self._open_root())
        except NotFoundError:
            return False
        except (VoltoolError, OSError):
            return True
        return True

    def begin(self, link: FetchLink) -> None:
        """Serve that link until it ends; returns at once."""
        with self._lock:
            if self.links >= _MOST_LINKS:
                link.close()
                return
            self.links += 1
        threading.Thread(target=self._serve, args=(link,), name="voltool-serve", daemon=True).start()

    def _serve(self, link: FetchLink) -> None:
        try:
            self.serve(link)
        except PathBrokenError:
            pass  # as every link ends
        except (VoltoolError, OSError) as error:
            syslog.syslog(syslog.LOG_WARNING, f"a connection that fetches files was dropped: {error}")
        finally:
            link.close()
            with self._lock:
                self.links -= 1

    def serve(self, link: FetchLink) -> None:
        """Answer until it breaks. Raises what broke it."""
        tree = _Tree(self._open_root)
        decoder = FetchDecoder(WANTS)
        try:
            with ThreadPoolExecutor(1, "voltool-read") as reader:
                while True:
                    received = link.receive()
                    if not isinstance(received, bytes):
                        if self._hear(received):
                            link.send(Done())
                            self.released.set()
                        return
                    for frame in decoder.feed(received):
                        for answer in _answers(tree.answerer(), frame, reader):
                            link.send_data(answer)
        finally:
            tree.close()


class _Tree:
    """The tree as one link sees it: opened once, and again when another one stands there (a replica that was synced)."""

    def __init__(self, open_root: Callable[[], int]) -> None:
        self._open_root = open_root
        self._root = open_root()
        self._answerer = Answerer(self._root)
        self._looked = time.monotonic()

    def answerer(self) -> Answerer:
        """For the next frame."""
        if time.monotonic() - self._looked > _LOOK:
            self._looked = time.monotonic()
            root = self._open_root()
            if os.path.samestat(os.fstat(root), os.fstat(self._root)):
                os.close(root)
            else:
                self.close()
                self._root, self._answerer = root, Answerer(root)
        return self._answerer

    def close(self) -> None:
        """Let go of it."""
        self._answerer.close()
        os.close(self._root)


def _answers(answerer: Answerer, frame: FetchFrame, reader: ThreadPoolExecutor) -> Iterator[bytes]:
    """The frames that answer one; of several wants the next is read and compressed while one is sent."""
    answers = answerer.answer(frame)
    if frame.items == 1:
        yield from answers
        return
    upcoming = reader.submit(next, answers, None)
    while True:
        answer = upcoming.result()
        if answer is None:
            return
        upcoming = reader.submit(next, answers, None)
        yield answer
