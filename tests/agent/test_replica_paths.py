"""The path of a replica is nobody else's: no volume is adopted there, nothing is restored or moved onto it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agent.host import OTHER, UUID, Collected, adoption, host_state
from voltool.agent.adopt import adopt_volume
from voltool.agent.host import HostState
from voltool.agent.moving.target_ground import HostTarget
from voltool.agent.replica.records import ReplicaBook
from voltool.agent.restore import restore
from voltool.agent.standing import take_standing
from voltool.errors import RefusedError
from voltool.model import RECEIVING, SERVING, Peer, ReplicaRecord, TargetMove
from voltool.wire import messages

HOME = Peer("hosta", "", "hosta", b"/srv/mail")


@pytest.fixture
def host(tmp_path: Path) -> HostState:
    """It has a replica of ``mail`` at ``served``."""
    (tmp_path / "srv" / "served" / "below").mkdir(parents=True)
    (tmp_path / "srv" / "free").mkdir()
    host = host_state(tmp_path / "state")
    path = os.fsencode(tmp_path / "srv" / "served")
    ReplicaBook(host.directory).save(ReplicaRecord("1" * 32, UUID, "mail", path, HOME, SERVING, 1))
    return host


def restoration(target: Path) -> messages.StartRestore:
    return messages.StartRestore(
        target=os.fsencode(target), volume_uuid=OTHER, volume_name="x", state_id="0" * 64, selection="",
        numeric_owner=False, into_existing=False, least_bytes=0, objects=0, total_bytes=0,
    )  # fmt: skip


@pytest.mark.parametrize("place", ["served", "served/below", "."])
def test_it_is_refused_in_words_that_say_what_is_there(tmp_path: Path, host: HostState, place: str) -> None:
    target = tmp_path / "srv" / place
    move = TargetMove("m", OTHER, "x", os.fsencode(target), HOME, RECEIVING, 1)
    acts: list[Callable[[], object]] = [
        lambda: adopt_volume(adoption(target, OTHER), Collected(), host),
        lambda: adopt_volume(adoption(target, UUID, replace=True), Collected(), host),
        lambda: restore(restoration(target), Collected(), host),
        lambda: take_standing(os.fsencode(target), host, contextlib.ExitStack()),
        lambda: HostTarget(host, OTHER).refuse_overlap(move),
    ]
    for act in acts:
        with pytest.raises(RefusedError, match="replica") as caught:
            act()
        assert "replica of mail" in caught.value.why


def test_the_volume_does_not_move_to_where_its_replica_is(tmp_path: Path, host: HostState) -> None:
    move = TargetMove("m", UUID, "mail", os.fsencode(tmp_path / "srv" / "free" / "mail"), HOME, RECEIVING, 1)
    with pytest.raises(RefusedError, match="has a replica of the volume"):
        HostTarget(host, UUID).refuse_overlap(move)


def test_beside_it_is_free(tmp_path: Path, host: HostState) -> None:
    assert adopt_volume(adoption(tmp_path / "srv" / "free", OTHER), Collected(), host).record.path.endswith(b"/free")
