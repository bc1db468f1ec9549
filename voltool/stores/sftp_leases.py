"""Who is alive, where there are no locks: a file that its owner touches again and again.

SFTP has no flock. Each user of a store that writes or pins has a file ``.leases/<token>`` there, into which it writes a byte
every `BEAT` seconds; what it made carries the token in its name. A token whose file is missing, or was not touched for `STALE`
seconds, is dead, and so is what carries it. Both times are the server's: the clocks of two clients need not agree.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator

from voltool.errors import VoltoolError
from voltool.stores.sftp_client import Entry, SftpClient
from voltool.stores.sftp_link import SftpLink
from voltool.stores.sftp_wire import SftpStatus

#: Seconds between two touches, and without one until the owner counts as dead: long enough for a broken connection to be
#: noticed (its silence is borne for two minutes) and made anew.
BEAT = 60.0
STALE = 600

_LEASES = b"/.leases/"
_TOKEN_LENGTH = 16


class Leases:
    """Our lease on the store at ``root``, and what can be said of those of others. Thread-safe."""

    def __init__(self, link: SftpLink, root: bytes) -> None:
        self._link = link
        self._root = root
        self.token = secrets.token_hex(_TOKEN_LENGTH // 2).encode()
        self._lock = threading.Lock()
        self._holders = 0
        self._stop = threading.Event()

    def name_of_ours(self, digest: bytes) -> bytes:
        """A new name that says whose it is; see `parts_of`."""
        return b"%s-%s-%s" % (self.token, secrets.token_hex(6).encode(), digest)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Be alive while the context lasts. Raises SftpStatus where nothing can be written, UnreachableError."""
        with self._lock:
            if not self._holders:
                self._link.run(self._touch)
                self._stop = threading.Event()
                threading.Thread(target=self._beat, args=(self._stop,), name="voltool-lease", daemon=True).start()
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if not self._holders:
                    self._stop.set()
                    with contextlib.suppress(SftpStatus, VoltoolError):  # then it ends by itself
                        self._link.run(lambda client: client.remove_file(self._path(self.token)))

    def now(self) -> int:
        """The server's clock, in seconds; the caller holds the lease."""
        return self._link.run(self._touch)

    def living(self) -> frozenset[bytes]:
        """The tokens of who is alive; files of the dead are removed. The caller holds the lease."""
        now = self.now()
        alive = set()
        for _path, entries in self._link.run(lambda client: client.directories([self._root + _LEASES[:-1]])):
            for entry in entries:
                if now - entry.mtime < STALE:
                    alive.add(entry.name)
                else:
                    self._remove(entry.name)
        return frozenset(alive)

    def _remove(self, token: bytes) -> None:
        with contextlib.suppress(SftpStatus):
            self._link.run(lambda client: client.remove_file(self._path(token)))

    def _touch(self, client: SftpClient) -> int:
        path = self._path(self.token)
        client.make_directory(self._root + _LEASES[:-1])
        handle = client.create_anew(path)
        with contextlib.suppress(SftpStatus):  # a full disk: on Linux cutting it off has touched it as well
            client.write_now(handle, b"x")
        client.close_handle(handle)
        entry = client.entry(path)
        return entry.mtime if entry is not None else 0

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT):
            with contextlib.suppress(SftpStatus, VoltoolError):  # the next one may come through
                self._link.run(lambda client: self._touch(client) if not stop.is_set() else 0)

    def _path(self, token: bytes) -> bytes:
        return self._root + _LEASES + token


def parts_of(entry: Entry) -> tuple[bytes, bytes, bytes]:
    """Token, random part and digest of a name that `Leases.name_of_ours` made; a foreign name has no token that is alive."""
    token, _, rest = entry.name.partition(b"-")
    random, _, digest = rest.partition(b"-")
    return token, random, digest
