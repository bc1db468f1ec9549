"""Requests about volumes: adopt, show, list, forget. Ships to servers.

Adopting touches nothing of the tree: it makes the volume's area beside it and the host's record. What a dump does with
the volume is not known here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import time
from typing import Iterator, List, Optional, Tuple

from voltool.agent.host import HostState
from voltool.agent.lazymove.home import refuse_lazy
from voltool.agent.lock import lock_info
from voltool.agent.replica.records import ReplicaBook
from voltool.errors import NotFoundError, RefusedError, UsageError
from voltool.events import Notice
from voltool.model import Epoch, VolumeRecord
from voltool.showing import shown
from voltool.volumes import records
from voltool.volumes.lock.book import LockBook
from voltool.volumes.lock.hold import refuse_locked
from voltool.volumes.mounts import is_within, mount_of, nested_mounts, read_mounts
from voltool.volumes.registry import AUTO, detect, driver_named
from voltool.volumes.splits import read_split
from voltool.wire import messages
from voltool.wire.conversation import Conversation

_SYSTEM_PLACES = (b"/proc", b"/sys", b"/dev", b"/run")
_KERNEL_FILESYSTEMS = frozenset(
    {"proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "configfs", "bpf"}
)
_STATE_ID_LENGTH = 64


def adopt_volume(request: messages.AdoptVolume, conversation: Conversation, host: HostState) -> messages.VolumeReply:
    """Adopt the tree where it stands. Raises UsageError, NotFoundError, RefusedError, HostError, BusyError."""
    path = _resolve(request.path, conversation)
    _check_place(path)
    _check_overlap(request, path, host)
    before = _registered(request.uuid, host)
    old = _known_record(request, path, before, host)
    if old is not None and _is_same(old, request, path) and before is not None and before.lives:
        return _reply(records.open_home(host.directory, request.uuid, path))
    if old is not None and not request.replace and not _is_same(old, request, path):
        raise RefusedError(
            "the host knows this volume with other values",
            where=shown(old.path),
            why=f"there it is {old.name!r} with driver {old.driver}",
            remedy="voltool volume set NAME, to change it",
        )
    driver = _choose_driver(request.driver, old, path)
    driver_named(driver).adopt(path)
    with _locked(request.uuid, host):
        if before is not None:
            _follow_move(before, path, conversation, host)
        home = records.create(host.directory, _record(request, path, driver, old, host))
    _tell_about_place(path, conversation)
    return _reply(home)


def show_volume(
    request: messages.ShowVolume,
    conversation: Conversation,  # noqa: ARG001 - a handler's signature
    host: HostState,
) -> messages.VolumeReply:
    """The volume's record, the states kept of it, and its lock. Raises NotFoundError."""
    home = records.open_home(host.directory, request.uuid, request.path, split=True)
    split = read_split(home.area, home.record)
    return dataclasses.replace(_reply(home), lock=lock_info(host, request.uuid), split=split)


def list_volumes(
    request: messages.ListVolumes,  # noqa: ARG001 - a handler's signature
    conversation: Conversation,
    host: HostState,
) -> messages.VolumesReply:
    """All volumes that can be opened now; a notice names those whose records cannot be reached."""
    homes = records.list_homes(host.directory)
    reached = {home.record.uuid for home in homes}
    for entry in records.list_entries(host.directory):
        if not entry.forgotten and entry.uuid not in reached:
            conversation.report(
                Notice("warning", f"the records of the volume at {shown(entry.path)} cannot be read: is it mounted?")
            )
    return messages.VolumesReply(tuple(home.record for home in homes))


def forget_volume(
    request: messages.ForgetVolume,
    conversation: Conversation,  # noqa: ARG001 - a handler's signature
    host: HostState,
) -> messages.ForgetReply:
    """Forget the volume; data, clones and states stay. Raises NotFoundError, BusyError."""
    entry = _registered(request.uuid, host)
    if entry is None:
        raise NotFoundError(
            "this host has no record of the volume", where=shown(request.path), remedy="nothing: it is forgotten there"
        )
    with _locked(request.uuid, host):
        refuse_locked(LockBook(host.directory, request.uuid), request.path)
        refuse_lazy(host, request.uuid)
        left = records.forget(host.directory, request.uuid)
        for area in records.remembered_areas(host.directory):
            if os.path.basename(area) == request.uuid.encode():
                records.forget_area(host.directory, area)
    return messages.ForgetReply(tuple(left))


def _resolve(path: bytes, conversation: Conversation) -> bytes:
    if not path.startswith(b"/") or b"\0" in path:
        raise UsageError("a volume needs an absolute path", where=shown(path), remedy="HOST:/path")
    real = os.path.realpath(path)
    if not os.path.lexists(real):
        raise NotFoundError(
            "there is nothing at this path", where=shown(path), remedy="check the path, or mount it first"
        )
    if not os.path.isdir(real):
        raise RefusedError("a volume must be a directory", where=shown(path), remedy="the directory it lies in")
    if real != os.path.normpath(path):
        conversation.report(Notice("info", f"{shown(path)} is {shown(real)}; that path is recorded"))
    return real


def _check_place(path: bytes) -> None:
    mount = mount_of(path, read_mounts())
    if path in _SYSTEM_PLACES or (mount is not None and mount.kind in _KERNEL_FILESYSTEMS):
        raise RefusedError(
            "this directory is the kernel's or lasts only until the next boot, no data of yours",
            where=shown(path),
            remedy="a directory on a disk",
        )
    if records.AREA_NAME in path.split(b"/"):
        raise RefusedError(
            "this lies in voltool's own directory", where=shown(path), remedy="the volume itself, beside .voltool"
        )


