"""The driver for ZFS datasets: clones are snapshots. Ships to servers. See contract.py for what it promises.

A clone is the snapshot ``<dataset>@voltool-<part of the uuid>-<label>``. What is known of it are its own properties, which come
into being with it: so it is there whole, or not at all. ``<area>/clones/<label>.json``, written before and removed after it, only
tells `host clean` that there is something to destroy. zfs_view.py says how it is read.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from typing import Callable, Dict, Iterator, List, Optional

from voltool import durable
from voltool.errors import HostError, RefusedError, SpaceError, VoltoolError
from voltool.frozen import dataclass
from voltool.model import Consistency, VolumeRecord
from voltool.origins import Origins
from voltool.showing import shown
from voltool.volumes import zfs_command as zfs
from voltool.volumes import zfs_view
from voltool.volumes.contract import MOST_TIMED as MOST
from voltool.volumes.contract import ByteRange, Changes, Clone, Telling
from voltool.volumes.labels import clone_path, clones_directory
from voltool.volumes.mounts import is_within, read_mounts
from voltool.volumes.traits import synchronize

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LABEL_PROPERTY = "voltool:label"
_TIME_PROPERTY = "voltool:time"
#: Set on a snapshot that was dropped while somebody looked into it: it goes with the next clone at the latest.
_DROPPED_PROPERTY = "voltool:dropped"
_UUID_PART = 8
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:")


@dataclass(frozen=True)
class _Snapshot:
    """A snapshot of ours. ``going``: it is dropped, and waits until nobody holds it any more."""

    name: str
    label: str
    time_ns: int
    guid: str
    going: bool


class ZfsDriver:
    """Datasets of OpenZFS and of zfs-fuse."""

    name = "zfs"
    compares = False

    def adopt(self, path: bytes) -> None:
        """Check that it is the root of a mounted dataset without others inside, and that we may snapshot it."""
        with _translated(path):
            os.close(os.open(path, _OPEN))
        dataset = zfs.dataset_at(path)
        if dataset is None:
            raise _no_dataset(path)
        if os.geteuid() != 0:
            raise HostError(
                "snapshots need root",
                where=shown(path),
                why=f"voltool runs there as user {os.geteuid()}",
                remedy="log in as root, or set become = true for the host; --driver directory works without",
            )
        _refuse_nested(path, dataset)

    def prepare(self, volume: VolumeRecord) -> None:
        """A snapshot needs no preparation."""

    def clone(self, volume: VolumeRecord, label: str) -> Clone:
        """Make a snapshot, and see that it can be read."""
        self.adopt(volume.path)
        dataset = _dataset(volume)
        _check_label(dataset, volume, label)
        note = _note_path(volume, label)
        _destroy_going(dataset, volume.uuid)
        snapshot = _snapshot_name(dataset, volume, label)
        if zfs.get([snapshot], "type"):
            raise RefusedError("the clone exists already", where=shown(os.fsencode(snapshot)))
        with _translated(volume.path):
            durable.make_directory(os.path.dirname(note))
            synchronize(volume.path)
            durable.write_file(note, json.dumps({"snapshot": snapshot}).encode() + b"\n")
        properties = {
            zfs.OWNER_PROPERTY: volume.uuid,
            _LABEL_PROPERTY: label,
            _TIME_PROPERTY: str(time.time_ns()),
        }
        try:
            zfs.call("snapshot", *(part for pair in properties.items() for part in ("-o", "=".join(pair))), snapshot)
            return self._readable(volume, label)
        except BaseException:
            with contextlib.suppress(VoltoolError):
                _destroy(snapshot)
                durable.remove_file(note)
            raise

    def _readable(self, volume: VolumeRecord, label: str) -> Clone:
        clone = self.find(volume, label)
        if clone is None:
            raise HostError("the snapshot that was just made is not there", where=shown(volume.path), why=label)
        os.close(self.open(clone))
        return clone

    def find(self, volume: VolumeRecord, label: str) -> Optional[Clone]:
        """The snapshot, if it is ours: made here for this volume (a received copy is not), and not dropped."""
        dataset = zfs.dataset_at(volume.path)
        if dataset is None or not set(label) <= _NAME_CHARACTERS:
            return None
        found = _look_at([_snapshot_name(dataset, volume, label)], volume.uuid)
        return _clone_of(volume, found[0]) if found and not found[0].going else None

    def clones(self, volume: VolumeRecord) -> List[Clone]:
        """All snapshots that are ours, by label."""
        dataset = zfs.dataset_at(volume.path)
        if dataset is None:
            return []
        found = _look_at(_candidates(dataset, volume.uuid), volume.uuid)
        return sorted((_clone_of(volume, item) for item in found if not item.going), key=lambda clone: clone.label)

    def open(self, clone: Clone) -> int:
        """The snapshot's root, which is mounted for that where it is not."""
        with _translated(clone.path):
            return zfs_view.open_place(clone.path)

    def origins(self, clone: Clone) -> Optional[Origins]:  # noqa: ARG002 - the contract's
        """A snapshot's inodes are the volume's."""
        return None

    def drop(self, volume: VolumeRecord, clone: Clone) -> None:
        """Destroy what shows the snapshot, the snapshot, and the note."""
        dataset = _dataset(volume)
        snapshot = _snapshot_name(dataset, volume, clone.label)
        if clone.live or os.path.basename(clone.path) not in (
            _own_name(volume, clone.label),
            zfs_view.flat_name(snapshot),
        ):
            raise RefusedError("this is not a clone of the volume", where=shown(clone.path))
        if _look_at([snapshot], volume.uuid):
            try:
                _destroy(snapshot)
            except zfs.ZfsBusyError:
                zfs.call("set", f"{_DROPPED_PROPERTY}=yes", snapshot)
        with _translated(volume.path):
            durable.remove_file(_note_path(volume, clone.label))

    def changes(self, volume: VolumeRecord, base: Clone, clone: Clone, most_timed: int = MOST) -> Optional[Changes]:  # noqa: ARG002
        """Not asked. `zfs diff` leaves out an object whose ctime is the same in both (write_inuse_diffs_one in
        lib/libzfs/libzfs_diff.c), and names no inode numbers: scanning and comparing sees as much and is certain."""
        return None

    def changed_ranges(self, base: Clone, clone: Clone, path: bytes) -> Optional[List[ByteRange]]:  # noqa: ARG002 - the contract's
        """ZFS has no interface that tells."""
        return None

    def path_of(self, clone: Clone, inode: int) -> Optional[bytes]:  # noqa: ARG002 - the contract's
        """Unknown: only a walk finds it."""
        return None

    def same_bytes(self, base: Clone, clone: Clone) -> Telling:  # noqa: ARG002 - the contract's
        """Unknown."""
        return contextlib.nullcontext()


