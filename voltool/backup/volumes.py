"""The records of volumes: add, change, forget. Talks to the volume's agent first and to the catalog last.

The host's own record is the truth; the catalog only remembers where to find it. Nothing here touches a volume's data.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from voltool.backup.ports import World
from voltool.errors import AgentError, HostError, NotFoundError, RefusedError, UnreachableError, UsageError
from voltool.events import Notice
from voltool.machine import Machine
from voltool.model import KnownVolume, VolumeRecord
from voltool.policy.replicas import REPLICA
from voltool.showing import shown
from voltool.stores.naming import check_volume_name
from voltool.wire import messages
from voltool.wire.conversation import Conversation

LOCAL = "local"
Reply = TypeVar("Reply")


@dataclass(frozen=True)
class VolumeWish:
    """What the user asks for. ``driver`` may be ``auto``."""

    name: str
    host: str
    path: bytes
    driver: str = "auto"
    excludes: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class VolumeChange:
    """What `set_volume` shall change; None: stays."""

    name: str | None = None
    host: str | None = None
    path: bytes | None = None
    excludes: tuple[bytes, ...] | None = None


@dataclass(frozen=True)
class AddOutcome:
    """``created`` is False where the volume was known already with these values."""

    volume: KnownVolume
    created: bool


@dataclass(frozen=True)
class RemoveOutcome:
    """``left`` are the clones and records that stay on the host; ``reached``: whether the host was told."""

    volume: KnownVolume
    left: tuple[bytes, ...]
    reached: bool


def add_volume(world: World, wish: VolumeWish, forbidden: Sequence[bytes] = ()) -> AddOutcome:
    """Adopt the tree as a volume where it stands. Idempotent for equal values.

    ``forbidden``: stores and state directories of this machine, which must not lie in a volume on it. A host that has a
    record of the volume already (the catalog was lost, or another machine added it) keeps its uuid. Raises UsageError
    where name or place are another volume's.
    """
    check_volume_name(wish.name)
    if wish.host == LOCAL:  # records hold the path free of symlinks; the same wish again shall find it
        wish = replace(wish, path=os.path.realpath(wish.path))
    known = _check_against(world, world.catalog.volumes(), wish)
    with world.hosts.connect(wish.host) as agent:
        recorded = _recorded_at(agent, wish.path)
        if recorded is not None and recorded.name != wish.name:
            raise _taken(wish, recorded.name)
        identity = known.uuid if known else recorded.uuid if recorded else uuid.uuid4().hex
        request = messages.AdoptVolume(
            uuid=identity,
            name=wish.name,
            path=wish.path,
            driver=wish.driver,
            excludes=wish.excludes,
            forbidden=_forbidden_on(wish.host, forbidden),
        )
        record = _adopt(agent, request)
    volume = _known(world, record, wish.host)
    world.catalog.put_volume(volume)
    return AddOutcome(volume, created=known is None)


def set_volume(world: World, name: str, change: VolumeChange, forbidden: Sequence[bytes] = ()) -> KnownVolume:
    """Follow a renamed, moved or reinstalled server, or change name or exclusions; uuid and chain stay."""
    # Whoever names the host knows what `local` was; else a volume that is local to another machine is refused.
    old = _find(world, name) if change.host else world.catalog.volume(name)
    new = replace(
        old,
        name=old.name if change.name is None else change.name,
        host=old.host if change.host is None else change.host,
        path=old.path if change.path is None else change.path,
        excludes=old.excludes if change.excludes is None else change.excludes,
    )
    check_volume_name(new.name)
    others = [volume for volume in world.catalog.volumes() if volume.uuid != old.uuid]
    _check_against(world, others, VolumeWish(new.name, new.host, new.path))
    sequence = max((dump.header.sequence for dump in world.catalog.dumps(old.uuid)), default=0)
    moved = (new.host, new.path) != (old.host, old.path) or world.catalog.is_elsewhere(old)
    with world.hosts.connect(new.host) as agent:
        request = messages.AdoptVolume(
            uuid=new.uuid,
            name=new.name,
            path=new.path,
            driver="auto" if moved else new.driver,
            excludes=new.excludes,
            forbidden=_forbidden_on(new.host, forbidden),
            replace=True,
            sequence=sequence,
        )
        record = _adopt(agent, request)
    volume = _known(world, record, new.host)
    world.catalog.put_volume(volume)
    return volume


def remove_volume(world: World, name: str) -> RemoveOutcome:
    """Forget the volume here and on its host; its data and its dumps stay.

    A host that cannot be reached, or that does not know the volume, does not stop it: a notice says what stays there.
    Raises RefusedError where it has replicas.
    """
    volume = _find(world, name)
    _refuse_replicated(world, volume)
    left: tuple[bytes, ...] = ()
    reached = False
    if world.catalog.is_elsewhere(volume):
        machine = volume.hostname or volume.machine_id
        _tell_left(world, volume, f"it is local to {machine}", "`voltool host clean local` on that machine")
    else:
        try:
            with world.hosts.connect(volume.host) as agent:
                agent.send(messages.ForgetVolume(volume.uuid, volume.path))
                left = _expect(agent, messages.ForgetReply).left
            reached = True
        except NotFoundError:
            reached = True
            world.reporter.report(Notice("info", f"{volume.host} has no record of {name}"))
        except (UnreachableError, HostError) as error:
            _tell_left(world, volume, error.what, f"`voltool host clean {volume.host}`")
    world.catalog.remove_volume(volume.uuid)
    return RemoveOutcome(volume, left, reached)


def _refuse_replicated(world: World, volume: KnownVolume) -> None:
    replicas = [replica for replica in world.catalog.replicas(volume.uuid) if replica.role == REPLICA]
    if replicas:
        places = ", ".join(f"{replica.host}:{shown(replica.path)}" for replica in replicas)
        raise RefusedError(
            f"the volume {volume.name} has replicas, which nobody would bring up to date any more",
            where=places,
            remedy="; ".join(f"voltool replica remove {volume.name} {replica.host}" for replica in replicas),
        )


def _tell_left(world: World, volume: KnownVolume, why: str, remedy: str) -> None:
    message = (
        f"{volume.host} was not reached ({why}): {volume.name} is forgotten here only;"
        f" its clones and records stay there until {remedy}"
    )
    world.reporter.report(Notice("warning", message))


def show_volume(world: World, name: str) -> messages.VolumeReply:
    """The volume as its host's own record has it; NotFoundError where the host has none."""
    volume = world.catalog.volume(name)
    with world.hosts.connect(volume.host) as agent:
        agent.send(messages.ShowVolume(volume.uuid, volume.path))
        return _expect(agent, messages.VolumeReply)


