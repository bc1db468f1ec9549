"""The verbs MakeClone, ListClones and DropClone: clones that a user asked for. Ships to servers.

Their labels begin with ``user-``: a dump tidies up only what dumps have made.
"""

from __future__ import annotations

from voltool.agent.host import HostState
from voltool.errors import NotFoundError, RefusedError
from voltool.model import CloneInfo
from voltool.showing import shown
from voltool.volumes.contract import Clone, Driver
from voltool.volumes.hooks import between_hooks
from voltool.volumes.records import VolumeHome, open_home
from voltool.volumes.registry import driver_named
from voltool.wire import messages
from voltool.wire.conversation import Conversation

_USER = "user-"
_REPLICA = "replica-"


def is_users(clone: Clone) -> bool:
    """Whether a user asked for the clone: then nothing but a user drops it."""
    return clone.label.startswith(_USER)


def replica_label(replica_id: str) -> str:
    """How the labels of clones begin that are made for this replica."""
    return f"{_REPLICA}{replica_id[:8]}-"


def is_replicas(clone: Clone) -> bool:
    """Whether the clone is the base of a replica: then dumps leave it alone."""
    return clone.label.startswith(_REPLICA)


def make_clone(
    request: messages.MakeClone,
    conversation: Conversation,  # noqa: ARG001 - a handler's signature
    host: HostState,
) -> messages.ClonesReply:
    """Handle `MakeClone`."""
    home = open_home(host.directory, request.uuid, request.path)
    with home.lock(f"clone {request.id}"):
        driver = driver_named(home.record.driver)
        if request.hooks.before_clone:
            driver.prepare(home.record)  # as long as nobody waits for it
        with between_hooks(request.hooks, "before_clone", "after_clone", home.record.name, home.record.path):
            clone = driver.clone(home.record, _USER + request.id)
        if clone.live:
            driver.drop(home.record, clone)
            raise RefusedError(
                "this volume cannot be cloned",
                where=shown(home.record.path),
                why=f"its driver ({home.record.driver}) has no clones",
                remedy="voltool dump makes a copy of any volume; a btrfs subvolume can be cloned, and on XFS --driver reflink",
            )
        return messages.ClonesReply((_info(clone),))


def list_clones(
    request: messages.ListClones,
    conversation: Conversation,  # noqa: ARG001 - a handler's signature
    host: HostState,
) -> messages.ClonesReply:
    """Handle `ListClones`."""
    home = open_home(host.directory, request.uuid, request.path)
    return messages.ClonesReply(tuple(_info(clone) for clone in _clones(home, driver_named(home.record.driver))))


def drop_clone(
    request: messages.DropClone,
    conversation: Conversation,  # noqa: ARG001 - a handler's signature
    host: HostState,
) -> messages.ClonesReply:
    """Handle `DropClone`."""
    home = open_home(host.directory, request.uuid, request.path)
    with home.lock(f"drop clone {request.id}"):
        driver = driver_named(home.record.driver)
        clone = driver.find(home.record, _USER + request.id)
        if clone is None:
            raise NotFoundError(
                f"there is no clone {request.id}",
                where=shown(home.record.path),
                remedy="voltool clones NAME lists them",
            )
        driver.drop(home.record, clone)
        return messages.ClonesReply(tuple(_info(other) for other in _clones(home, driver)))


def _clones(home: VolumeHome, driver: Driver) -> list[Clone]:
    return sorted(driver.clones(home.record), key=lambda clone: (clone.time_ns, clone.label))


def _info(clone: Clone) -> CloneInfo:
    users = is_users(clone)
    identity = clone.label[len(_USER) :] if users else clone.label
    purpose = "user" if users else "replica" if is_replicas(clone) else "dump"
    return CloneInfo(identity, clone.path, clone.time_ns, clone.consistency, purpose)
