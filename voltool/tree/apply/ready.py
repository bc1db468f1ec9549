"""From a held tree to one that only needs its name: assembled, its home stamps taken; and back to the flat form.

Home stamps are taken while nobody can reach the tree, so that the first dump at its new home finds what changed since, and
only that. Ships to servers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import struct
import time
from typing import Dict, Iterable, Iterator, List, Optional, Set, Tuple

from voltool import durable, inodes
from voltool.dumpfile import format as fmt
from voltool.dumpfile.bitmap import Bitmap
from voltool.model import ROOT_OBJECT
from voltool.spool import SortedSpool
from voltool.tree.apply.assemble import DirectorySpool
from voltool.tree.apply.attributes import EARLY_DIRECTORY_FLAGS, SEALS, Attributes
from voltool.tree.apply.batches import make_missing
from voltool.tree.apply.files import flat_directory, flat_path, translate
from voltool.tree.apply.finish import Finisher
from voltool.tree.apply.held import HeldRecord, HeldTree
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.names import Directories
from voltool.tree.apply.parts import Parts, forget_parts, load_parts, stamps_of_parts, tree_of_parts
from voltool.tree.apply.skeleton import is_directory
from voltool.tree.apply.staging import Phase, Progress, Way, strip
from voltool.tree.stamps import SETTLED, encode_home, encode_stamp, first_of_each
from voltool.tree.state import BaseState

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: A ctime younger than this is not believed yet: clocks of file systems tick (nanoseconds).
_TICKS_NS = 20_000_000
#: So many different directories are tried beforehand; of the others is known when they are put together.
_REHEARSALS = 1000
_KEY = struct.Struct(">iQQB")


def make_ready(held: HeldTree, attributes: Attributes, losses: Losses) -> str:
    """Take the home stamps, assemble, sync: publishing is one rename then. The state's id. Raises VoltoolError."""
    assert held.record is not None
    if not is_flat(held):
        take_apart(held)  # an assembly was interrupted
    state = held.state()
    directories = DirectorySpool(held.staging.path)
    parts = load_parts(held.staging.path)
    try:
        take_stamps(held, state, parts)
        for depth, parent, name, record in _tree(held, state, parts):
            directories.add(depth, parent, name, record)
        progress = Finisher(held.staging, attributes, losses).assemble(
            directories, _sealed_files(state, parts), held.staging.progress
        )
    except OSError as error:
        raise translate(error, "the staged tree") from error
    finally:
        directories.close()
        state.close()
    held.staging.save(progress)
    held.save(HeldRecord(held.record.state_id, assembled=True))
    forget_parts(held.staging.path)
    return held.record.state_id


def rehearse(held: HeldTree, attributes: Attributes) -> None:
    """Try what directories will be given when they are put together on one that is thrown away: what the file system cannot hold
    is known before the lock then. What is the same for many is tried once."""
    place = os.path.join(held.staging.path, b"rehearsal")
    tried: Set[bytes] = set()
    with contextlib.closing(held.state()) as state:
        for data in state.objects:
            if not is_directory(data) or len(tried) >= _REHEARSALS:
                continue
            record = fmt.decode_object(data)
            kind = b"%d %d " % (record.flags, bool(record.project)) + record.xattrs
            if kind not in tried and (record.flags or record.project or record.xattrs):
                tried.add(kind)
                _rehearse(place, record, attributes)


def _rehearse(place: bytes, record: fmt.ObjectRecord, attributes: Attributes) -> None:
    os.mkdir(place, 0o700)
    try:
        descriptor = os.open(place, _OPEN)
        try:
            attributes.early(descriptor, record, EARLY_DIRECTORY_FLAGS)
            attributes.finish(descriptor, record, seal=False)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise translate(error, "a directory") from error
    finally:
        os.rmdir(place)


def publish_ready(held: HeldTree, attributes: Attributes, losses: Losses, root: bytes) -> None:
    """Give the assembled tree its name and remove the staging. ``root``: the root's object record. Repeatable."""
    Finisher(held.staging, attributes, losses).publish(fmt.decode_object(root), held.staging.progress)


def is_flat(held: HeldTree) -> bool:
    """Whether the tree is in its flat form: neither assembled nor on the way there, where a run was cut off."""
    assert held.record is not None
    return not held.record.assembled and held.staging.progress.phase is Phase.DATA


