"""The lease test in several processes finds what one finds, and never takes a dead process's files for tested."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from voltool.errors import AgentError
from voltool.leases import lease_test
from voltool.volumes.lock import leasetest

_FILES = 40


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files in some directories; a few in a batch, so that all processes get some."""
    monkeypatch.setattr(leasetest, "BATCH", 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2})
    for number in range(_FILES):
        path = tmp_path / str(number % 4) / f"file\n{number}"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def _paths(tree: Path) -> Iterator[bytes]:
    yield from sorted(os.fsencode(path.relative_to(tree)) for path in tree.rglob("file*"))


def test_every_file_that_is_open_for_writing_is_found(tree: Path) -> None:
    """Whichever process has it; what is gone by then is none."""
    wanted = sorted(_paths(tree))[1::7]
    opened = [os.open(os.path.join(os.fsencode(tree), path), os.O_WRONLY) for path in wanted]
    try:
        found = leasetest.find_busy(os.fsencode(tree), [*_paths(tree), b"0/gone", b"nowhere/gone"])
        identities = {path: (os.stat(fd).st_dev, os.stat(fd).st_ino) for path, fd in zip(wanted, opened, strict=True)}
    finally:
        for descriptor in opened:
            os.close(descriptor)
    assert {path: identity for identity, path in found.busy} == identities
    assert found.leaseless == 0
    assert leasetest.find_busy(os.fsencode(tree), _paths(tree)) == leasetest.Tested([], 0)


def test_a_process_that_dies_has_tested_nothing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock must fail then: its files may be open for writing."""
    parent = os.getpid()
    original = lease_test

    def dying(descriptor: int) -> bool | None:
        if os.getpid() != parent and os.readlink(f"/proc/self/fd/{descriptor}").endswith("\n21"):
            os._exit(1)
        return original(descriptor)

    monkeypatch.setattr(leasetest, "lease_test", dying)
    with pytest.raises(AgentError, match="has died"):
        leasetest.find_busy(os.fsencode(tree), _paths(tree))
