"""The fake console for tests of the command line alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.fakes import Console


@pytest.fixture
def voltool(own_environment: Path, monkeypatch: pytest.MonkeyPatch) -> Console:
    return Console(own_environment / "state", monkeypatch)
