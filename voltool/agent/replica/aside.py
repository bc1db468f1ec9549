"""What was written to a volume after the state that was promoted elsewhere: the retired copy compared with that state's
manifest.

Where the host has kept the state with its home stamps only what changed is read; else every file is read and hashed. What
differs is named by its path. Ships to servers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
from typing import Iterator, List, Set, Tuple

from voltool import durable
from voltool.agent.manifest import NO_DUMP
from voltool.dumpfile import codec as codecs
from voltool.dumpfile import format as fmt
from voltool.dumpfile.bitmap import Bitmap
from voltool.dumpfile.writer import DumpWriter
from voltool.frozen import dataclass
from voltool.model import ROOT_OBJECT, Consistency
from voltool.spool import SortedSpool
from voltool.tree.apply.skeleton import is_directory
from voltool.tree.classify import Classifier
from voltool.tree.opening import CaptureSettings
from voltool.tree.produce import Producer
from voltool.tree.state import BaseState, StateKeeper
from voltool.tree.walk import Walker
from voltool.volumes.traits import synchronize, traits_of

#: How many paths go into the record; all of them into a file beside the copy.
NAMED = 100


@dataclass(frozen=True)
class Aside:
    """``paths`` written after the state, at the most `NAMED` of them, ``count`` in all (-1: nobody knows). ``state_id``:
    what the copy is."""

    paths: Tuple[bytes, ...]
    count: int
    state_id: str = ""


@dataclass(frozen=True)
class Copy:
    """A retired copy at ``tree``. ``by_entries``: its root is another directory than it was. ``tmp`` for the scan;
    ``listed``: the file that gets all paths, each ended by a NUL, where there are any."""

    tree: bytes
    by_entries: bool
    tmp: bytes
    listed: bytes


def find_aside(copy: Copy, base: BaseState, keeper: StateKeeper) -> Aside:
    """Compare the copy with ``base``, which ``keeper`` keeps. What the copy is becomes a state there. Raises OSError,
    VoltoolError."""
    tmp = copy.tmp
    shutil.rmtree(tmp, ignore_errors=True)
    durable.make_directory(tmp)
    synchronize(copy.tree)
    root = os.open(copy.tree, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        state_id = _capture(root, copy, base, keeper)
    finally:
        os.close(root)
        shutil.rmtree(tmp, ignore_errors=True)
    now = keeper.open(state_id)
    assert now is not None
    with contextlib.closing(now):
        paths = sorted(set(_differing(base, now, by_entries=copy.by_entries)))
    if paths:
        durable.write_file(copy.listed, b"".join(path + b"\0" for path in paths))
    else:
        durable.remove_file(copy.listed)
    return Aside(tuple(paths[:NAMED]), len(paths), state_id)


def _capture(root: int, copy: Copy, base: BaseState, keeper: StateKeeper) -> str:
    """The state that the tree is; nothing of its data goes anywhere."""
    traits = traits_of(root)
    with contextlib.ExitStack() as stack:

        def spool() -> SortedSpool:
            made = SortedSpool(copy.tmp)
            stack.callback(made.close)
            return made

        walk = Walker(root, spool(), live=True, tick=_unheard).walk()
        if not traits.stable_inodes:
            base.forget_stamps()
        classified = Classifier(walk, base, spool, unchanged_counts=True).classify()
        state = keeper.create("aside")
        settings = CaptureSettings(
            root, live=True, clone_time_ns=time.time_ns(), codec=codecs.codec_named("none"), key=keeper.key(),
            leases=traits.leases, blocks=keeper.blocks, origins=None,
        )  # fmt: skip
        produced = Producer(
            classified, base, settings, DumpWriter(_nowhere, settings.codec), state, spool,
            workers=min(4, os.cpu_count() or 1), advance=_unheard, changed_ranges=lambda _path: None,
        ).produce(_HEADER)  # fmt: skip
        state.publish(produced.totals.state_id, produced.next_number)
    return produced.totals.state_id


def _nowhere(data: codecs.Buffer) -> None:
    del data


def _unheard(first: int, second: int) -> None:
    del first, second


_HEADER = dataclasses.replace(NO_DUMP, level=9, consistency=Consistency.LOCKED)


def _differing(base: BaseState, now: BaseState, *, by_entries: bool) -> Iterator[bytes]:
    """The paths of what is new, gone, or other than it was."""
    changed = _changed_objects(base, now, by_entries=by_entries)
    old, new = _Names(base), _Names(now)
    if ROOT_OBJECT in changed and not by_entries:
        yield b"."
    olds, news = iter(base.entries), iter(now.entries)
    one, other = next(olds, None), next(news, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one < other):
            assert one is not None
            yield old.path(one)
            one = next(olds, None)
        elif one is None or other < one:
            yield new.path(other)
            other = next(news, None)
        else:
            if int.from_bytes(other[-8:], "big") in changed:
                yield new.path(other)
            one, other = next(olds, None), next(news, None)


def _changed_objects(base: BaseState, now: BaseState, *, by_entries: bool) -> Bitmap:
    """Objects of both states whose records differ; of a directory the times say nothing that its names do not."""
    changed = Bitmap()
    olds = iter(base.objects)
    one = next(olds, None)
    for record in now.objects:
        while one is not None and one[:8] < record[:8]:
            one = next(olds, None)
        if one is None or one[:8] != record[:8] or one == record:
            continue
        number = int.from_bytes(record[:8], "big")
        if not (by_entries and number == ROOT_OBJECT) and _plain(one) != _plain(record):
            changed.add(number)
    return changed


def _plain(record: bytes) -> fmt.ObjectRecord:
    """Without what a scan may say otherwise of the very same object."""
    found = fmt.decode_object(record)._replace(state=0)
    return found._replace(mtime_s=0, mtime_ns=0) if is_directory(record) else found


class _Names:
    """Paths of a state's entries."""

    def __init__(self, state: BaseState) -> None:
        directories: Set[int] = {int.from_bytes(record[:8], "big") for record in state.objects if is_directory(record)}
        self._above = {}
        for entry in state.entries:
            directory, name, number = fmt.decode_entry(entry)
            if number in directories:
                self._above[number] = (directory, name)

    def path(self, entry: bytes) -> bytes:
        """Of one entry, relative to the root."""
        directory, name, _number = fmt.decode_entry(entry)
        parts: List[bytes] = [name]
        while directory != ROOT_OBJECT and directory in self._above:
            directory, name = self._above[directory]
            parts.append(name)
        return b"/".join(reversed(parts))
