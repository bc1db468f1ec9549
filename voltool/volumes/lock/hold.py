"""Locking a volume's tree and undoing that: read-only mounts, then the search for who could still write.

The tree is bound over its own path twice: the first bind is made read-only, the second is a copy of it, so that what
propagates to other namespaces is read-only from the start. `property ro` of btrfs is no lock: open files write on. Ships
to servers. Each step can be repeated after a crash; the record of `book` says what was intended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import secrets
import time
from typing import Callable, FrozenSet, Iterator, Optional

from voltool import durable
from voltool.errors import BusyError, HostError, RefusedError, VoltoolError
from voltool.frozen import dataclass
from voltool.showing import shown
from voltool.volumes.hooks import Hook, run_hook
from voltool.volumes.lock import mounting
from voltool.volumes.lock.book import BROKEN, LOCKED, LOCKING, LockBook, LockRecord
from voltool.volumes.lock.closing import Closer, copies_of_lock, is_closed_at_path, reopen
from voltool.volumes.lock.search import Files, SearchResult, walk_files
from voltool.volumes.lock.views import Tree, describe_tree
from voltool.volumes.lock.waiting import close_mounts, current_record, wait_for_writers, write_closing
from voltool.volumes.records import AREA_NAME

#: The inode numbers of the first namespaces (include/linux/proc_ns.h).
_FIRST_PID_NAMESPACE = 0xEFFFFFFC


@dataclass(frozen=True)
class LockWish:
    """A lock on the tree at ``path``, for ``seconds``; waiting ``timeout`` s for writers. ``files`` gives the regular
    files for the lease test, relative to the root; None: all that a walk finds. ``owner`` says who, for messages.
    ``token`` is made by who starts the guardian first; empty: a new one."""

    uuid: str
    name: str
    path: bytes
    owner: str
    seconds: int
    timeout: float = 30.0
    files: Optional[Files] = None
    before_lock: Optional[Hook] = None
    after_unlock: Optional[Hook] = None
    token: str = ""


def check_can_lock() -> None:
    """RefusedError where nothing that is done here would be a lock: without root, and in a container."""
    if os.geteuid() != 0:
        raise RefusedError(
            "locking needs root on the volume's host",
            why="who else could write is not visible to other users, and nothing can be mounted",
            remedy="become = true for the host in the configuration (its agent then runs with sudo)",
        )
    if in_container():
        raise RefusedError(
            "a lock cannot be made from inside a container",
            why="processes outside of it could write to the tree and are not visible",
            remedy="reach the machine itself as host",
        )


def new_token() -> str:
    """What tells one lock from all others."""
    return secrets.token_hex(16)


def in_container() -> bool:
    """Whether this is not the machine's first pid namespace. Source: proc_pid_status(5), include/linux/proc_ns.h."""
    with contextlib.suppress(OSError):
        return os.stat("/proc/self/ns/pid").st_ino != _FIRST_PID_NAMESPACE
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        match = re.search(r"^NSpid:((?:\s+\d+)+)$", file.read(), re.MULTILINE)
    return match is None or len(match[1].split()) != 1


def lock_tree(
    book: LockBook, wish: LockWish, ignored: FrozenSet[int] = frozenset(), alive: Callable[[], None] = lambda: None
) -> tuple[LockRecord, SearchResult]:
    """Make the tree read-only and wait until nobody can write any more; the record, and the last search.

    ``before_lock`` runs first; whatever fails from there on, ``after_unlock`` runs in the end. Raises BusyError (with who
    still writes) after the lock has been undone; RefusedError; HostError. ``alive`` is called
    while it waits, and may raise to give the lock up. An older lock that a crash or a reboot left is undone first.
    """
    check_can_lock()
    record = _begin(book, wish)
    try:
        run_hook(wish.before_lock, "before_lock", wish.name, wish.path)
        tree = describe_tree(wish.path)
        closer = Closer(tree)
        with contextlib.closing(closer):
            with book.step(wish.owner):
                write_closing(book, record, closer)
                _mount(tree)
            files = wish.files or (lambda: walk_files(tree.path))
            close = functools.partial(close_mounts, book, record, closer)
            result = wait_for_writers(closer, files, wish.timeout, ignored, close, alive)
        record = _complete(book, record)
    except BaseException as error:
        _give_up(book, record, error)
        raise
    return record, result


def end_lock(book: LockBook, token: Optional[str] = None) -> Optional[LockRecord]:
    """`unlock_tree`, then ``after_unlock``; the lock's record, None where there is none. HostError when the hook fails."""
    record = unlock_tree(book, token)
    if record is not None:
        run_hook(record.after_unlock, "after_unlock", record.name, record.path)
    return record


def unlock_tree(book: LockBook, token: Optional[str] = None) -> Optional[LockRecord]:
    """Undo a lock: writable again, then detached. Returns its record; None where there is none. Idempotent.

    With ``token`` only that lock is undone. Who has a working directory in it gets a writable tree again.
    """
    with book.step("unlock"):
        record = book.read()
        if record is None or (token is not None and record.token != token):
            return None
        undo(record, book.write)
        book.remove()
    return record


