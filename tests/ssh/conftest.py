from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import sshd as servers
from tests.sshd import Sshd


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_real_agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tester's own keys are none of our business."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture
def throwaway_user() -> Iterator[tuple[str, str]]:
    with servers.throwaway_user() as account:
        yield account
