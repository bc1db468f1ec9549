"""A store that is a directory on another machine, reached by SFTP. Knows nothing of what is in the files.

Under the store's root: ``.unfinished/`` has files that are being written, ``.pins/`` says which files are in use, ``.leases/``
who is alive (sftp_leases.py). A discarded file is ``.discarded-<name>`` in its directory, as in a local store. A file appears by
link(2), which never replaces, after fsync; both are OpenSSH's extensions. Where a server lacks them the next best is done, and
said.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

from voltool.errors import NotFoundError, RefusedError, UsageError, VoltoolError
from voltool.events import Notice
from voltool.stores.access import StoreAccess
from voltool.stores.contract import ASIDE_MOST, Space, StoredDirectory, StoredFile
from voltool.stores.local_files import exists, pinned, too_large
from voltool.stores.sftp_client import DENIED, FSYNC, NO_SUCH_FILE, Entry, SftpClient
from voltool.stores.sftp_files import SftpReader, SftpWriter
from voltool.stores.sftp_leases import Leases, parts_of
from voltool.stores.sftp_link import SftpLink, translated
from voltool.stores.sftp_names import digest_of, parents_of
from voltool.stores.sftp_wire import SftpStatus

_UNFINISHED = b"/.unfinished"
_PINS = b"/.pins"
_DISCARDED = b".discarded-"

#: In the class below, `list` is the listing.
Files = list[StoredFile]
Entries = list[Entry]


@dataclass(frozen=True)
class SftpPlace:
    """A store's URL taken apart: ``host`` as `ssh.connection.connect` takes it, and the absolute ``path`` there."""

    host: str
    path: bytes

    @property
    def url(self) -> str:
        """The one spelling."""
        return f"sftp://{self.host}{quote(self.path)}"