def refuse_locked(book: LockBook, path: bytes) -> None:
    """BusyError, with who and since when, where the lock stands and its time is not over."""
    record = book.read()
    if record is not None and record.phase == LOCKED and is_in_force(record) and record.until > time.time():
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.since))
        raise BusyError(
            "the volume is locked", where=shown(path), why=f"by {record.owner} since {since}",
            remedy=f"wait, or voltool unlock {record.name}",
        )  # fmt: skip


def _give_up(book: LockBook, record: LockRecord, error: BaseException) -> None:
    """Undo what was begun; where the hook fails too, the error says both."""
    try:
        end_lock(book, record.token)
    except VoltoolError as more:
        if isinstance(error, VoltoolError):
            error.why = f"{error.why}; and then: {more}" if error.why else str(more)


def undo(record: LockRecord, note: Optional[Callable[[LockRecord], None]] = None) -> None:
    """Take the lock's mounts off, wherever the tree is now, and make what it closed writable. Idempotent; the caller holds
    `LockBook.step`. ``note`` keeps what else is found that has to be undone.

    Raises RefusedError where the mounts are in another mount namespace than ours.
    """
    if record.boot_id != _boot_id():
        return  # mounts do not outlive a boot
    if record.namespace != os.readlink("/proc/self/ns/mnt"):
        raise RefusedError(
            "the lock was made in another mount namespace",
            where=shown(record.path),
            remedy="unlock it the way it was locked: by the same login on that host",
        )
    copies = copies_of_lock(record)
    if copies:
        record = dataclasses.replace(record, closed=record.closed + tuple(copies))
        if note is not None:
            note(record)
    _take_off(record.path, record.below)
    if record.moved_to is not None:
        _take_off(record.moved_to, 0)
    reopen(record.closed)


def break_lease(book: LockBook, token: str) -> Optional[LockRecord]:
    """End a lock whose lease is over: ``lease broken`` is durable before anything is undone, so that no commit follows.

    Returns the record, which stays, broken, until `unlock_tree`; None where that lock is gone. Idempotent.
    """
    with book.step("guardian"):
        record = book.read()
        if record is None or record.token != token:
            return None
        broken = dataclasses.replace(record, phase=BROKEN)
        book.write(broken)
        undo(broken, book.write)
    return broken


def is_in_force(record: LockRecord) -> bool:
    """Whether the lock's mounts are there, in our namespace and this boot."""
    if record.boot_id != _boot_id():
        return False
    mounts = mounting.mounts_at(record.path)[record.below :]
    if record.moved_to is not None:
        mounts += mounting.mounts_at(record.moved_to)
    return bool(mounts) and "ro" in mounts[-1].options


def _begin(book: LockBook, wish: LockWish) -> LockRecord:
    """Write down what is intended; an older lock is undone when nobody stands behind it."""
    with book.step(wish.owner):
        refuse_locked(book, wish.path)
        old = book.read()
        if old is not None:
            undo(old, book.write)
        now = int(time.time())
        record = LockRecord(
            uuid=wish.uuid,
            name=wish.name,
            token=wish.token or new_token(),
            path=wish.path,
            phase=LOCKING,
            owner=wish.owner,
            since=now,
            until=now + wish.seconds,
            boot_id=_boot_id(),
            namespace=os.readlink("/proc/self/ns/mnt"),
            below=len(mounting.mounts_at(wish.path)),
            after_unlock=wish.after_unlock,
        )
        book.write(record)
    return record


def _complete(book: LockBook, record: LockRecord) -> LockRecord:
    with book.step(record.owner):
        locked = dataclasses.replace(current_record(book, record), phase=LOCKED)
        book.write(locked)
    return locked


def _mount(tree: Tree) -> None:
    area = os.path.join(tree.path, AREA_NAME)
    inside = os.path.isdir(area)
    descriptor = os.open(area, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC) if inside else -1
    try:
        mounting.bind_read_only(tree.path)
        mounting.bind(tree.path, tree.path)
        if inside:  # voltool's own records go on being written
            mounting.bind(b"/proc/self/fd/%d" % descriptor, area)
    finally:
        if inside:
            os.close(descriptor)


def _take_off(path: bytes, below: int) -> None:
    # Counted anew each time: below a shared mount the copies of our mounts come and go together.
    while len(mounting.mounts_at(path)) > below:
        with contextlib.suppress(HostError):
            mounting.remount(path, read_only=False)
        mounting.detach(path)


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.readline().strip()


def exchange_under_lock(book: LockBook, token: str, other: bytes) -> LockRecord:
    """Exchange the locked tree and the directory ``other`` (same file system) while the tree stays read-only everywhere.

    The rename is made from a private mount namespace, where alone the lock is taken off. Afterwards the lock is at
    ``other``. Raises RefusedError where the lock does not hold any more, HostError where the rename fails.
    """
    with book.step("exchange"):
        record = book.read()
        if record is None or record.token != token or record.phase != LOCKED or not is_in_force(record):
            raise RefusedError("the lock is not held any more", where=shown(other))
        return exchange_held(book, record, other)


