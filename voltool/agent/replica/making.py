"""How the tree that will be served next begins, and how much of it is taken apart for an increment. Ships to servers."""

from __future__ import annotations

import contextlib
import os

from voltool.agent.replica import guard
from voltool.agent.replica.copying import link_tree, snapshot
from voltool.agent.replica.place import ReplicaPlace
from voltool.agent.replica.served import ServedTree
from voltool.errors import IntegrityError
from voltool.model import ROOT_OBJECT
from voltool.showing import shown
from voltool.tree.apply.files import flat_path
from voltool.tree.apply.held import HeldTree
from voltool.tree.apply.parts import load_parts, parts_of, save_parts
from voltool.tree.apply.ready import is_flat, take_apart
from voltool.tree.apply.staging import Phase, Progress, Staging, StagingKey, open_inside, open_staging
from voltool.tree.apply.waiting import open_increment


def stage_next(place: ReplicaPlace, key: StagingKey, served: ServedTree) -> Staging:
    """Staging with a tree like the one that is served, assembled. What a crash leaves of it holds nothing. Raises VoltoolError,
    OSError."""
    if guard.is_subvolume(place.path):
        snapshot(place.path, place.next)
        staging = open_inside(key)
    else:
        served.loosen()
        staging = open_staging(key, into_existing=False)
        try:
            linked = os.path.join(staging.path, flat_path(ROOT_OBJECT))
            os.makedirs(os.path.dirname(linked), 0o700, exist_ok=True)
            guard.beneath_mounts(place.path, lambda: link_tree(place.path, linked, _copied(staging)))
        except BaseException:
            staging.close()
            raise
    staging.save(Progress(Phase.PUBLISH, way=staging.way.value))
    return staging


def take_apart_for_increment(held: HeldTree) -> None:
    """Bring the tree into the form that the increment which waits can be applied to. Repeatable. Raises VoltoolError.

    Of a tree that stands whole, but for parts taken out before, and was made from one whose stamps are known, only what the
    increment touches is taken apart; of any other everything.
    """
    assert held.record is not None
    kept = load_parts(held.staging.path)
    if held.stamped and (held.record.assembled or kept is not None) and _has_stamps(held):
        with contextlib.closing(held.state()) as state, open_increment(held) as reader:
            save_parts(held.staging.path, parts_of(state, reader).with_those_of(kept))
        take_apart(held)
    elif kept is not None:
        raise IntegrityError(
            "the home stamps of what is served are lost",
            where=shown(held.keeper.directory),
            remedy="voltool replica remove, and add it again",
        )
    elif not is_flat(held):
        take_apart(held)


def has_copies(staging: Staging) -> bool:
    """Whether some files of a tree of links are copies, of which no stamps are known."""
    return os.path.lexists(_copied(staging))


def _copied(staging: Staging) -> bytes:
    return os.path.join(staging.path, b"copied")


def _has_stamps(held: HeldTree) -> bool:
    state = held.keeper.open(held.stamped)
    if state is None:
        return False
    with contextlib.closing(state):
        return state.stamps is not None
