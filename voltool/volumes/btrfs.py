"""The driver for btrfs subvolumes: clones are read-only snapshots, changes come from the kernel. Ships to servers.

A clone ``<area>/clones/<label>`` has its record ``<label>.json`` beside it. The record is written before the snapshot is
made and removed after it is deleted, so a snapshot always has one; the snapshot's UUID and generation are added to it
afterwards. No btrfs-progs are needed. See contract.py for what it promises.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from typing import Any, Dict, Iterator, List, Optional, Tuple

from voltool import durable
from voltool.beneath import opened_directory
from voltool.errors import HostError, RefusedError, SpaceError, VoltoolError
from voltool.frozen import dataclass
from voltool.model import Consistency, VolumeRecord
from voltool.origins import Origins
from voltool.showing import shown
from voltool.volumes import btrfs_ioctl as btrfs
from voltool.volumes.btrfs_changes import SnapshotDelta, are_same, compare_snapshots
from voltool.volumes.contract import MOST_TIMED, ByteRange, Changes, Clone, SameBytes
from voltool.volumes.labels import clone_path, clones_directory
from voltool.volumes.records import AREA_NAME
from voltool.volumes.traits import synchronize

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: The clone that is made for a comparison and gone after it.
_COMPARED = "compared"


@dataclass(frozen=True)
class _CloneRecord:
    """What stands beside a snapshot. ``generation`` is -1 and ``uuid`` empty while the snapshot is being made."""

    time_ns: int
    boot_id: str
    uuid: str = ""
    generation: int = -1


class BtrfsDriver:
    """Subvolumes on btrfs. Remembers the last comparison, so that `changed_ranges` costs nothing after `changes`."""

    name = "btrfs"
    compares = True

    def __init__(self) -> None:
        self._asked: Optional[Tuple[Clone, Clone]] = None
        self._last: Optional[SnapshotDelta] = None

    def adopt(self, path: bytes) -> None:
        """Check that it is a subvolume without others inside, and that we may snapshot it."""
        with _translated(path):
            if not btrfs.is_subvolume(path):
                raise RefusedError(
                    "this is not a btrfs subvolume",
                    where=shown(path),
                    remedy="--driver directory, or make it one: btrfs subvolume create, then move the data in",
                )
        if os.geteuid() != 0:
            raise _needs_root(path)
        self._refuse_nested(path)

    def prepare(self, volume: VolumeRecord) -> None:
        """A snapshot needs no preparation."""

    def clone(self, volume: VolumeRecord, label: str) -> Clone:
        """Make a read-only snapshot."""
        self.adopt(volume.path)
        directory = clones_directory(volume)
        with _translated(volume.path):
            durable.make_directory(directory)
            if os.path.lexists(clone_path(directory, label)):
                raise RefusedError("the clone exists already", where=shown(clone_path(directory, label)))
            synchronize(volume.path)
            clone = _make(directory, label, volume.path)
        if clone is None:
            raise HostError("the snapshot that was just made is not there", where=shown(clone_path(directory, label)))
        return clone

    def find(self, volume: VolumeRecord, label: str) -> Optional[Clone]:
        """The snapshot, if it is the one its record speaks of and nobody has changed it."""
        return _find(clones_directory(volume), label)

    def clones(self, volume: VolumeRecord) -> List[Clone]:
        """All snapshots that are ours, by label. Also takes away records whose snapshot is gone."""
        directory = clones_directory(volume)
        try:
            names = sorted(os.listdir(directory))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _translate(error, directory) from error
        labels = [os.fsdecode(name[:-5]) for name in names if name.endswith(b".json")]
        return [clone for clone in (self.find(volume, label) for label in labels) if clone is not None]

    def open(self, clone: Clone) -> int:
        """The snapshot's root."""
        with _translated(clone.path):
            return os.open(clone.path, _OPEN)

    def origins(self, clone: Clone) -> Optional[Origins]:  # noqa: ARG002 - the contract's
        """A snapshot's inodes are the volume's."""
        return None

    def drop(self, volume: VolumeRecord, clone: Clone) -> None:
        """Delete the snapshot, then its record."""
        directory = clones_directory(volume)
        if clone.live or clone.path != clone_path(directory, clone.label):
            raise RefusedError("this is not a clone of the volume", where=shown(clone.path))
        destroy_clone(directory, clone.label)

    def changes(
        self, volume: VolumeRecord, base: Clone, clone: Clone, most_timed: int = MOST_TIMED
    ) -> Optional[Changes]:
        """From the stream of `send --no-data` with a parent."""
        if self.find(volume, base.label) != base or self.find(volume, clone.label) != clone:
            return None
        delta = self._delta(base, clone, most_timed)
        if delta is None:
            return None
        own = AREA_NAME + b"/"
        return Changes(
            tuple((inode, path) for inode, path in delta.inodes if path != AREA_NAME and not path.startswith(own)),
            delta.timed,
        )

    def changed_ranges(self, base: Clone, clone: Clone, path: bytes) -> Optional[List[ByteRange]]:
        """From the same stream."""
        delta = self._delta(base, clone)
        return None if delta is None else delta.ranges(path)

    def path_of(self, clone: Clone, inode: int) -> Optional[bytes]:
        """One of its paths, as the kernel has them."""
        with _translated(clone.path), opened_directory(clone.path) as descriptor:
            paths = btrfs.inode_paths(descriptor, inode)
        return paths[0] if paths else None

    @contextlib.contextmanager
    def same_bytes(self, base: Clone, clone: Clone) -> Iterator[Optional[SameBytes]]:
        """Where its extents, and the bytes that lie in the tree itself, are the same ones: both are read-only, so that nothing
        is written in place. It is what `send` compares."""
        with opened_directory(base.path) as old, opened_directory(clone.path) as new:

            def same(inode: int) -> bool:
                known = btrfs.file_extents(old, inode)
                return known is not None and known == btrfs.file_extents(new, inode)

            yield same

    def _delta(self, base: Clone, clone: Clone, most_timed: int = MOST_TIMED) -> Optional[SnapshotDelta]:
        if self._asked != (base, clone):
            self._asked, self._last = (base, clone), compare_snapshots(base, clone, most_timed)
        return self._last

    def _refuse_nested(self, path: bytes) -> None:
        with _translated(path), opened_directory(path) as descriptor:
            nested = btrfs.nested_subvolumes(descriptor)
        others = [name for name in nested if not name.startswith(AREA_NAME + b"/")]
        if others:
            raise RefusedError(
                "the volume has subvolumes inside, which a snapshot leaves out",
                where=", ".join(shown(os.path.join(path, name)) for name in others[:10]),
                why=f"{len(others)} nested subvolume{'s' if len(others) > 1 else ''}",
                remedy="add each as a volume of its own and move it outside, or turn it into a directory",
            )


