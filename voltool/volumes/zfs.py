"""The driver for ZFS datasets: clones are snapshots. Ships to servers. See contract.py for what it promises.

A clone is the snapshot ``<dataset>@voltool-<part of the uuid>-<label>``. What is known of it are its own properties, which come
into being with it: so it is there whole, or not at all. ``<area>/clones/<label>.json``, written before and removed after it, only
tells `host clean` that there is something to destroy.

It is read through ``.zfs/snapshot``. Where there is none (zfs-fuse; ``snapdir=disabled``) a read-only dataset below the volume's,
of the snapshot's name, shows it at ``/run/voltool/zfs/<dataset>@<snapshot>``, each slash as a percent sign, which no name has.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from dataclasses import dataclass
from typing import Iterator, List, Optional

from voltool import durable
from voltool.errors import HostError, RefusedError, SpaceError, VoltoolError
from voltool.model import Consistency, VolumeRecord
from voltool.origins import Origins
from voltool.showing import shown
from voltool.volumes import zfs_command as zfs
from voltool.volumes.contract import ByteRange, Changes, Clone
from voltool.volumes.labels import clone_path, clones_directory
from voltool.volumes.mounts import is_mount_point, is_within, mount_of, read_mounts
from voltool.volumes.records import check_own_directory
from voltool.volumes.traits import synchronize

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LABEL_PROPERTY = "voltool:label"
_TIME_PROPERTY = "voltool:time"
_CONTROL = b".zfs"
#: The inode number of `.zfs`, which no file has: ZFSCTL_INO_ROOT in include/os/linux/zfs/sys/zfs_ctldir.h.
_CONTROL_INODE = 0x0000FFFFFFFFFFFF
_SHOWN_AT = b"/run/voltool/zfs"
_UUID_PART = 8
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:")


@dataclass(frozen=True)
class _Snapshot:
    """A snapshot of ours. ``going``: it is dropped, and goes when nobody holds it any more."""

    name: str
    label: str
    time_ns: int
    guid: str
    going: bool


class ZfsDriver:
    """Datasets of OpenZFS and of zfs-fuse."""

    name = "zfs"

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
        if os.path.dirname(clone.path) == _SHOWN_AT:
            _show(_shown_name(clone.path), clone.path)
        with _translated(clone.path):
            root = os.open(clone.path, _OPEN)
            if _is_control_directory(clone.path, os.fstat(root).st_dev):
                os.close(root)
                raise OSError(errno.ENOENT, "the kernel did not mount the snapshot")
        return root

    def origins(self, clone: Clone) -> Optional[Origins]:  # noqa: ARG002 - the contract's
        """A snapshot's inodes are the volume's."""
        return None

    def drop(self, volume: VolumeRecord, clone: Clone) -> None:
        """Destroy what shows the snapshot, the snapshot, and the note."""
        dataset = _dataset(volume)
        snapshot = _snapshot_name(dataset, volume, clone.label)
        if clone.live or os.path.basename(clone.path) not in (_own_name(volume, clone.label), _flat(snapshot)):
            raise RefusedError("this is not a clone of the volume", where=shown(clone.path))
        if _look_at([snapshot], volume.uuid):
            _destroy(snapshot)
        with _translated(volume.path):
            durable.remove_file(_note_path(volume, clone.label))

    def changes(self, volume: VolumeRecord, base: Clone, clone: Clone) -> Optional[Changes]:  # noqa: ARG002 - the contract's
        """Not asked. `zfs diff` leaves out an object whose ctime is the same in both (write_inuse_diffs_one in
        lib/libzfs/libzfs_diff.c), and names no inode numbers: scanning and comparing sees as much and is certain."""
        return None

    def changed_ranges(self, base: Clone, clone: Clone, path: bytes) -> Optional[List[ByteRange]]:  # noqa: ARG002 - the contract's
        """ZFS has no interface that tells."""
        return None

    def path_of(self, clone: Clone, inode: int) -> Optional[bytes]:  # noqa: ARG002 - the contract's
        """Unknown: only a walk finds it."""
        return None


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


def _flat(snapshot: str) -> bytes:
    return os.fsencode(snapshot.replace("/", "%"))


def _shown_name(path: bytes) -> str:
    return os.fsdecode(os.path.basename(path)).replace("%", "/")


def _reader_name(snapshot: str) -> str:
    """The dataset that shows a snapshot."""
    return snapshot.replace("@", "/")


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
    for name, properties in zfs.get(names, "guid", "defer_destroy", *wanted).items():
        ours = [properties.get(key) for key in wanted]
        if any(item is None or item.source != zfs.LOCAL for item in ours):
            continue
        owner, label, time_ns = (item.value for item in ours if item is not None)
        if owner == uuid and time_ns.isdigit() and "guid" in properties:
            going = "defer_destroy" in properties and properties["defer_destroy"].value == "on"
            found.append(_Snapshot(name, label, int(time_ns), properties["guid"].value, going))
    return found


def _clone_of(volume: VolumeRecord, snapshot: _Snapshot) -> Clone:
    return Clone(
        snapshot.label,
        _place(volume, snapshot.name),
        snapshot.time_ns,
        live=False,
        consistency=Consistency.SNAPSHOT,
        uuid=snapshot.guid,
    )


def _destroy(snapshot: str) -> None:
    """What shows it goes first. Idempotent."""
    reader = _reader_name(snapshot)
    if zfs.get([reader], "origin").get(reader, {}).get("origin", zfs.Property("", "")).value == snapshot:
        zfs.call_patiently("destroy", reader)
        with contextlib.suppress(OSError):
            os.rmdir(os.path.join(_SHOWN_AT, _flat(snapshot)))
    zfs.destroy_snapshot(snapshot)


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


# ---------------------------------------------------------------------------------------------------------- reading


def _place(volume: VolumeRecord, snapshot: str) -> bytes:
    """Where a snapshot of the volume can be read."""
    control = os.path.join(volume.path, _CONTROL)
    mount = mount_of(volume.path, read_mounts())
    with contextlib.suppress(OSError):
        if mount is not None and mount.kind == zfs.OPENZFS and os.stat(control).st_ino == _CONTROL_INODE:
            return os.path.join(control, b"snapshot", os.fsencode(snapshot.partition("@")[2]))
    return os.path.join(_SHOWN_AT, _flat(snapshot))


def _is_control_directory(path: bytes, device: int) -> bool:
    """Whether a snapshot's place in `.zfs` is still on the volume's own file system: nothing was mounted there."""
    control = os.path.dirname(os.path.dirname(path))
    return os.path.basename(control) == _CONTROL and os.stat(control).st_dev == device


def _show(snapshot: str, place: bytes) -> None:
    """Mount the snapshot at ``place``, by means of a dataset. Idempotent."""
    reader = _reader_name(snapshot)
    properties = zfs.get([reader], "origin", "mountpoint").get(reader)
    if properties is None:
        _make_own(_SHOWN_AT)
        settings = ("readonly=on", "canmount=noauto", "mountpoint=" + os.fsdecode(place))
        zfs.call("clone", *(part for setting in settings for part in ("-o", setting)), snapshot, reader)
    elif properties.get("origin", zfs.Property("", "")).value != snapshot:
        raise RefusedError(
            "a dataset of voltool's name is not voltool's",
            where=shown(os.fsencode(reader)),
            why="it does not show the snapshot of that name",
            remedy="rename or destroy it",
        )
    elif properties["mountpoint"].value != os.fsdecode(place):  # the volume's dataset was renamed
        _make_own(_SHOWN_AT)
        zfs.call_patiently("set", "mountpoint=" + os.fsdecode(place), reader)
    if not is_mount_point(place):
        _make_own(_SHOWN_AT)
        zfs.call_patiently("mount", reader)
    if zfs.dataset_at(place) != reader:
        raise HostError(
            "the snapshot cannot be looked into",
            where=shown(place),
            why="it was mounted, but not where this agent sees it",
            remedy="reach the host without a mount namespace of its own",
        )


def _make_own(directory: bytes) -> None:
    with _translated(directory):
        for path in (os.path.dirname(directory), directory):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
            check_own_directory(path)


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