def take_apart(held: HeldTree) -> None:
    """Back to the flat form, so that another increment can be applied; where parts are written down, of these alone. Repeatable
    after a crash, which leaves it not flat (`is_flat`)."""
    assert held.record is not None
    state = held.state()
    staging = held.staging
    if is_flat(held):
        staging.save(dataclasses.replace(staging.progress, phase=Phase.ASSEMBLE))
    held.save(HeldRecord(held.record.state_id))
    spool = SortedSpool(staging.path)
    try:
        for depth, parent, name, record in _tree(held, state, load_parts(staging.path)):
            spool.add(_KEY.pack(depth, parent, int.from_bytes(record[:8], "big"), len(name)) + name)
        for data in spool:
            _depth, parent, number, length = _KEY.unpack_from(data)
            name = data[_KEY.size : _KEY.size + length]
            if number != ROOT_OBJECT:
                _part(staging.descriptor, flat_path(parent) + b"/" + name, flat_path(number))
            _make_plain(staging.descriptor, flat_directory(number))
        staging.sync()
    except OSError as error:
        raise translate(error, "the staged tree") from error
    finally:
        spool.close()
        state.close()
    kept = staging.progress
    staging.save(Progress(Phase.DATA, kept.resume_after, kept.content_bytes, kept.files, kept.data_bytes, kept.way))


def take_all_apart(held: HeldTree) -> None:
    """Back to the flat form, also of a tree of which parts alone were taken out, by a run that was cut off: the stamps of the
    rest count no more. Repeatable after a crash, as `take_apart`."""
    if load_parts(held.staging.path) is not None:
        held.staging.save(
            dataclasses.replace(held.staging.progress, phase=Phase.ASSEMBLE)
        )  # it is not flat, whatever happens
        forget_parts(held.staging.path)
    if not is_flat(held):
        take_apart(held)


def take_stamps(held: HeldTree, state: BaseState, parts: Optional[Parts] = None) -> None:
    """Write the state's home stamps from what stands in the flat tree now (of ``parts`` alone); directories count as
    unsettled."""
    staging = held.staging
    staging.sync()
    believed = time.time_ns() - _TICKS_NS
    if parts is not None:
        _take_stamps_of(held, state, parts, believed)
        return
    unsettled = _unsettled(state)
    moved = staging.way in (Way.ENTRIES, Way.MERGE)
    spool = SortedSpool(staging.path)
    last = -1
    descriptor = -1
    try:
        root = os.stat(flat_path(ROOT_OBJECT), dir_fd=staging.descriptor)
        spool.add(encode_home(root.st_ino, ROOT_OBJECT, encode_stamp(root), 0))
        for entry in state.entries:
            directory, name, number = fmt.decode_entry(entry)
            if directory != last:
                if descriptor >= 0:
                    os.close(descriptor)
                descriptor = os.open(flat_directory(directory), _OPEN, dir_fd=staging.descriptor)
                last = directory
            status = _status(descriptor, name) or _status(staging.descriptor, flat_path(number))
            if status is None:
                continue  # the target could not hold it
            believable = not (stat.S_ISDIR(status.st_mode) or number in unsettled)
            believable = believable and status.st_ctime_ns < believed and not (moved and directory == ROOT_OBJECT)
            spool.add(encode_home(status.st_ino, number, encode_stamp(status), SETTLED if believable else 0))
        _write_stamps(held, first_of_each(spool))
    finally:
        if descriptor >= 0:
            os.close(descriptor)
        spool.close()


def _take_stamps_of(held: HeldTree, state: BaseState, parts: Parts, believed: int) -> None:
    """Those of the rest are of the state that the tree was of when it was taken apart first."""
    before = held.keeper.open(held.stamped)
    if before is None or before.stamps is None:
        raise fmt.damaged("the home stamps of what is served cannot be read")
    with contextlib.closing(before), SortedSpool(held.staging.path) as spool:
        _write_stamps(held, stamps_of_parts(held.staging.descriptor, state, parts, before.stamps, believed, spool))


