"""The lease test of many files, in several processes where they are many: it is a few system calls for each, and everybody waits
for the lock. Ships to servers.

Who cannot say what he found has not tested: a process that dies with its files fails the whole test.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import json
import os
import signal
import stat
from typing import Iterable, Iterator, List, NamedTuple, Tuple

from voltool.errors import AgentError
from voltool.leases import ignore_lease_breaks, lease_test
from voltool.showing import shown
from voltool.volumes.lock.processes import Identity

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Removed or replaced since the list was made.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
#: So many files are tested by one process in turn; where there are no more, by this one alone.
BATCH = 2048
_MOST_WORKERS = 4
_PR_SET_PDEATHSIG = 1


class Tested(NamedTuple):
    """``busy``: the files that somebody has open for writing; ``leaseless``: how many could not be tested."""

    busy: List[Tuple[Identity, bytes]]
    leaseless: int


def find_busy(root: bytes, files: Iterable[bytes]) -> Tested:
    """Test all ``files``, paths relative to ``root`` in a walk's order. Raises OSError, AgentError."""
    waiting = iter(files)
    first = list(itertools.islice(waiting, BATCH))
    workers = min(_MOST_WORKERS, len(os.sched_getaffinity(0)))
    if len(first) < BATCH or workers == 1:
        return _test(root, itertools.chain(first, waiting))
    return _test_shared(root, itertools.chain(first, waiting), workers)


def _test(root: bytes, files: Iterable[bytes]) -> Tested:
    busy: List[Tuple[Identity, bytes]] = []
    leaseless = 0
    top = os.open(root, _OPEN_DIRECTORY)
    directory, directory_path = os.dup(top), b""
    try:
        for path in files:
            parent, name = os.path.split(path)
            try:
                if parent != directory_path:
                    os.close(directory)
                    directory = -1
                    directory, directory_path = _open_below(top, parent), parent
                descriptor = os.open(name, _OPEN_FILE, dir_fd=directory)
            except OSError as error:
                if directory < 0:
                    directory, directory_path = os.dup(top), b""
                leaseless += error.errno not in _GONE
                continue
            try:
                free = lease_test(descriptor)
                if not free:  # None, too, of what is no regular file any more
                    status = os.fstat(descriptor)
                    if stat.S_ISREG(status.st_mode):
                        busy += [((status.st_dev, status.st_ino), path)] if free is False else []
                        leaseless += free is None
            finally:
                os.close(descriptor)
    finally:
        os.close(directory)
        os.close(top)
    return Tested(busy, leaseless)


def _open_below(root: int, path: bytes) -> int:
    """A directory below ``root``, never through a symlink."""
    current = os.dup(root)
    for name in path.split(b"/") if path else []:
        if name in (b"", b".", b".."):
            raise AgentError("a list of files has a path that no walk gives", where=shown(path))
        try:
            below = os.open(name, _OPEN_DIRECTORY, dir_fd=current)
        finally:
            os.close(current)
        current = below
    return current


# ------------------------------------------------------------------------------------------------- several processes


def _test_shared(root: bytes, files: Iterator[bytes], workers: int) -> Tested:
    testers: List[_Tester] = []
    try:
        for _number in range(workers):
            testers.append(_Tester(root, testers))
        for turn in itertools.cycle(testers):
            batch = list(itertools.islice(files, BATCH))
            if not batch:
                break
            turn.give(batch)
        found = [tester.result() for tester in testers]
    finally:
        for tester in testers:
            tester.close()
    busy = [each for tested in found for each in tested.busy]
    return Tested(busy, sum(tested.leaseless for tested in found))


class _Tester:
    """A process that tests the files it is given, and says in the end what it found."""

    def __init__(self, root: bytes, others: List[_Tester]) -> None:
        files, self._files = os.pipe()
        self._found, found = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                for descriptor in (self._files, self._found, *(end for other in others for end in other.ends)):
                    os.close(descriptor)  # whoever keeps the end of a pipe keeps its reader waiting
                _work(root, files, found, parent)
            finally:
                os._exit(1)
        os.close(files)
        os.close(found)

    @property
    def ends(self) -> Tuple[int, int]:
        """What its siblings must not keep open."""
        return self._files, self._found

    def give(self, paths: List[bytes]) -> None:
        """Some more files."""
        view = memoryview(b"".join(path + b"\0" for path in paths))
        try:
            while view:
                view = view[os.write(self._files, view) :]
        except BrokenPipeError:
            raise _died() from None

    def result(self) -> Tested:
        """No more files come; what it found."""
        os.close(self._files)
        self._files = -1
        with open(self._found, "rb", closefd=False) as file:
            text = file.read()
        try:
            picture = json.loads(text)
            return Tested([((device, inode), bytes.fromhex(path)) for device, inode, path in picture[0]], picture[1])
        except ValueError:
            raise _died() from None

    def close(self) -> None:
        """Kill and reap it."""
        for descriptor in self.ends:
            if descriptor >= 0:
                os.close(descriptor)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _died() -> AgentError:
    return AgentError("a process that tested files has died", why="it was killed, or memory is short")


def _work(root: bytes, files: int, found: int, parent: int) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ignore_lease_breaks()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    tested = _test(root, _given(files))
    picture = ([(device, inode, path.hex()) for (device, inode), path in tested.busy], tested.leaseless)
    with open(found, "wb") as file:
        file.write(json.dumps(picture).encode())


def _given(files: int) -> Iterator[bytes]:
    rest = b""
    with open(files, "rb", buffering=0) as file:
        while data := file.read(1 << 16):
            *paths, rest = (rest + data).split(b"\0")
            yield from paths