def clear_area(area: bytes) -> None:
    """Destroy the snapshots that an area's notes tell of; for `host clean`. Idempotent. Raises VoltoolError."""
    directory = os.path.join(area, b"clones")
    dataset = zfs.dataset_containing(area) if os.path.isdir(directory) else None
    if dataset is None:
        return
    uuid = os.fsdecode(os.path.basename(area))
    for snapshot in _look_at(_candidates(dataset, uuid), uuid):
        _destroy(snapshot.name)


# ------------------------------------------------------------------------------------------------------------ names


def _own_name(volume: VolumeRecord, label: str) -> bytes:
    return os.fsencode(f"{zfs.OWN_PREFIX}{volume.uuid[:_UUID_PART]}-{label}")


def _snapshot_name(dataset: str, volume: VolumeRecord, label: str) -> str:
    return f"{dataset}@{os.fsdecode(_own_name(volume, label))}"


def _check_label(dataset: str, volume: VolumeRecord, label: str) -> None:
    clone_path(b"", label)
    name = _snapshot_name(dataset, volume, label)
    if not set(label) <= _NAME_CHARACTERS or len(name) > zfs.MAX_NAME:
        raise RefusedError("a clone cannot have this label", where=shown(os.fsencode(name)), why="no snapshot can")


def _note_path(volume: VolumeRecord, label: str) -> bytes:
    return clone_path(clones_directory(volume), label + ".json")


def _dataset(volume: VolumeRecord) -> str:
    dataset = zfs.dataset_at(volume.path)
    if dataset is None:
        raise _no_dataset(volume.path)
    return dataset