def _write_stamps(held: HeldTree, homes: Iterable[bytes]) -> None:
    assert held.record is not None
    path = os.path.join(held.keeper.directory, held.record.state_id.encode(), b"stamps")
    with open(path + b".new", "wb", buffering=1 << 20) as file:
        file.writelines(homes)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + b".new", path)
    durable.fsync_directory(os.path.dirname(path))


def _status(directory: int, path: bytes) -> Optional[os.stat_result]:
    try:
        return os.stat(path, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _unsettled(state: BaseState) -> Bitmap:
    """Objects whose content is not known to be what the manifest says."""
    doubtful = fmt.STATE_UNKNOWN | fmt.STATE_UNSETTLED | fmt.STATE_FUZZY
    found = Bitmap()
    for record in state.objects:
        if record[fmt.STATE_OFFSET] & doubtful:
            found.add(int.from_bytes(record[:8], "big"))
    return found


def _sealed_files(state: BaseState, parts: Optional[Parts]) -> Dict[bytes, int]:
    """Names in the root of files whose +i or +a has to wait until they are published; what is no part still has them."""
    sealed = {}
    for entry in state.entries.group(ROOT_OBJECT):
        _directory, name, number = fmt.decode_entry(entry)
        if parts is not None and number not in parts.touched:
            continue
        record = state.object(number)
        if record is not None and not is_directory(record):
            flags = fmt.decode_object(record).flags
            if flags & SEALS:
                sealed[name] = flags
    return sealed


def _tree(held: HeldTree, state: BaseState, parts: Optional[Parts]) -> Iterator[Tuple[int, int, bytes, bytes]]:
    """(depth, parent, name, record) of every directory (of the parts), the root first."""
    if parts is not None:
        return tree_of_parts(state, parts)
    return _whole_tree(held, state)


def _whole_tree(held: HeldTree, state: BaseState) -> Iterator[Tuple[int, int, bytes, bytes]]:
    directories = Directories()
    for record in state.objects:
        if is_directory(record):
            directories.numbers.append(int.from_bytes(record[:8], "big"))
    with SortedSpool(held.staging.path) as spool:
        known = Bitmap()
        for number in directories.numbers:
            known.add(number)
        for entry in state.entries:
            if int.from_bytes(entry[-8:], "big") in known:
                spool.add(entry[-8:] + entry[:-9])
        names: List[bytes] = [b""]
        directories.parents.append(0)
        for child in spool:
            directories.parents.append(int.from_bytes(child[8:16], "big"))
            names.append(child[16:])
    if len(directories.parents) != len(directories.numbers):
        raise fmt.damaged("a directory has no name, or more than one")
    directories.measure()
    at = 0
    for record in state.objects:
        if is_directory(record):
            yield directories.depths[at], directories.parents[at], names[at], record
            at += 1


def _part(staging: int, path: bytes, flat: bytes) -> None:
    try:
        status = os.stat(path, dir_fd=staging, follow_symlinks=False)
    except FileNotFoundError:
        return  # taken out by a run that was interrupted, or never assembled
    if not stat.S_ISDIR(status.st_mode):
        return
    _unseal(staging, path)
    make_missing(staging, os.path.dirname(flat))
    os.rename(path, flat, src_dir_fd=staging, dst_dir_fd=staging)


def _unseal(staging: int, path: bytes) -> None:
    descriptor = os.open(path, _OPEN, dir_fd=staging)
    try:
        if inodes.get_flags(descriptor)[0] & SEALS:
            inodes.set_flags(descriptor, 0, SEALS)
    finally:
        os.close(descriptor)


def _make_plain(staging: int, path: bytes) -> None:
    """Take off what assembling gave the directory: what is made in it must inherit nothing."""
    descriptor = os.open(path, _OPEN, dir_fd=staging)
    try:
        if inodes.get_flags(descriptor)[0] & SEALS:
            inodes.set_flags(descriptor, 0, SEALS)
        for name in inodes.list_xattrs(descriptor):
            # XFS shows each ACL a second time as trusted.SGI_ACL_*: it goes with the first.
            if name.startswith(("user.", "trusted.", "system.posix_acl_")) and not name.startswith("trusted.SGI_ACL_"):
                os.removexattr(descriptor, name)
        os.chown(descriptor, os.geteuid(), os.getegid())
        strip(descriptor)
    finally:
        os.close(descriptor)
