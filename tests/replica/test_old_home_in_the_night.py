"""An old home that comes back after a promotion by force, and who meets it: a stale catalog's dump, and the nightly backup."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.replica.test_on_hosts import Ground, made


def boss_and_stale(ground: Ground, tmp_path: Path) -> str:
    """The state directory of another administrator, who does not know of anything that happens from now on; one store."""
    ground.configure(f'store = "{tmp_path / "store"}"\n')
    (tmp_path / "store").mkdir()
    ground.voltool("dump", "vol")
    other = tmp_path / "other"
    other.mkdir()
    for path in ground.site.state.glob("catalog*"):
        shutil.copy2(path, other)
    return str(other)


def test_what_it_dumps_is_kept_and_marked_and_the_backup_tells_it_and_dumps_the_new_home(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "hosta", "hostb") as ground:
        ground.add("hostb")
        stale = boss_and_stale(ground, tmp_path)
        host = ground.site.hosts["hosta"].sshd
        host.down()
        ground.voltool("replica", "promote", "vol", "hostb", "--force")
        night = ground.voltool("backup", "vol")
        (turn,) = night["turns"]
        assert (night["exit"], turn["host"], turn["exit"]) == (0, "hostb", 0)
        assert any("hosta accepts writes as an old home until it is contacted" in text for text in turn["warnings"])
        host.up()
        (ground.volume / "meanwhile").write_bytes(b"acknowledged at the old home")
        (ground.place("hostb") / "new").write_bytes(b"at the new home")

        late = ground.voltool("dump", "vol", expect=(3,), VOLTOOL_STATE_DIR=stale)
        assert any("has been replaced: epoch 1, where the volume had 2" in line for line in ground.said)

        night = ground.voltool("backup", "vol")
        (turn,) = night["turns"]
        assert (night["exit"], turn["host"], turn["exit"]) == (0, "hostb", 0)
        (text,) = [text for text in turn["warnings"] if "written at hosta meanwhile" in text]
        assert "1 path was written" in text
        assert text.endswith(": meanwhile")
        assert os.listdir(ground.volume) == []
        (kept,) = (ground.path / ".voltool").glob("*/retired-*")
        assert (kept / "meanwhile").read_bytes() == b"acknowledged at the old home"

        ground.voltool("restore", "vol", f"hostb:{ground.path}/newest")
        assert (ground.path / "newest/new").exists()
        assert not (ground.path / "newest/meanwhile").exists()
        ground.voltool("restore", late["dumps"][0]["id"], f"hostb:{ground.path}/late")
        assert (ground.path / "late/meanwhile").read_bytes() == b"acknowledged at the old home"

        ground.voltool("dump", "vol", VOLTOOL_STATE_DIR=stale)
        assert any("it has moved from hosta to hostb" in line for line in ground.said)
