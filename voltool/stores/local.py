"""A store that is a directory on this machine. Knows nothing of what is in the files.

A file is written as ``.partial-<name>-<random>`` in its final directory, under an exclusive flock(2) that ends with the
writer, and appears by one rename after fsync. What a dead writer leaves is a partial file that nobody locks: `sweep`
removes it. A pin is a file ``.pin-<name>-<random>`` under the same kind of lock. A discarded file is ``.discarded-<name>`` in
the directory where it was: to rename it there takes no room on a full disk, where a directory of its own would. What is renamed
or removed is reached by directory descriptors, no link followed: nothing outside the store is ever touched.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from urllib.parse import quote

from voltool.beneath import open_beneath
from voltool.durable import fsync_directory, make_directory, rename_new
from voltool.errors import RefusedError, UsageError
from voltool.stores.contract import Space, StoredDirectory, StoredFile
from voltool.stores.local_files import (
    LocalReader,
    LocalWriter,
    exists,
    make_locked,
    names_in,
    pinned,
    read_small,
    remove_if_unlocked,
    remove_quietly,
    space_of,
    translated,
)

_PARTIAL = ".partial-"
_PIN = ".pin-"
_DISCARDED = ".discarded-"
#: How the system says that nothing can be written here.
_UNWRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT})


class LocalStore:
    """The store in directory ``root``; see `voltool.stores.contract.Store`.

    Keeps ``min_free_percent`` of the file system free.
    """

    def __init__(self, root: str, *, min_free_percent: float = 0.0) -> None:
        self.root = os.path.abspath(root)
        self.url = "file://" + quote(self.root)
        self._min_free_percent = min_free_percent

    def create(self, name: str) -> LocalWriter:
        """Begin a file; RefusedError at once where the name exists already."""
        final = self._path(name)
        with translated("the store cannot take a new dump", final):
            make_directory(os.path.dirname(final))
            if os.path.lexists(final):
                raise exists(final)
            partial, descriptor = make_locked(os.path.dirname(final), _PARTIAL, os.path.basename(final))
            return LocalWriter(final, partial, descriptor, self._min_free_percent)

    def open(self, name: str) -> LocalReader:
        """Open a published file; NotFoundError."""
        path = self._path(name)
        with translated("the dump cannot be opened", path):
            return LocalReader(path)

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        """Published files, sorted by name; other things in the directory (hidden files, links) are passed over."""
        with translated("the store cannot be listed", self.root):
            return self._found(prefix, "")

    def _found(self, prefix: str, mark: str) -> Iterator[StoredFile]:
        """Files by the beginning of their names, sorted; of a volume's dumps only its directory is read."""
        below, slash, _rest = prefix.rpartition("/")
        if slash and not self._is_directory(below):
            return iter(())
        files = self._walk(os.path.join(self.root, below), below + slash, mark)
        return iter(sorted((file for file in files if file.name.startswith(prefix)), key=lambda file: file.name))

    def _is_directory(self, name: str) -> bool:
        """Whether the walk of the whole store would come there: by no link, through nothing hidden."""
        path = self.root
        for part in name.split("/"):
            path = os.path.join(path, part)
            try:
                if not (_is_plain(part) and stat.S_ISDIR(os.lstat(path).st_mode)):
                    return False
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def directories(self) -> Iterator[StoredDirectory]:
        """The directories at the top, sorted by name."""
        found = []
        with translated("the store cannot be listed", self.root), contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.root):
                with contextlib.suppress(FileNotFoundError):
                    if _is_plain(entry.name) and entry.is_dir(follow_symlinks=False):
                        found.append(StoredDirectory(entry.name, entry.stat(follow_symlinks=False).st_mtime_ns))
        return iter(sorted(found, key=lambda directory: directory.name))

    def _walk(self, directory: str, prefix: str, mark: str) -> Iterator[StoredFile]:
        """Regular files whose names are ``mark`` and a name that a file here may have; their names are given without it."""
        try:
            entries = list(os.scandir(directory))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(status.st_mode) and not entry.name.startswith("."):
                yield from self._walk(entry.path, f"{prefix}{entry.name}/", mark)
            name = entry.name.removeprefix(mark)
            if stat.S_ISREG(status.st_mode) and entry.name.startswith(mark) and not name.startswith(".") and name:
                yield StoredFile(prefix + name, status.st_size, status.st_mtime_ns)

    def remove(self, name: str) -> None:
        """Remove a published file durably; idempotent."""
        path = self._path(name)
        with translated("the dump cannot be removed", path), contextlib.suppress(FileNotFoundError):
            self._unlink(name, "")

    def discard(self, name: str) -> None:
        """Rename into the bin, durably; RefusedError while it is pinned, idempotent.

        Whoever pins it between our look and the rename is seen by the second look, and has it back; whoever comes later does
        not find it.
        """
        path = self._path(name)
        if self.is_pinned(name):
            raise pinned(path)
        with translated("the dump cannot be discarded", path), contextlib.suppress(FileNotFoundError):
            with self._directory_of(name) as (directory, base):
                if not stat.S_ISREG(os.stat(base, dir_fd=directory, follow_symlinks=False).st_mode):
                    raise RefusedError("what is no file cannot be discarded", where=ascii(path)[1:-1])
                # Before the rename: the grace period must never be found to have begun with the dump's age.
                os.utime(base, dir_fd=directory, follow_symlinks=False)
                os.rename(base, _DISCARDED + base, src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)
            if self.is_pinned(name):
                self.recover(name)
                raise pinned(path)

    def discarded(self, prefix: str = "") -> Iterator[StoredFile]:
        """Discarded files, sorted by the names they had."""
        with translated("the store's bin cannot be listed", self.root):
            return self._found(prefix, _DISCARDED)

    def recover(self, name: str) -> None:
        """Rename back, durably; NotFoundError, RefusedError where the name exists."""
        path = self._path(name)
        with translated("the dump cannot be brought back", path), self._directory_of(name) as (directory, base):
            try:
                rename_new(_DISCARDED + base, base, directory, directory)
            except FileExistsError:
                raise exists(path) from None
            os.fsync(directory)

    def purge(self, name: str) -> None:
        """Remove a discarded file durably; idempotent."""
        path = self._path(name)
        with translated("the dump cannot be removed", path), contextlib.suppress(FileNotFoundError):
            self._unlink(name, _DISCARDED)

    def _unlink(self, name: str, mark: str) -> None:
        with self._directory_of(name) as (directory, base):
            os.unlink(mark + base, dir_fd=directory)
            os.fsync(directory)

    @contextlib.contextmanager
    def _directory_of(self, name: str) -> Iterator[tuple[int, str]]:
        """A descriptor of the directory in which ``name`` lies, reached without following a link, and its last part."""
        *parents, base = os.path.relpath(self._path(name), self.root).split("/")
        with contextlib.ExitStack() as stack:
            directory = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, directory)
            if parents:
                directory = open_beneath(directory, os.fsencode("/".join(parents)), os.O_RDONLY | os.O_DIRECTORY)
                stack.callback(os.close, directory)
            yield directory, base

    def put_aside(self, name: str, data: bytes) -> None:
        """Replace the small file ``name`` at the top, atomically and durably; of two who do so at once, one wins as a whole."""
        path = self._aside(name)
        with translated("the store cannot take a note", path), contextlib.ExitStack() as stack:
            make_directory(self.root)
            partial, descriptor = make_locked(self.root, _PARTIAL, name)
            stack.callback(os.close, descriptor)
            stack.callback(remove_quietly, partial)  # where it was not renamed
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
            os.rename(partial, path)
            fsync_directory(self.root)

    def get_aside(self, name: str) -> bytes | None:
        """The small file ``name`` at the top; None where there is none."""
        path = self._aside(name)
        with translated("a note in the store cannot be read", path):
            try:
                return read_small(path)
            except FileNotFoundError:
                return None

    def oddities(self) -> Iterator[str]:
        """Names of links, pipes and the like, sorted."""
        with translated("the store cannot be listed", self.root):
            found = [
                os.path.relpath(entry.path, self.root)
                for directory, _names, _files in os.walk(self.root)
                for entry in os.scandir(directory)
                if not entry.name.startswith(".") and not entry.is_file(follow_symlinks=False)
                if not entry.is_dir(follow_symlinks=False) and "/." not in directory[len(self.root) :]
            ]
        return iter(sorted(found))

    def space(self) -> Space | None:
        """The file system below the store, also where the store's directory does not exist yet."""
        path = self.root
        while not os.path.isdir(path):
            path = os.path.dirname(path)
        with translated("the store's file system cannot be looked at", path):
            return space_of(os.statvfs(path))

    @contextlib.contextmanager
    def pin(self, name: str, purpose: str) -> Iterator[None]:
        """Keep ``name`` from being removed while the context lasts; NotFoundError if it is not there.

        Where nothing can be written (a read-only mount, a full disk, a user who may only read) there is no pin, for a
        dump must be readable there too: who has opened the file keeps it, removed or not.
        """
        path = self._path(name)
        with translated("the dump cannot be pinned", path), contextlib.ExitStack() as stack:
            try:
                pin, descriptor = make_locked(os.path.dirname(path), _PIN, os.path.basename(path))
            except OSError as error:
                if error.errno not in _UNWRITABLE:
                    raise
            else:
                stack.callback(os.close, descriptor)
                stack.callback(remove_quietly, pin)
                with contextlib.suppress(OSError):  # for whoever looks into it; the lock is what holds
                    os.write(descriptor, json.dumps({"purpose": purpose, "pid": os.getpid()}).encode())
            os.stat(path)
            held = stack.pop_all()
        with held:
            yield

    def is_pinned(self, name: str) -> bool:
        """Whether somebody alive pins ``name``; pins of the dead are removed on the way."""
        path = self._path(name)
        with translated("the pins cannot be looked at", path):
            pins = names_in(os.path.dirname(path), _PIN + os.path.basename(path) + "-")
            alive = [pin for pin in pins if not remove_if_unlocked(pin)]
            return bool(alive)

    def sweep(self, directory: str = "") -> tuple[str, ...]:
        """Remove partial files and pins whose owners are dead; the names of the partial files, relative to the store."""
        swept: list[str] = []
        with translated("the store cannot be swept", self.root):
            for place, _directories, files in os.walk(self._path(directory) if directory else self.root):
                for name in files:
                    path = os.path.join(place, name)
                    if name.startswith(_PIN):
                        remove_if_unlocked(path)
                    elif name.startswith(_PARTIAL) and remove_if_unlocked(path):
                        swept.append(os.path.relpath(path, self.root))
        return tuple(sorted(swept))

    def path_on_this_host(self) -> bytes | None:
        """The store's directory, free of symlinks."""
        return os.fsencode(os.path.realpath(self.root))

    def _aside(self, name: str) -> str:
        if "/" in name:
            raise UsageError(f"{name!a} cannot be kept beside the dumps", why="it is not a plain name")
        return self._path(name)

    def _path(self, name: str) -> str:
        parts = name.split("/")
        if not all(_is_plain(part) for part in parts):
            raise UsageError(f"{name!a} cannot be the name of a file in a store")
        return os.path.join(self.root, *parts)


def _is_plain(part: str) -> bool:
    return bool(part) and not part.startswith(".") and "\0" not in part
