"""The conformance suite for each store there is."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sshd import Sshd
from tests.stores.conformance import StoreConformance
from tests.stores.test_sftp import WITHOUT_EXTENSIONS
from voltool.stores.access import StoreAccess
from voltool.stores.contract import Store
from voltool.stores.opening import StoreOpener


class TestLocalStore(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return StoreOpener(0.0).open(str(tmp_path / "a store" / "here"))


@pytest.fixture(scope="module")
def opener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StoreOpener, Path]]:
    directory = tmp_path_factory.mktemp("sftp")
    with Sshd(directory / "sshd") as sshd:
        access = StoreAccess(ssh_config=str(sshd.config_file))
        opener = StoreOpener(0.0, lambda _host: access)
        yield opener, directory
        opener.close()


@pytest.fixture(scope="module")
def poor_opener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StoreOpener, Path]]:
    directory = tmp_path_factory.mktemp("poor")
    with Sshd(directory / "sshd", options=[WITHOUT_EXTENSIONS]) as sshd:
        access = StoreAccess(ssh_config=str(sshd.config_file))
        opener = StoreOpener(0.0, lambda _host: access)
        yield opener, directory
        opener.close()


class TestSftpStore(StoreConformance):
    """A real sshd. Each test has a root of its own, and the connection is made once."""

    @pytest.fixture
    def store(self, opener: tuple[StoreOpener, Path]) -> Store:
        stores, directory = opener
        root = tempfile.mkdtemp(dir=directory)
        return stores.open(f"sftp://throwaway{root}/a%20store/here")


class TestPoorSftpStore(StoreConformance):
    """A server that knows the protocol and none of OpenSSH's extensions."""

    @pytest.fixture
    def store(self, poor_opener: tuple[StoreOpener, Path]) -> Store:
        stores, directory = poor_opener
        return stores.open(f"sftp://throwaway{tempfile.mkdtemp(dir=directory)}")