class SftpStore:
    """The store at ``place``; see `voltool.stores.contract.Store`. Safe for several threads.

    Keeps ``min_free_percent`` of the server's file system free, where it tells how much there is.
    """

    def __init__(self, place: SftpPlace, access: StoreAccess, *, min_free_percent: float = 0.0) -> None:
        self.url = place.url
        self._root = place.path
        self._min_free_percent = min_free_percent
        self._reporter = access.reporter
        self._link = SftpLink(place.host, access)
        self._leases = Leases(self._link, self._root)
        self._told_of_fsync = False

    def close(self) -> None:
        """Hang up."""
        self._link.close()

    def create(self, name: str) -> SftpWriter:
        """Begin a file; RefusedError at once where the name exists already."""
        path = self._path(name)
        with self._translated("the store cannot take a new dump", path), contextlib.ExitStack() as stack:
            if self._link.run(lambda client: client.entry(path)) is not None:
                raise exists(self._shown(path))
            stack.enter_context(self._leases.held())
            self._link.run(lambda client: client.make_directory(self._root + _UNFINISHED))
            self._tell_of_fsync()
            partial = self._own(_UNFINISHED, b"")
            writer = SftpWriter(
                self._link, partial, self._shown(path), space=self.space, min_free_percent=self._min_free_percent,
                name_it=self._naming(partial, path), held=contextlib.ExitStack(),
            )  # fmt: skip
            writer.held = stack.pop_all()
            return writer

    def open(self, name: str) -> SftpReader:
        """Open a published file; NotFoundError."""
        path = self._path(name)
        with self._translated("the dump cannot be opened", path):
            return SftpReader(self._link, path, self._shown(path))

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        """Published files, sorted by name; other things (hidden files, links) are passed over."""
        return iter(self._found(prefix, b""))

    def directories(self) -> Iterator[StoredDirectory]:
        """The directories at the top, sorted by name; their times are whole seconds."""
        with self._translated("the store cannot be listed", self._root):
            found = [entry for entry in self._entries(b"") if stat.S_ISDIR(entry.mode) and entry.name[:1] != b"."]
        ours = (StoredDirectory(os.fsdecode(entry.name), entry.mtime * 1_000_000_000) for entry in found)
        return iter(sorted(ours, key=lambda directory: directory.name))

    def oddities(self) -> Iterator[str]:
        """Names of links, pipes and the like, sorted."""
        return (file.name for file in self._found("", b"", wanted=_is_odd))

    def remove(self, name: str) -> None:
        """Remove a published file; idempotent."""
        path = self._path(name)
        with self._translated("the dump cannot be removed", path):
            self._link.run(lambda client: client.remove_file(path))

    def discard(self, name: str) -> None:
        """Rename into the bin; RefusedError while it is pinned, idempotent. Whoever pins it meanwhile has it back."""
        path, binned = self._path(name), self._binned(name)
        if self.is_pinned(name):
            raise pinned(self._shown(path))
        with self._translated("the dump cannot be discarded", path):
            now = self._now()

            def move(client: SftpClient) -> None:
                entry = client.entry(path)
                if entry is not None and not stat.S_ISREG(entry.mode):
                    raise RefusedError("what is no file cannot be discarded", where=self._shown(path))
                if entry is not None:
                    client.set_mtime(path, now)  # first: the grace period must never have begun with the dump's age
                    client.rename_over(path, binned)

            self._link.run(move)
        if self.is_pinned(name):
            self.recover(name)
            raise pinned(self._shown(path))

    def _now(self) -> int:
        """The server's clock; ours where the disk is so full that it cannot be asked: to discard is to make room."""
        try:
            with self._leases.held():
                return self._leases.now()
        except SftpStatus as status:
            if status.code == DENIED:
                raise
            return int(time.time())

    def discarded(self, prefix: str = "") -> Iterator[StoredFile]:
        """Discarded files, sorted by the names they had."""
        return iter(self._found(prefix, _DISCARDED))

    def recover(self, name: str) -> None:
        """Rename back; NotFoundError, RefusedError where the name exists."""
        path, binned = self._path(name), self._binned(name)
        with self._translated("the dump cannot be brought back", path):
            self._link.run(lambda client: self._rename_new(client, binned, path), again=False)

    def purge(self, name: str) -> None:
        """Remove a discarded file; idempotent."""
        binned = self._binned(name)
        with self._translated("the dump cannot be removed", binned):
            self._link.run(lambda client: client.remove_file(binned))

    def put_aside(self, name: str, data: bytes) -> None:
        """Replace the small file ``name`` at the top, atomically."""
        path = self._aside(name)
        with self._translated("the store cannot take a note", path), self._leases.held():
            fresh = self._own(_UNFINISHED, b"")
            self._link.run(lambda client: self._put(client, fresh, path, data))

    def _put(self, client: SftpClient, fresh: bytes, path: bytes, data: bytes) -> None:
        client.make_directory(self._root + _UNFINISHED)
        client.remove_file(fresh)  # of a first try whose connection broke
        handle = client.create(fresh)
        client.write_now(handle, data)
        client.fsync(handle)
        client.close_handle(handle)
        client.rename_over(fresh, path)

    def get_aside(self, name: str) -> bytes | None:
        """The small file ``name`` at the top; None where there is none."""
        path = self._aside(name)
        with self._translated("a note in the store cannot be read", path):
            entry = self._link.run(lambda client: client.entry(path))
            if entry is None:
                return None
            if entry.size > ASIDE_MOST:
                raise too_large(self._shown(path), entry.size)
            with contextlib.closing(SftpReader(self._link, path, self._shown(path))) as reader:
                return reader.read_at(0, min(reader.size, ASIDE_MOST))

    def space(self) -> Space | None:
        """The file system below the store, also where the store's directory does not exist yet."""

        def look(client: SftpClient) -> Space | None:
            path = self._root or b"/"
            while client.entry(path) is None and path != b"/":
                path = posixpath.dirname(path)
            found = client.file_system(path)
            return None if found is None else Space(found.total, found.free)

        with self._translated("the store's file system cannot be looked at", self._root):
            return self._link.run(look)

    @contextlib.contextmanager
    def pin(self, name: str, purpose: str) -> Iterator[None]:
        """Keep ``name`` from being removed while the context lasts; NotFoundError if it is not there.

        Where nothing can be written (a user who may only read, a full disk) there is no pin: a dump must be readable there too.
        """
        path = self._path(name)
        with self._translated("the dump cannot be pinned", path), contextlib.ExitStack() as stack:
            with contextlib.suppress(_Unwritable):
                stack.enter_context(self._pinned(name, purpose))
            if self._link.run(lambda client: client.entry(path)) is None:
                raise NotFoundError(
                    "the dump cannot be pinned", where=self._shown(path), why="no such file",
                    remedy="voltool dumps, to see what is there",
                )  # fmt: skip
            held = stack.pop_all()
        with held:
            yield

    @contextlib.contextmanager
    def _pinned(self, name: str, purpose: str) -> Iterator[None]:
        note = json.dumps({"purpose": purpose, "name": name}).encode()
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._leases.held())
                pin = self._own(_PINS, digest_of(name))
                self._link.run(lambda client: self._put_pin(client, pin, note))
            except SftpStatus as status:
                raise _Unwritable from status
            stack.callback(self._unpin, pin)
            held = stack.pop_all()
        with held:
            yield

    def _put_pin(self, client: SftpClient, pin: bytes, note: bytes) -> None:
        client.make_directory(self._root + _PINS)
        handle = client.create_anew(pin)
        client.write_now(handle, note)
        client.close_handle(handle)

    def _unpin(self, pin: bytes) -> None:
        with contextlib.suppress(SftpStatus, VoltoolError):  # it ends with our lease
            self._link.run(lambda client: client.remove_file(pin))

    def is_pinned(self, name: str) -> bool:
        """Whether somebody alive pins ``name``."""
        path, digest = self._path(name), digest_of(name)
        with self._translated("the pins cannot be looked at", path):
            pins = [entry for entry in self._entries(_PINS) if parts_of(entry)[2] == digest]
            if not pins:
                return False
            with self._leases.held():
                living = self._leases.living()
        return any(parts_of(pin)[0] in living for pin in pins)

    def sweep(self, directory: str = "") -> tuple[str, ...]:  # noqa: ARG002 - they all lie in one place
        """Remove unfinished files and pins whose owners are dead; the names of the unfinished files."""
        swept = []
        with self._translated("the store cannot be swept", self._root):
            # Before the leases: who began after that is not among them.
            found = [(where, entry) for where in (_UNFINISHED, _PINS) for entry in self._entries(where)]
            if not found:
                return ()
            with self._leases.held():
                living = self._leases.living()
            for where, entry in found:
                if parts_of(entry)[0] not in living:
                    path = self._root + where + b"/" + entry.name
                    self._link.run(lambda client, path=path: client.remove_file(path))  # type: ignore[misc]
                    if where == _UNFINISHED:
                        swept.append(os.fsdecode(where + b"/" + entry.name).lstrip("/"))
        return tuple(sorted(swept))

    def path_on_this_host(self) -> bytes | None:
        """Nowhere."""
        return None

    def _naming(self, partial: bytes, path: bytes) -> Callable[[SftpClient, bytes], None]:
        def name_it(client: SftpClient, handle: bytes) -> None:
            client.fsync(handle)
            client.make_directory(posixpath.dirname(path))
            self._rename_new(client, partial, path, keep=True)
            # There is no fsync of a directory; but a file's own log entry follows the one that gave it its name.
            try:
                client.fsync(handle)
            except SftpStatus:
                client.remove_file(path)
                raise

        return name_it

    def _rename_new(self, client: SftpClient, old: bytes, new: bytes, *, keep: bool = False) -> None:
        """Give ``old`` the name ``new`` and never replace anything; ``keep``: the old name may stay for now."""
        try:
            client.link(old, new)
        except SftpStatus as status:
            if client.entry(old) is None:
                raise SftpStatus(NO_SUCH_FILE, status.text) from None
            if status.code == DENIED:
                raise
            if client.entry(new) is not None:
                raise exists(self._shown(new)) from None
            client.rename_plain(old, new)  # no hard links there: what is left is the moment since we looked
        else:
            if not keep:
                client.remove_file(old)

    def _tell_of_fsync(self) -> None:
        if not self._told_of_fsync and FSYNC not in self._link.run(lambda client: client.extensions):
            self._told_of_fsync = True
            message = (
                f"the server of {self.url} offers no fsync ({FSYNC.decode()}):"
                " should it crash within a minute after a dump, that dump may be lost or damaged"
            )
            self._reporter.report(Notice("warning", message))

    def _found(self, prefix: str, mark: bytes, wanted: Callable[[int], bool] = stat.S_ISREG) -> Files:
        """Files (``wanted`` by mode) whose names are ``mark`` and a name that is not hidden (given without the mark), sorted.

        A level of directories at a time; of a volume's dumps only its directory is read.
        """
        found: Files = []
        directory, slash, _rest = prefix.rpartition("/")
        if slash and any(part[:1] in (".", "") for part in directory.split("/")):
            return []  # nothing here has such a name
        waiting = [self._path(directory) if directory else self._root]
        with self._translated("the store cannot be listed", self._root):
            if directory and not all(self._is_own_directory(path) for path in parents_of(self._root, waiting[0])):
                return []
            while waiting:
                listed = self._link.run(lambda client, paths=tuple(waiting): client.directories(paths))  # type: ignore[misc]
                waiting = []
                for path, entries in listed:
                    for entry in entries:
                        name = entry.name.removeprefix(mark)
                        whole = path + b"/" + entry.name
                        if stat.S_ISDIR(entry.mode) and not entry.name.startswith(b"."):
                            waiting.append(whole)
                        elif wanted(entry.mode) and entry.name.startswith(mark) and name[:1] not in (b".", b""):
                            shown = os.fsdecode((path + b"/" + name)[len(self._root) + 1 :])
                            found.append(StoredFile(shown, entry.size, entry.mtime * 1_000_000_000))
        return sorted((file for file in found if file.name.startswith(prefix)), key=lambda file: file.name)

    def _is_own_directory(self, path: bytes) -> bool:
        """Whether it is a directory, and not behind a link."""
        entry = self._link.run(lambda client: client.entry(path))
        return entry is not None and stat.S_ISDIR(entry.mode)

    def _entries(self, where: bytes) -> Entries:
        found = self._link.run(lambda client: client.directories([self._root + where]))
        return [entry for _path, entries in found for entry in entries]

    def _own(self, where: bytes, digest: bytes) -> bytes:
        """A new name that says whose it is."""
        return self._root + where + b"/" + self._leases.name_of_ours(digest)

    def _binned(self, name: str) -> bytes:
        directory, base = posixpath.split(self._path(name))
        return directory + b"/" + _DISCARDED + base

    def _aside(self, name: str) -> bytes:
        if "/" in name:
            raise UsageError(f"{name!a} cannot be kept beside the dumps", why="it is not a plain name")
        return self._path(name)

    def _path(self, name: str) -> bytes:
        parts = name.split("/")
        if any(not part or part.startswith(".") or "\0" in part for part in parts):
            raise UsageError(f"{name!a} cannot be the name of a file in a store")
        return self._root + b"/" + os.fsencode(name)

    def _shown(self, path: bytes) -> str:
        return self.url + ascii(os.fsdecode(path[len(self._root) :]))[1:-1]

    @contextlib.contextmanager
    def _translated(self, what: str, path: bytes) -> Iterator[None]:
        with translated(what, self._shown(path)):
            yield


class _Unwritable(Exception):  # noqa: N818 - a fact, not an error
    """Nothing can be written into the store."""


def _is_odd(mode: int) -> bool:
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
