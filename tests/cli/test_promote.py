"""What `voltool replica promote` says and gives back, of every way in which it can end well."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.cli.fakes import Console
from tests.cli.test_json import check_lines
from voltool.model import Epoch, VolumeRecord
from voltool.replica import promote as module
from voltool.replica.contact import Told
from voltool.replica.promote import PromoteOutcome

RECORD = VolumeRecord("u" * 32, "vol1", b"/srv/vol1", "btrfs", Epoch(3, "t", "b"), 12)
TOLD = (
    Told("hostA", "retired", "hostB:/srv/vol1", (b"a file", b"\xff"), 2, b"/srv/.voltool/u/retired-1"),
    Told("hostC", "unreached", why="no route"),
    Told("hostD", "retired", aside_count=-1, aside_place=b"/x"),
)
OUTCOME = PromoteOutcome(RECORD, "hostB", "hostA", b"/srv/vol1", TOLD, ("hostC",))


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the job gives back; and what it was asked for."""
    found: list[Any] = [OUTCOME]

    def promoted(_world: object, wish: object) -> object:
        found.append(wish)
        return found[0]

    monkeypatch.setattr(module, "promote", promoted)
    return found


def test_the_json_is_as_promised(voltool: Console, outcomes: list[Any]) -> None:
    last = check_lines(voltool("replica", "promote", "vol1", "hostB", "--force", "--json"))
    assert (last["exit"], last["epoch"], last["accepts_writes"]) == (0, 3, ["hostC"])
    assert last["told"][0]["aside"] == ["a file", {"b64": "/w=="}]
    assert [told["aside_count"] for told in last["told"]] == [2, 0, None]
    assert (outcomes[1].force, outcomes[1].host) == (True, "hostB")


def test_who_accepts_writes_is_named(voltool: Console, outcomes: list[Any]) -> None:
    done = voltool("replica", "promote", "vol1", "hostB")
    assert outcomes[1].force is False
    assert "lives at hostB:/srv/vol1 now (epoch 3)" in done.out
    assert "hostC accepts writes as its home until it is contacted" in done.err
    assert "hostA accepts" not in done.err


def test_a_hook_that_failed_is_exit_code_1(voltool: Console, outcomes: list[Any]) -> None:
    outcomes[0] = dataclasses.replace(OUTCOME, hook_failed="exit status 7")
    done = voltool("replica", "promote", "vol1", "hostB")
    assert (done.code, "exit status 7" in done.err) == (1, True)
