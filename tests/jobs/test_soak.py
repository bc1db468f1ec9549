"""A few rounds of the soak with seeds that are always the same (`make soak` goes on with others)."""

from __future__ import annotations

from pathlib import Path

from tests.jobs.apart import two_hosts
from tests.jobs.soak import Soak, describe

SEEDS = (1, 2, 3)


def test_whoever_is_killed_when(tmp_path: Path) -> None:
    with two_hosts(tmp_path, "ext4", "xfs") as apart:
        soak = Soak(apart, most_blows=2)
        for number, seed in enumerate(SEEDS):
            try:
                soak.round(seed, number)
            except BaseException as error:
                error.add_note("\n".join([*soak.story, describe(apart)]))
                raise
