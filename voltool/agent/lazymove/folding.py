"""The end of a lazy move: what the overlay's upper directory holds is folded into the plain tree. Ships to servers.

Nobody writes meanwhile (the volume is locked), and who reads goes on reading through the overlay: the upper directory is left
as it is, but for marks. Files get a second name in the tree; directories are made or moved there. So the fold can be killed
anywhere and done again. **Once it has begun there is only forward**: the tree is neither what was below nor what is shown until
it is done, so nobody may write before that.

Phases, in the journal: PLANNED (what was renamed is known, nothing is done), TAKING (directories of the tree that were renamed
are taken out, innermost first, to ``moved/``), FOLDING (everything gets its place; a directory made for one that hides what was
below bears a mark, so that it is known again), FOLDED (marks come off), then the caller gives the tree its name, and `finish`
does what can be done only then. What goes is put into ``trash/``: a rename each, however large it is.

Sources: Documentation/filesystems/overlayfs (whiteouts and opaque directories, redirect_dir), fs/overlayfs/namei.c
(``ovl_check_redirect``: a redirect with a leading slash is a path from the root of what is below, another one a name beside).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

from voltool import durable, inodes
from voltool.agent.lazymove.upper import (
    OPEN,
    OURS,
    Entry,
    attribute,
    copy_attributes_at,
    entries,
    opened_at,
    protection,
    reach,
    stat_or_none,
    unescape,
    walk,
)
from voltool.beneath import open_beneath, opened_directory
from voltool.dumpfile.format import FLAG_APPEND, FLAG_IMMUTABLE
from voltool.errors import HostError, IntegrityError, RefusedError, SpaceError, VoltoolError
from voltool.showing import shown
from voltool.volumes.removal import remove_at, remove_tree
from voltool.volumes.traits import synchronize

PLANNED, TAKING, FOLDING, FOLDED = "planned", "taking", "folding", "folded"
_JOURNAL = b"fold.json"
_MOVED = b"moved"
_TRASH = b"trash"
_MARK = OURS + "folded"
_OPEN_ANY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LETTERS = {"i": FLAG_IMMUTABLE, "a": FLAG_APPEND}


@dataclass(frozen=True)
class FoldPlace:
    """``upper``: the overlay's; ``tree``: the plain tree that was below; ``scratch``: a directory of our own for the journal. All
    on one file system, and of btrfs in one subvolume."""

    upper: bytes
    tree: bytes
    scratch: bytes


@dataclass
class _Journal:
    """``moved``: of each renamed directory its path in the tree, innermost first; its place in the list is its name in
    ``moved/``. ``seals``: paths that have become immutable or append-only, and their letters."""

    phase: str = PLANNED
    moved: List[str] = field(default_factory=list)
    seals: List[Tuple[str, str]] = field(default_factory=list)


def fold(place: FoldPlace) -> None:
    """Make the tree what the overlay shows. Durable when it returns; to be called again after any failure. Raises RefusedError
    before anything is done, SpaceError, HostError, IntegrityError after which only calling it again helps."""
    try:
        _assert_one_filesystem(place)
        _Fold(place).run()
    except OSError as error:
        raise _translated(place, error) from error


def has_begun(place: FoldPlace) -> bool:
    """Whether a fold has begun and must be ended before anybody may write. HostError where its journal cannot be read."""
    journal = _load(place)
    return journal is not None and journal.phase != PLANNED


def finish(place: FoldPlace, published: bytes) -> None:
    """When it is folded, still under the lock: everything in the tree, which stands at ``published``, that has become immutable
    or append-only, but its root. Repeatable."""
    try:
        journal = _load(place)
        if journal is not None:
            _seal(place, journal, published)
    except OSError as error:
        raise _translated(place, error) from error


def seal_root(place: FoldPlace, published: bytes) -> None:
    """The same for the root, when it need not be renamed any more. Repeatable."""
    journal = _load(place)
    letters = dict(journal.seals).get("", "") if journal is not None else ""
    if letters:
        try:
            with opened_directory(published) as root:
                _set_flags(root, letters)
        except OSError as error:
            raise _translated(place, error) from error


def forget(place: FoldPlace) -> None:
    """The fold is over: upper directory, trash and journal go. Repeatable. Raises HostError."""
    remove_tree(place.upper)
    for name in (_TRASH, _MOVED):
        remove_tree(os.path.join(place.scratch, name))
    durable.remove_file(os.path.join(place.scratch, _JOURNAL))


class _Fold:
    def __init__(self, place: FoldPlace) -> None:
        self._place = place
        self._journal = _load(place) or _Journal()
        self._numbers: Dict[bytes, int] = {}

    def run(self) -> None:
        """All phases that are still to come."""
        with contextlib.ExitStack() as stack:
            self._upper, self._tree, self._scratch = (
                stack.enter_context(opened_directory(path))
                for path in (self._place.upper, self._place.tree, self._place.scratch)
            )
            if self._journal.phase == PLANNED:
                self._plan()
                self._go_on(TAKING)
            for name in (_MOVED, _TRASH):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=self._scratch)
            self._moved, self._trash = (
                stack.enter_context(opened_at(self._scratch, name)) for name in (_MOVED, _TRASH)
            )
            if self._journal.phase == TAKING:
                self._take()
                self._go_on(FOLDING)
            if self._journal.phase == FOLDING:
                self._fold()
                self._go_on(FOLDED)
            self._clear()
            synchronize(self._place.scratch)

    def _go_on(self, phase: str) -> None:
        synchronize(self._place.scratch)
        self._journal.phase = phase
        text = json.dumps({"phase": phase, "moved": self._journal.moved, "seals": self._journal.seals})
        durable.write_file(os.path.join(self._place.scratch, _JOURNAL), text.encode())

    # ----------------------------------------------------------------------------------------------------------- plan

    def _plan(self) -> None:
        """Where renamed directories were in the tree, which is as it was; IntegrityError for what no overlay of ours leaves."""
        lower_of: Dict[bytes, Optional[bytes]] = {b"": b""}
        found: Dict[bytes, bytes] = {}
        self._journal = _Journal()
        self._note_seal(b"", protection(self._upper))
        for entry in walk(self._upper):
            if entry.is_hollow:
                raise _strange(self._place, entry.path, "it has attributes without data (metacopy)")
            self._note_seal(entry.path, protection(entry.reached))
            if not entry.is_directory:
                continue
            lower = self._lower_path(lower_of[os.path.dirname(entry.path)], entry)
            lower_of[entry.path] = lower
            if lower is not None and entry.redirect is not None:
                if lower in found:
                    why = f"it was {shown(lower)}, and so was {shown(found[lower])}"
                    raise _strange(self._place, entry.path, why)
                found[lower] = entry.path
        self._journal.moved = [os.fsdecode(path) for path in sorted(found, key=lambda path: -path.count(b"/"))]

    def _note_seal(self, path: bytes, letters: str) -> None:
        if letters:
            self._journal.seals.append((os.fsdecode(path), letters))

    def _lower_path(self, parent: Optional[bytes], entry: Entry) -> Optional[bytes]:
        """What of the tree a directory of the upper one is merged with; None: nothing."""
        if entry.is_opaque:
            return None
        lower = _merged_with(parent, entry)
        if lower is None:
            return None
        with contextlib.suppress(OSError):
            os.close(open_beneath(self._tree, lower, OPEN))
            return lower
        if entry.redirect is not None:
            raise _strange(self._place, entry.path, f"it was renamed from {shown(lower)}, where no directory was")
        return None

    # ----------------------------------------------------------------------------------------------------------- take

    def _take(self) -> None:
        """Rename every directory that was renamed out of the tree; a run that was cut off has taken some."""
        for number, text in enumerate(self._journal.moved):
            if stat_or_none(self._moved, b"%d" % number) is None:
                parent, _slash, name = os.fsencode(text).rpartition(b"/")
                with opened_at(self._tree, parent) as directory:
                    os.rename(name, b"%d" % number, src_dir_fd=directory, dst_dir_fd=self._moved)

    # ----------------------------------------------------------------------------------------------------------- fold

    def _fold(self) -> None:
        """Each directory of the upper one from above, its attributes when everything below it is done."""
        self._numbers = {os.fsencode(path): number for number, path in enumerate(self._journal.moved)}
        stack: List[Tuple[bytes, Optional[bytes], bool]] = [(b"", b"", False)]
        while stack:
            path, lower, done = stack.pop()
            if done:
                with opened_at(self._upper, path) as old, opened_at(self._tree, path) as new:
                    copy_attributes_at(old, new)
                continue
            stack.append((path, lower, True))
            with opened_at(self._upper, path) as upper, opened_at(self._tree, path) as tree:
                for entry in entries(upper, path):
                    if entry.is_directory:
                        stack.append((entry.path, self._place_directory(entry, tree, lower), False))
                    else:
                        self._fold_one(entry, tree)

    def _fold_one(self, entry: Entry, tree: int) -> None:
        """An entry that is no directory."""
        there = stat_or_none(tree, entry.name)
        if entry.is_whiteout:
            if there is not None:
                self._discard(tree, entry.name)
        elif there is None or not os.path.samestat(there, entry.status):
            entry.strip()
            if there is not None and stat.S_ISDIR(there.st_mode):
                self._discard(tree, entry.name)
            self._give_name(entry, tree)

    def _give_name(self, entry: Entry, tree: int) -> None:
        """Let the tree have the file too, in the place of what is there. A file with as many names as there can be leaves the
        upper directory for it."""
        made = b"link"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(made, dir_fd=self._scratch)
        try:
            os.link(entry.name, made, src_dir_fd=entry.directory, dst_dir_fd=self._scratch, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            os.rename(entry.name, entry.name, src_dir_fd=entry.directory, dst_dir_fd=tree)
        else:
            os.rename(made, entry.name, src_dir_fd=self._scratch, dst_dir_fd=tree)

    def _place_directory(self, entry: Entry, tree: int, parent: Optional[bytes]) -> Optional[bytes]:
        """Let a directory stand in the tree, with what of it it is merged with; where that was, None: nowhere."""
        opaque = entry.is_opaque
        there = stat_or_none(tree, entry.name)
        lower = None if opaque else _merged_with(parent, entry)
        if lower is not None and entry.redirect is not None:
            number = b"%d" % self._numbers[lower]
            if stat_or_none(self._moved, number) is not None:
                if there is not None:
                    self._discard(tree, entry.name)
                os.rename(number, entry.name, src_dir_fd=self._moved, dst_dir_fd=tree)
            return lower
        if there is not None and stat.S_ISDIR(there.st_mode):
            marked = attribute(reach(tree, entry.name), _MARK) is not None
            if marked or not opaque:
                return None if marked else lower
        if there is not None:
            self._discard(tree, entry.name)
        self._make_directory(tree, entry.name)
        return None

    def _make_directory(self, tree: int, name: bytes) -> None:
        made = b"directory"
        remove_at(self._scratch, made)
        os.mkdir(made, 0o700, dir_fd=self._scratch)
        os.setxattr(reach(self._scratch, made), _MARK, b"y", follow_symlinks=False)
        os.rename(made, name, src_dir_fd=self._scratch, dst_dir_fd=tree)

    def _discard(self, tree: int, name: bytes) -> None:
        os.rename(name, secrets.token_hex(8).encode(), src_dir_fd=tree, dst_dir_fd=self._trash)

    # ---------------------------------------------------------------------------------------------------------- clear

    def _clear(self) -> None:
        """Take the marks off, and give attributes back the names that they were given."""
        stack = [b""]
        while stack:
            path = stack.pop()
            with opened_at(self._upper, path) as upper, opened_at(self._tree, path) as tree:
                unescape(tree, upper)
                with contextlib.suppress(OSError):
                    os.removexattr(tree, _MARK)
                for entry in entries(upper, path):
                    if entry.is_directory:
                        stack.append(entry.path)
                    elif not entry.is_whiteout:
                        unescape(entry.reached, entry.reached)


def _merged_with(parent: Optional[bytes], entry: Entry) -> Optional[bytes]:
    """Where what a directory is merged with stands below, if it is there; ``parent``: where that of its parent does."""
    redirect = entry.redirect
    if redirect is not None and redirect.startswith(b"/"):
        return redirect.strip(b"/")
    return None if parent is None else os.path.join(parent, redirect or entry.name)


def _seal(place: FoldPlace, journal: _Journal, published: bytes) -> None:
    """Flags after which nothing can be changed any more. The upper directory's names go first: an immutable file keeps all."""
    if os.path.isdir(place.upper):
        with opened_directory(place.upper) as upper:
            for text, _letters in journal.seals:
                with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                    _unlink(upper, os.fsencode(text))
    with opened_directory(published) as root:
        for text, letters in reversed(journal.seals):  # what is in a directory before the directory
            if text:
                descriptor = open_beneath(root, os.fsencode(text), _OPEN_ANY)
                try:
                    _set_flags(descriptor, letters)
                finally:
                    os.close(descriptor)
        os.fsync(root)


