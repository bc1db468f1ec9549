from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import sshd as servers
from tests.sshd import Sshd


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``local`` keeps its agent in the test's directory, and the tester's own keys are none of our business."""
    monkeypatch.setenv("VOLTOOL_STATE_DIR", str(tmp_path / "local-state"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("host") / "state"


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory, state: Path) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("sshd"), environment={"VOLTOOL_STATE_DIR": str(state)}) as server:
        yield server


@pytest.fixture
def throwaway_user() -> Iterator[tuple[str, str]]:
    with servers.throwaway_user() as account:
        yield account