def _make(directory: bytes, label: str, source: bytes) -> Optional[Clone]:
    """The record of its intent first: a snapshot always has one."""
    _write_record(directory, label, _CloneRecord(time.time_ns(), _boot_id()))
    try:
        _snapshot(source, directory, label)
    except BaseException:
        durable.remove_file(clone_path(directory, label + ".json"))
        raise
    return _find(directory, label)


def _snapshot(source: bytes, directory: bytes, label: str) -> None:
    with opened_directory(source) as volume, opened_directory(directory) as clones:
        try:
            btrfs.create_snapshot(clones, label.encode(), volume)
        except OSError as error:
            if error.errno == errno.ETXTBSY:
                raise RefusedError(
                    "the volume has an active swap file",
                    where=shown(source),
                    why="btrfs cannot snapshot a subvolume while it swaps to a file in it",
                    remedy="swapoff the file, or move it to a subvolume of its own outside the volume",
                ) from error
            raise
    record = _read_record(directory, label)
    info = _info(clone_path(directory, label))
    if record is not None:
        done = _CloneRecord(record.time_ns, record.boot_id, info.uuid, info.generation)
        _note(directory, label, done)


def _find(directory: bytes, label: str) -> Optional[Clone]:
    path = clone_path(directory, label)
    record = _read_record(directory, label)
    if record is None:
        return None
    try:
        if not btrfs.is_subvolume(path):
            return None
        info = _info(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _translate(error, path) from error
    if not info.read_only:
        return None
    if not record.uuid:
        # made by a process that died before it could note whom it made, or that is about to
        record = _CloneRecord(record.time_ns, record.boot_id, info.uuid, info.generation)
        with _translated(path):
            _note(directory, label, record)
    if (record.uuid, record.generation) != (info.uuid, info.generation):
        return None
    return Clone(label, path, record.time_ns, live=False, consistency=Consistency.SNAPSHOT, uuid=info.uuid)


def is_as_cloned(directory: bytes, label: str, place: bytes) -> bool:
    """Whether the subvolume that stands at ``place`` now is, for certain, what the clone ``label`` of it in a directory of clones
    shows. False where it is not, or where that cannot be told."""
    try:
        base = _find(directory, label)
        if base is None or not btrfs.is_subvolume(place):
            return False
        destroy_clone(directory, _COMPARED)
        synchronize(place)
        try:
            clone = _make(directory, _COMPARED, place)
            return clone is not None and are_same(base, clone)
        finally:
            destroy_clone(directory, _COMPARED)
    except (OSError, VoltoolError):
        return False


def destroy_clone(directory: bytes, label: str) -> None:
    """Delete the snapshot ``label`` in a directory of clones, then its record. Idempotent. Also for `host clean`."""
    path = clone_path(directory, label)
    with _translated(path):
        try:
            with opened_directory(directory) as clones:
                if btrfs.is_subvolume(path):
                    btrfs.destroy_subvolume(clones, label.encode())
        except FileNotFoundError:
            pass
        with contextlib.suppress(FileNotFoundError):
            durable.remove_file(clone_path(directory, label + ".json"))


def _note(directory: bytes, label: str, record: _CloneRecord) -> None:
    """Write down whom a snapshot is. Several sessions about one volume may note the same at once: then one of them takes the
    other's unfinished file, which says just that, and gives it its name."""
    with contextlib.suppress(FileNotFoundError):
        _write_record(directory, label, record)


def _write_record(directory: bytes, label: str, record: _CloneRecord) -> None:
    content = {
        "label": label,
        "time_ns": record.time_ns,
        "boot_id": record.boot_id,
        "uuid": record.uuid,
        "generation": record.generation,
    }
    durable.write_file(clone_path(directory, label + ".json"), json.dumps(content).encode() + b"\n")


def _read_record(directory: bytes, label: str) -> Optional[_CloneRecord]:
    try:
        with open(clone_path(directory, label + ".json"), "rb") as file:
            content: Dict[str, Any] = json.load(file)
        return _CloneRecord(
            int(content["time_ns"]), str(content["boot_id"]), str(content["uuid"]), int(content["generation"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _info(path: bytes) -> btrfs.Subvolume:
    with opened_directory(path) as descriptor:
        return btrfs.subvolume_info(descriptor)


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


@contextlib.contextmanager
def _translated(path: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _translate(error, path) from error


def _translate(error: OSError, path: bytes) -> VoltoolError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpaceError(
            "there is no room for a snapshot",
            where=shown(path),
            why=error.strerror or str(error),
            remedy="free space, or run btrfs balance where data fills all chunks",
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        return _needs_root(path)
    return HostError(
        "btrfs refused what voltool needs",
        where=shown(path),
        why=error.strerror or str(error),
        remedy="dmesg may say more",
    )


def _needs_root(path: bytes) -> HostError:
    return HostError(
        "snapshots need root",
        where=shown(path),
        why=f"voltool runs there as user {os.geteuid()}",
        remedy="log in as root, or set become = true for the host and allow sudo; --driver directory works without",
    )
