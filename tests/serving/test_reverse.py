"""Only the volume's home can connect to the host of a lazy replica: it does, and comes back whatever happens."""

from __future__ import annotations

import pytest

from tests.serving.oneway import OneWay, oneway

__all__ = ["oneway"]


@pytest.mark.may_skip("FUSE needs root and /dev/fuse")
def test_the_home_connects_to_the_replica_and_comes_back(oneway: OneWay) -> None:
    added = oneway.site.voltool("replica", "add", "--lazy", "vol", "hostb", "--bandwidth", "1")
    print(added.stdout, added.stderr)
    replica, truth = oneway.tree(oneway.b), oneway.truth
    assert (replica / "f3").read_bytes() == truth["f3"]
    print(oneway.listed())