def _no_dataset(path: bytes) -> RefusedError:
    dataset = zfs.unmounted_at(path)
    if zfs.tool_path() is None:
        why, remedy = "the zfs tool is not there", "install it (Debian: zfsutils-linux)"
    elif dataset is None:
        why, remedy = "", "--driver directory, or make it a dataset: zfs create, then move the data in"
    elif zfs.key_is_missing(dataset):
        why, remedy = (
            f"{dataset} is encrypted and its key is not loaded",
            f"zfs load-key {dataset}; zfs mount {dataset}",
        )
    else:
        why, remedy = f"{dataset} is not mounted", f"zfs mount {dataset}"
    return RefusedError("this is not the root of a mounted ZFS dataset", where=shown(path), why=why, remedy=remedy)


# -------------------------------------------------------------------------------------------------------- snapshots


def _candidates(dataset: str, uuid: str) -> List[str]:
    beginning = f"{dataset}@{zfs.OWN_PREFIX}{uuid[:_UUID_PART]}-"
    return [name for name in zfs.snapshots_of(dataset) if name.startswith(beginning)]


def _look_at(names: List[str], uuid: str) -> List[_Snapshot]:
    """Those that were made on this host for this volume."""
    wanted = (zfs.OWNER_PROPERTY, _LABEL_PROPERTY, _TIME_PROPERTY)
    found = []
    for name, properties in zfs.get(names, "guid", "defer_destroy", _DROPPED_PROPERTY, *wanted).items():
        ours = [properties.get(key) for key in wanted]
        if any(item is None or item.source != zfs.LOCAL for item in ours):
            continue
        owner, label, time_ns = (item.value for item in ours if item is not None)
        if owner == uuid and time_ns.isdigit() and "guid" in properties:
            going = _DROPPED_PROPERTY in properties or _value(properties, "defer_destroy") == "on"
            found.append(_Snapshot(name, label, int(time_ns), properties["guid"].value, going))
    return found


def _value(properties: Dict[str, zfs.Property], key: str) -> str:
    return properties[key].value if key in properties else ""


def _destroy_going(dataset: str, uuid: str) -> None:
    """Try once more what could not be destroyed when it was dropped."""
    for snapshot in _look_at(_candidates(dataset, uuid), uuid):
        if snapshot.going:
            with contextlib.suppress(zfs.ZfsBusyError):
                _destroy(snapshot.name, zfs.call)


def _clone_of(volume: VolumeRecord, snapshot: _Snapshot) -> Clone:
    return Clone(
        snapshot.label,
        zfs_view.place_of(volume.path, snapshot.name),
        snapshot.time_ns,
        live=False,
        consistency=Consistency.SNAPSHOT,
        uuid=snapshot.guid,
    )


def _destroy(snapshot: str, call: Callable[..., str] = zfs.call_patiently) -> None:
    """What shows it goes first. Idempotent. Raises ZfsBusyError where somebody looks into it."""
    zfs_view.hide(snapshot, call)
    zfs.destroy_snapshot(snapshot, call)


def _refuse_nested(path: bytes, dataset: str) -> None:
    inside = [
        found.name
        for found in zfs.datasets_below(dataset)
        if (found.mounted or found.may_mount)
        and is_within(os.fsencode(found.mountpoint), path)
        and not found.name.startswith(f"{dataset}/{zfs.OWN_PREFIX}")
    ]
    inside += [
        os.fsdecode(mount.source)
        for mount in read_mounts()
        if zfs.is_zfs(mount) and mount.point != path and is_within(mount.point, path) and b"@" not in mount.source
    ]
    others = sorted(set(inside) - {dataset})
    if others:
        raise RefusedError(
            "the volume has datasets inside, which a snapshot leaves out",
            where=", ".join(shown(os.fsencode(name)) for name in others[:10]),
            why=f"{len(others)} dataset{'s' if len(others) > 1 else ''} mounted in it",
            remedy="add each as a volume of its own and mount it outside (zfs set mountpoint), or turn it into a directory",
        )


@contextlib.contextmanager
def _translated(path: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _translate(error, path) from error


def _translate(error: OSError, path: bytes) -> VoltoolError:
    why = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpaceError(
            "there is no room for a snapshot", where=shown(path), why=why, remedy="free space in the pool"
        )
    return HostError(
        "ZFS refused what voltool needs", where=shown(path), why=why, remedy="zpool status, or dmesg, may say more"
    )