def _find(world: World, name: str) -> KnownVolume:
    """The volume called ``name``, also where it is `local` to another machine; NotFoundError."""
    found = next((volume for volume in world.catalog.volumes() if volume.name == name), None)
    return found or world.catalog.volume(name)


def _check_against(world: World, volumes: Sequence[KnownVolume], wish: VolumeWish) -> KnownVolume | None:
    """The volume that is just the wish; UsageError where the wish collides with one, or nests with it."""
    for volume in volumes:
        same_host = volume.host == wish.host and not world.catalog.is_elsewhere(volume)
        same_place = same_host and volume.path == wish.path
        if volume.name == wish.name:
            if same_place and wish.driver in ("auto", volume.driver) and set(wish.excludes) == set(volume.excludes):
                return volume
            raise UsageError(
                f"a volume {wish.name} exists already with other values",
                where=f"{volume.host}:{os.fsdecode(volume.path)!a}",
                remedy=f"voltool volume set {wish.name} ..., or another name",
            )
        if same_place:
            raise _taken(wish, volume.name)
        if same_host and _nested(volume.path, wish.path):
            raise UsageError(
                f"the volume would lie inside {volume.name}, or that one inside it",
                where=f"{volume.host}:{os.fsdecode(volume.path)!a}",
                remedy="two trees that do not contain each other",
            )
    return None


def _taken(wish: VolumeWish, name: str) -> UsageError:
    return UsageError(
        f"that place is the volume {name} already",
        where=f"{wish.host}:{os.fsdecode(wish.path)!a}",
        remedy=f"voltool volume add {name} ... with its own name, then voltool volume set {name} --name {wish.name}",
    )


def _nested(one: bytes, other: bytes) -> bool:
    return one.rstrip(b"/") + b"/" == other[: len(one.rstrip(b"/")) + 1] or (
        other.rstrip(b"/") + b"/" == one[: len(other.rstrip(b"/")) + 1]
    )


def _recorded_at(agent: Conversation, path: bytes) -> VolumeRecord | None:
    agent.send(messages.ListVolumes())
    records = _expect(agent, messages.VolumesReply).records
    return next((record for record in records if record.path == path), None)


def _adopt(agent: Conversation, request: messages.AdoptVolume) -> VolumeRecord:
    agent.send(request)
    return _expect(agent, messages.VolumeReply).record


def _expect(agent: Conversation, kind: type[Reply]) -> Reply:
    """The reply, of the kind that belongs to the request."""
    reply = agent.receive()
    if not isinstance(reply, kind):
        raise AgentError("the agent gave an answer that does not belong to the question", why=type(reply).__name__)
    return reply


def _forbidden_on(host: str, forbidden: Sequence[bytes]) -> tuple[bytes, ...]:
    """Stores and state directories lie on this machine: they say nothing of another one."""
    return tuple(forbidden) if host == LOCAL else ()


def _known(world: World, record: VolumeRecord, host: str) -> KnownVolume:
    machine = world.machine if host == LOCAL else Machine()
    return KnownVolume(
        record.uuid,
        record.name,
        host,
        record.path,
        record.driver,
        record.excludes,
        machine.hostname,
        machine.machine_id,
    )