def _set_flags(descriptor: int, letters: str) -> None:
    flags = sum(_LETTERS.get(letter, 0) for letter in letters)
    inodes.set_flags(descriptor, flags, flags)


def _unlink(root: int, path: bytes) -> None:
    parent, _slash, name = path.rpartition(b"/")
    if name:
        with opened_at(root, parent) as directory:
            os.unlink(name, dir_fd=directory)


def _load(place: FoldPlace) -> Optional[_Journal]:
    path = os.path.join(place.scratch, _JOURNAL)
    try:
        with open(path, "rb") as file:
            kept = json.load(file)
        return _Journal(kept["phase"], list(kept["moved"]), [(path, letters) for path, letters in kept["seals"]])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HostError("the journal of a fold cannot be read", where=shown(path), why=str(error)) from error


def _assert_one_filesystem(place: FoldPlace) -> None:
    devices = {os.stat(path).st_dev for path in (place.upper, place.tree, place.scratch)}
    if len(devices) > 1:
        raise RefusedError(
            "what was written cannot be folded into the tree",
            where=shown(place.tree),
            why="it lies on another file system, or in another subvolume",
        )


def _translated(place: FoldPlace, error: OSError) -> VoltoolError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpaceError(
            "the file system is full",
            where=shown(place.tree),
            why="what was written during a lazy move cannot be folded in; nothing of it is lost, and nobody can write meanwhile",
            remedy="make room there; it goes on by itself",
        )
    why = f"{error.strerror or error}" + (f": {error.filename!a}" if error.filename else "")
    return HostError("what was written cannot be folded into the tree", where=shown(place.tree), why=why)


def _strange(place: FoldPlace, path: bytes, why: str) -> IntegrityError:
    return IntegrityError(
        "the upper directory of the overlay is not as an overlay leaves it",
        where=shown(os.path.join(place.upper, path)),
        why=why,
        remedy="nothing was changed; report this",
    )
