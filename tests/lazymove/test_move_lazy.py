"""`voltool move --lazy` for real: two hosts, a writer that keeps a log of what was acknowledged, and what goes wrong on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browse.mounting import needs_fuse
from tests.core.copying import copy_tree
from tests.judge import compare
from tests.lazymove.grounds import lazy_ground
from tests.writer import Writer, wait_until

pytestmark = needs_fuse


def test_a_volume_in_use_takes_over_at_once(tmp_path: Path) -> None:
    with lazy_ground(tmp_path) as lazy:
        writer = Writer(lazy.volume, tmp_path)
        result = lazy.move("--bandwidth", "200000")
        wait_until(lambda: writer.refused)
        writer.stop()
        assert writer.lost(lazy.target) == []
        assert result["fill"]["missing_files"] > 0
        assert lazy.site.voltool("where", "vol").stdout == f"hostb:{lazy.target}\n"
        again = Writer(lazy.target, tmp_path, word="there")
        lazy.await_end()
        again.stop()
        assert again.lost(lazy.target) == []
        assert writer.lost(lazy.target) == []
        assert lazy.mounts() == []