def _check_overlap(request: messages.AdoptVolume, path: bytes, host: HostState) -> None:
    for place in (*request.forbidden, host.directory):
        if is_within(os.path.realpath(place), path):
            raise RefusedError(
                "a store or state directory of voltool lies inside the volume",
                where=shown(place),
                why="dumps would contain themselves, and a restore would overwrite them",
                remedy="put it elsewhere (store, VOLTOOL_STATE_DIR), or adopt a smaller directory",
            )
    for entry in records.list_entries(host.directory):
        if (
            entry.forgotten
            or entry.uuid == request.uuid
            or not (is_within(path, entry.path) or is_within(entry.path, path))
        ):
            continue
        if not entry.lives and (entry.path == path or not os.path.exists(entry.path)):
            continue  # what is left of a volume that is gone
        what = "is a volume already" if entry.path == path else "would lie inside another volume, or that one inside it"
        raise RefusedError(
            f"the directory {what}",
            where=shown(entry.path),
            why=f"this host has it as volume {entry.uuid}",
            remedy="voltool volume list shows it; volumes must not contain each other",
        )
    ReplicaBook(host.directory).refuse_overlap(path)


def _registered(uuid: str, host: HostState) -> Optional[records.RegistryEntry]:
    for entry in records.list_entries(host.directory):
        if entry.uuid == uuid and not entry.forgotten:
            return entry
    return None


def _known_record(
    request: messages.AdoptVolume, path: bytes, before: Optional[records.RegistryEntry], host: HostState
) -> Optional[VolumeRecord]:
    """The volume's record: as registered, else as an area at its path still has it (the host was set up anew)."""
    if before is not None:
        with contextlib.suppress(NotFoundError):
            return records.open_home(host.directory, request.uuid, before.path).record
        left = records.read_record(before.area)
        if left is not None:
            return left
    return records.read_left_record(path, request.uuid)


def _is_same(record: VolumeRecord, request: messages.AdoptVolume, path: bytes) -> bool:
    return (
        record.name == request.name
        and record.path == path
        and request.driver in (AUTO, record.driver)
        and set(record.excludes) == set(request.excludes)
        and record.sequence >= request.sequence
    )


def _choose_driver(wish: str, old: Optional[VolumeRecord], path: bytes) -> str:
    if wish != AUTO:
        return wish
    if old is not None and old.path == path:
        return old.driver
    return detect(path)


def _record(
    request: messages.AdoptVolume, path: bytes, driver: str, old: Optional[VolumeRecord], host: HostState
) -> VolumeRecord:
    if old is not None:
        return dataclasses.replace(
            old,
            name=request.name,
            path=path,
            driver=driver,
            excludes=request.excludes,
            sequence=max(old.sequence, request.sequence),
        )
    return VolumeRecord(
        uuid=request.uuid,
        name=request.name,
        path=path,
        driver=driver,
        epoch=Epoch(1, secrets.token_hex(8), host.hostname),
        sequence=request.sequence,
        excludes=request.excludes,
        created_ns=time.time_ns(),
    )


def _follow_move(before: records.RegistryEntry, path: bytes, conversation: Conversation, host: HostState) -> None:
    """Take clones and states along to where the volume is now, if that is on the same file system."""
    area = records.area_of(path, before.uuid)
    if area == before.area or not os.path.isdir(before.area):
        return
    try:
        records.move_area(before.area, area)
    except OSError as error:
        records.remember_area(host.directory, before.area)
        conversation.report(
            Notice(
                "warning",
                f"clones and records in {shown(before.area)} stay there ({error.strerror}): the next dump reads everything,"
                " and `voltool host clean` removes them once no volume lives on this host",
            )
        )


@contextlib.contextmanager
def _locked(uuid: str, host: HostState) -> Iterator[None]:
    """Hold the volume's lock, if it has a home that can be reached."""
    with contextlib.ExitStack() as stack:
        for entry in records.list_entries(host.directory):
            if entry.uuid == uuid and entry.lives:
                with contextlib.suppress(NotFoundError):
                    home = records.open_home(host.directory, uuid, b"")
                    stack.enter_context(home.lock("voltool volume"))
        yield


def _tell_about_place(path: bytes, conversation: Conversation) -> None:
    nested = nested_mounts(path)
    if nested:
        named = ", ".join(shown(point) for point in nested[:10])
        conversation.report(
            Notice("warning", f"not part of the volume, since other file systems are mounted there: {named}")
        )
    if os.geteuid() != 0:
        conversation.report(
            Notice(
                "warning",
                "without root, files that this account cannot read are left out, and owners cannot be restored;"
                " set become = true for the host",
            )
        )


def _reply(home: records.VolumeHome) -> messages.VolumeReply:
    return messages.VolumeReply(home.record, tuple(_states(home.area)))


def _states(area: bytes) -> List[str]:
    directory = os.path.join(area, b"states")
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    return [name.decode() for name in names if _is_state(directory, name)]


def _is_state(directory: bytes, name: bytes) -> bool:
    parts: Tuple[bytes, ...] = (directory, name, b"stamps")
    return len(name) == _STATE_ID_LENGTH and name.isalnum() and os.path.exists(os.path.join(*parts))
