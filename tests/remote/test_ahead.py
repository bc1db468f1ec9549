"""Connections that are begun before they are needed: whoever asks gets them, or what went wrong with them, and none is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.remote.processes import processes_with, wait_until
from tests.remote.test_agent import hosts
from tests.sshd import Sshd
from voltool.errors import RefusedError, UnreachableError
from voltool.remote.ahead import Ahead
from voltool.wire.conversation import expect
from voltool.wire.messages import ListVolumes, VolumesReply


@pytest.fixture
def ahead(sshd: Sshd) -> Ahead:
    return Ahead(hosts(sshd))


def agents(state: Path) -> list[int]:
    return processes_with(str(state / "agent"))


def test_what_was_begun_is_had_once(ahead: Ahead, sshd: Sshd, state: Path) -> None:
    with ahead:
        ahead.begin(sshd.name)
        ahead.begin(sshd.name)
        with ahead.connect(sshd.name) as first, ahead.connect(sshd.name) as second:
            assert first is not second
            assert len(agents(state)) == 2
            for session in (first, second):
                session.send(ListVolumes())
                assert not expect(session, VolumesReply).records
    assert wait_until(lambda: not agents(state))


def test_what_is_borrowed_without_a_fault_is_had_again(ahead: Ahead, sshd: Sshd, state: Path) -> None:
    with ahead:
        with ahead.borrow(sshd.name) as first:
            pass
        with ahead.connect(sshd.name) as second:
            assert second is first
        assert wait_until(lambda: not agents(state))
        with pytest.raises(RefusedError), ahead.borrow(sshd.name):
            raise RefusedError("no")
        assert wait_until(lambda: not agents(state))


def test_what_goes_wrong_is_told_to_who_asks(ahead: Ahead, sshd: Sshd) -> None:
    with ahead:
        ahead.begin("127.0.0.1:1")
        with ahead.connect(sshd.name):
            pass
        with pytest.raises(UnreachableError, match="cannot be reached"), ahead.connect("127.0.0.1:1"):
            pass


def test_what_nobody_asked_for_is_closed(ahead: Ahead, sshd: Sshd, state: Path) -> None:
    with ahead:
        ahead.begin(sshd.name)
    assert wait_until(lambda: not agents(state))