def exchange_held(book: LockBook, record: LockRecord, other: bytes) -> LockRecord:
    """`exchange_under_lock` for one who is in `LockBook.step` already and has found the lock in force: a commit."""
    moved = dataclasses.replace(record, moved_to=other)
    book.write(moved)
    failure = in_private_namespace(lambda: _exchange(record, other))
    if failure:
        book.write(record)
        raise HostError("the locked tree cannot be renamed", where=shown(record.path), why=failure)
    return moved


def exchange_back_held(book: LockBook, record: LockRecord) -> None:
    """Undo `exchange_held` while the lock stands; the lock is at its path again. HostError where the rename fails."""
    assert record.moved_to is not None
    other = record.moved_to
    failure = in_private_namespace(lambda: _exchange_back(record, other))
    if failure:
        raise HostError("the locked tree cannot be renamed back", where=shown(record.path), why=failure)
    book.write(dataclasses.replace(record, moved_to=None))


def beside_lock(record: Optional[LockRecord], path: bytes, act: Callable[[], None]) -> str:
    """Do ``act`` where the tree at ``path`` can be written, while the lock stands for everybody else; why it failed, or an empty
    text. In a child of its own, unless there is no lock: what it changes in memory is lost."""
    if record is None or record.boot_id != _boot_id():
        try:
            act()
        except (OSError, VoltoolError) as error:
            return str(error) or "failed"
        return ""
    ours = record.namespace == os.readlink("/proc/self/ns/mnt")
    closed = ours and is_closed_at_path(record)

    def act_there() -> None:
        while ours and len(mounting.mounts_at(path)) > record.below:
            mounting.detach(path)
        if closed:
            mounting.remount(path, read_only=False)
        act()

    return in_private_namespace(act_there)


@contextlib.contextmanager
def read_only_meanwhile(book: LockBook, wish: LockWish) -> Iterator[LockRecord]:
    """For what is being put together at a path that others can reach: read-only for everybody inside but who has opened it
    before. It runs no hook, and no guardian ends it: what a crash leaves of it is undone by `unlock_tree`, and told by
    ``voltool doctor``. Raises HostError."""
    record = _begin(book, wish)
    try:
        with book.step(wish.owner):
            mounting.bind_read_only(wish.path)
        yield record
    finally:
        unlock_tree(book, record.token)


def is_own_mount_point(book: LockBook, path: bytes) -> bool:
    """Whether something is mounted at ``path``, the lock's own mounts not counted."""
    mounts = len(mounting.mounts_at(path))
    record = book.read()
    if record is not None and record.boot_id == _boot_id() and record.moved_to is None:
        mounts = min(mounts, record.below)
    return mounts > 0


def leave_read_only(book: LockBook, token: Optional[str] = None) -> None:
    """The tree at ``moved_to`` is given up: detach the lock there without making it writable, and forget it; no hook runs.

    Idempotent. The caller holds `LockBook.step`.
    """
    record = book.read()
    if record is None or (token is not None and record.token != token):
        return
    if record.boot_id == _boot_id() and record.namespace == os.readlink("/proc/self/ns/mnt"):
        place = record.moved_to or record.path
        closed = is_closed_at_path(record)
        while len(mounting.mounts_at(place)) > (0 if record.moved_to else record.below):
            mounting.detach(place)
        if closed:  # whoever came by that mount must not write again: voltool and the next user come by a new one
            mounting.renew(place)
    book.remove()


def _exchange_back(record: LockRecord, other: bytes) -> None:
    while mounting.mounts_at(other):
        mounting.detach(other)
    durable.rename_with_flags(other, record.path, durable.RENAME_EXCHANGE)
    for directory in {os.path.dirname(record.path), os.path.dirname(other)}:
        durable.fsync_directory(directory)


def _exchange(record: LockRecord, other: bytes) -> None:
    while len(mounting.mounts_at(record.path)) > record.below:
        mounting.detach(record.path)
    durable.rename_with_flags(record.path, other, durable.RENAME_EXCHANGE)
    for directory in {os.path.dirname(record.path), os.path.dirname(other)}:
        durable.fsync_directory(directory)


def in_private_namespace(act: Callable[[], None]) -> str:
    """Do it in a child that has a mount namespace of its own; why it failed, or an empty text."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            mounting.leave_namespace()
            act()
        except BaseException as error:  # noqa: BLE001 - the child must not return into the parent's code
            os.write(sink, str(error).encode(errors="backslashreplace")[:4000] or b"failed")
            os._exit(1)
        os._exit(0)
    os.close(sink)
    with open(source, "rb") as file:
        text = file.read().decode(errors="replace")
    _pid, status = os.waitpid(child, 0)
    return text or ("" if status == 0 else f"the child ended with status {status}")
