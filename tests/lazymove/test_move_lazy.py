"""`voltool move --lazy` for real: two hosts, a writer that logs what was acknowledged, and what goes wrong on the way."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.browse.mounting import needs_fuse
from tests.core.copying import copy_tree
from tests.judge import compare
from tests.lazymove.grounds import lazy_ground, until
from tests.writer import Writer, wait_until

pytestmark = needs_fuse


def test_a_volume_in_use_takes_over_at_once_and_its_new_home_is_started_anew(tmp_path: Path) -> None:
    with lazy_ground(tmp_path, "btrfs", "xfs", files=60) as lazy:
        lazy.site.voltool("dump", "vol")
        writer = Writer(lazy.volume, tmp_path)
        lazy.move_paused()
        wait_until(lambda: writer.refused)
        writer.stop()
        assert {b"large", b"d1/other name"} & set(lazy.missing())
        refused = lazy.site.voltool("retired", "purge", "vol", "hosta", "--yes", check=False)
        assert "has not fetched everything" in refused.stdout + refused.stderr
        refused = lazy.site.voltool("move", "vol", f"hosta:{lazy.volume}", "--yes", check=False)
        assert "has not come completely" in refused.stderr
        copy = tmp_path / "copy"
        copy_tree(os.fsencode(lazy.ground.retired), os.fsencode(copy))
        for tree in (lazy.target, copy):
            os.rename(tree / "d1", tree / "d2/renamed")
            (tree / "d2/sub/f2").unlink()
            (tree / "new").write_text("written at the new home")
        lazy.reboot_new_home()
        with pytest.raises(OSError, match="not permitted"):
            (lazy.target / "started on an empty directory").touch()
        lazy.go_on()
        lazy.site.voltool("move", "--resume", "vol")
        again = Writer(lazy.target, tmp_path, word="there")
        lazy.kill("hosta")
        lazy.site.voltool("move", "--resume", "vol")
        lazy.await_end()
        again.stop()
        assert again.lost(lazy.target) == []
        assert writer.lost(lazy.target) == []
        for path in [*lazy.target.glob("log*"), *copy.glob("log*")]:
            path.unlink()
        assert compare(copy, lazy.target, ignore=("mtime", "rsync")) == []
        assert lazy.mounts() == []
        assert not list((lazy.ground.there / ".voltool").glob("replica-*"))
        dump = lazy.site.result("dump", "--level", "1", "vol")["dumps"][0]
        assert (dump["level"], dump["stored_bytes"] < 300_000) == (1, True)
        lazy.site.voltool("retired", "purge", "vol", "hosta", "--yes")


def test_the_old_home_is_lost(tmp_path: Path) -> None:
    with lazy_ground(tmp_path, "ext4", "ext4", files=30) as lazy:
        config = lazy.site.home / ".config/voltool/config.toml"
        config.parent.mkdir(parents=True)
        lazy.site.voltool("dump", "vol")
        with socket.create_server(("0.0.0.0", 0)) as busy:  # noqa: S104 - nobody else shall have it
            port = busy.getsockname()[1]
            config.write_text(f'[hosts.hosta]\nports = "{port}-{port}"\n')
            words = ("move", "--lazy", "vol", f"hostb:{lazy.target}", "--yes")
            assert lazy.site.voltool(*words, check=False).returncode == 6
        assert not list((lazy.site.directory / "state-hosta/moves").glob("*.json"))
        assert not lazy.target.exists()
        config.write_text("fetch_timeout = 1\n")
        (lazy.volume / "since the dump").write_text("in no dump")
        copy = tmp_path / "copy"
        copy_tree(os.fsencode(lazy.volume), os.fsencode(copy))
        lazy.move_paused()
        lazy.kill("hosta")
        lazy.site.hosts["hosta"].sshd.stop()
        with pytest.raises(OSError, match="Input/output error"):
            (lazy.target / "since the dump").read_text()
        (lazy.target / "d1/written").write_text("here")
        fill = lazy.fill()
        assert fill is not None
        assert "since the dump" in fill["missing"]
        restored = lazy.ground.there / "restored"
        lazy.site.voltool("restore", "vol", f"hostb:{restored}")
        lazy.site.voltool("move", "--resume", "vol", "--fill-from", str(restored))
        until(lambda: lazy.missing() == [b"since the dump"])
        assert (lazy.target / "large").read_bytes() == (copy / "large").read_bytes()
        with pytest.raises(OSError, match="Input/output error"):
            (lazy.target / "since the dump").read_text()
        (lazy.target / "since the dump").unlink()
