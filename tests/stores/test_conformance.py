"""The conformance suite for each store there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stores.conformance import StoreConformance
from voltool.stores.contract import Store
from voltool.stores.opening import StoreOpener


class TestLocalStore(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return StoreOpener(0.0).open(str(tmp_path / "a store" / "here"))
