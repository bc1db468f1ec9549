"""A few rounds of the soak with seeds that are always the same (`make soak` goes on with others)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs.apart import two_hosts
from tests.jobs.soak import Soak, describe


@pytest.mark.parametrize("seed", [1, 2])
def test_whoever_is_killed_when(tmp_path: Path, seed: int) -> None:
    with two_hosts(tmp_path, "ext4", "xfs") as apart:
        soak = Soak(apart, seed, most_blows=2)
        for number in range(2):
            try:
                soak.round(number)
            except BaseException as error:
                error.add_note("\n".join([*soak.story, describe(apart)]))
                raise
