"""`make soak`: see tests/jobs/soak.py. Laps of some rounds, each with two new hosts and a seed of its own, which repeats it."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.jobs.apart import two_hosts
from tests.jobs.soak import Soak, describe

ROUNDS = 10
KINDS = (("ext4", "xfs"), ("xfs", "btrfs"), ("ext4", "ext4"), ("btrfs", "ext4"))


def lap(seed: int, end: float) -> int:
    """How many rounds were done before ``end``; raises what a round raises, after the state has been printed."""
    here, there = KINDS[seed % len(KINDS)]
    with tempfile.TemporaryDirectory() as directory, two_hosts(Path(directory), here, there) as apart:
        soak = Soak(apart)
        for number in range(ROUNDS):
            if time.monotonic() >= end:
                return number
            try:
                soak.round(seed, number)
            except BaseException:
                print("\n".join(soak.story), describe(apart), sep="\n")
                raise
            print("\n".join(soak.story), flush=True)
    return ROUNDS


def main() -> int:
    """``SOAK_MINUTES`` (10), ``SOAK_SEED`` of the first lap (a new one)."""
    seed = int(os.environ.get("SOAK_SEED") or random.randrange(1 << 32))
    end = time.monotonic() + 60 * float(os.environ.get("SOAK_MINUTES") or "10")
    done = 0
    while time.monotonic() < end:
        print(f"lap with SOAK_SEED={seed}", flush=True)
        try:
            done += lap(seed, end)
        except Exception:  # noqa: BLE001 - whatever it is
            traceback.print_exc()
            print(f"failed after {done} rounds; again: make soak SOAK_SEED={seed}")
            return 1
        seed += 1
    print(f"{done} rounds: nothing was lost, nothing was left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
