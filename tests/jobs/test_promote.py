"""`voltool replica promote` for real: the old home is lost and comes back with writes; two promotions, a split, and its end."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.hosts import Site
from voltool.volumes.lock.hold import in_container


class Ground:
    """Three hosts, one file system each: the volume on ``hosta``, replicas on ``hostb`` and ``hostc``."""

    def __init__(self, site: Site, filesystems: list[LoopFilesystem]) -> None:
        self.site = site
        self.paths = {}
        for name, filesystem in zip(("hosta", "hostb", "hostc"), filesystems, strict=False):
            site.add_host(name)
            self.paths[name] = filesystem.path / "vol"
        self._dead: set[str] = set()
        self._ssh_config = site.ssh_config.read_text(encoding="utf-8")
        self.volume = self.paths["hosta"]
        if filesystems[0].kind == "btrfs":
            subprocess.run(["btrfs", "-q", "subvolume", "create", str(self.volume)], check=True)
        else:
            self.volume.mkdir()
        for number in range(60):
            (self.volume / f"d{number % 5}").mkdir(exist_ok=True)
            (self.volume / f"d{number % 5}" / f"f{number}").write_bytes(os.urandom(2000))
        (self.volume / "large").write_bytes(os.urandom(2_500_000))
        site.voltool("volume", "add", "vol", f"hosta:{self.volume}")
        for name in list(self.paths)[1:]:
            site.voltool("replica", "add", "vol", f"{name}:{self.paths[name]}")

    def kill(self, *names: str) -> None:
        """These hosts do not answer."""
        self._dead |= set(names)
        self._write_ssh_config()

    def revive(self, *names: str) -> None:
        """They do again."""
        self._dead -= set(names)
        self._write_ssh_config()

    def _write_ssh_config(self) -> None:
        """Who is dead is looked for at a port where nobody answers."""
        text = self._ssh_config
        for name in self._dead:
            text = text.replace(f"    Port {self.site.hosts[name].sshd.port}\n", "    Port 1\n")
        self.site.ssh_config.write_text(text, encoding="utf-8")

    def promote(self, host: str, *options: str, check: bool = True) -> dict[str, object]:
        return self.site.result("replica", "promote", "vol", host, "--lock-timeout", "0", *options, check=check)

    def contents(self, name: str) -> dict[str, bytes]:
        root = self.paths[name]
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def clear(self) -> None:
        for path in self.paths.values():
            while subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True).returncode == 0:
                pass
            subprocess.run(["chattr", "-i", str(path)], check=False, capture_output=True)


@contextlib.contextmanager
def made(tmp_path: Path, *kinds: str) -> Iterator[Ground]:
    if in_container():
        pytest.skip("needs the machine's first pid namespace: nothing is locked in a container")
    with contextlib.ExitStack() as stack:
        filesystems = [stack.enter_context(LoopFilesystem(kind)) for kind in kinds]
        site = stack.enter_context(Site(tmp_path / "site"))
        ground = Ground(site, filesystems)
        stack.callback(ground.clear)
        yield ground


def test_the_old_home_is_lost_and_comes_back_with_writes(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "btrfs") as ground:
        site, synced = ground.site, ground.contents("hosta")
        site.voltool("dump", "vol")
        (ground.volume / "acknowledged").write_bytes(b"after the last sync")
        assert ground.promote("hostb", check=False)["error"]["kind"] == "refused"  # type: ignore[index]
        ground.kill("hosta")
        refused = ground.promote("hostb", check=False)
        assert "may be alive" in str(refused["error"])
        done = ground.promote("hostb", "--force")
        assert (done["epoch"], done["accepts_writes"]) == (2, ["hosta"])
        assert ground.contents("hostb") == synced
        (ground.paths["hostb"] / "d1" / "new").write_bytes(b"at the new home")
        level = site.result("dump", "--level", "1", "vol")
        assert level["dumps"][0]["data_bytes"] < 1000
        (ground.volume / "d0" / "f0").write_bytes(b"written by one who did not know")
        ground.revive("hosta")
        told = site.voltool("dump", "--level", "1", "vol")
        assert "acknowledged, d0/f0" in told.stderr
        assert os.listdir(ground.volume) == []
        (copy,) = site.result("retired", "list")["retired"]
        assert (copy["host"], copy["aside"]) == ("hosta", 2)
        kept = Path(copy["path"])
        assert (kept / "acknowledged").read_bytes() == b"after the last sync"
        doctor = site.voltool("doctor", check=False)
        assert "d0/f0" in doctor.stdout
        assert site.voltool("where", "vol").stdout.strip() == f"hostb:{ground.paths['hostb']}"
        come_back(ground, kept)


def come_back(ground: Ground, kept: Path) -> None:
    """The former home becomes a replica, is synced, and is the home again; what it kept aside is not touched."""
    site = ground.site
    site.voltool("replica", "add", "vol", f"hosta:{ground.volume}")
    assert ground.contents("hosta") == ground.contents("hostb")
    (ground.paths["hostb"] / "later").write_bytes(b"later")
    site.voltool("replica", "sync", "vol", "hosta")
    ground.kill("hostb")
    ground.promote("hosta", "--force")
    ground.revive("hostb")
    assert (kept / "acknowledged").read_bytes() == b"after the last sync"
    assert (ground.volume / "later").read_bytes() == b"later"
    site.voltool("replica", "list", "vol")
    site.voltool("dump", "--level", "1", "vol")
    assert os.listdir(ground.paths["hostb"]) == []


def test_two_promotions_are_a_split_that_the_user_ends(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4", "btrfs") as ground:
        site = ground.site
        other = tmp_path / "other administrator"
        subprocess.run(["cp", "-a", str(site.state), str(other)], check=True)
        environment = {"VOLTOOL_STATE_DIR": str(other)}
        ground.kill("hosta", "hostc")
        ground.promote("hostb", "--force")
        ground.revive("hostc")
        ground.kill("hostb")
        (ground.paths["hostb"] / "at b").write_bytes(b"b")
        site.voltool("replica", "promote", "vol", "hostc", "--force", environment=environment)
        (ground.paths["hostc"] / "at c").write_bytes(b"c")
        ground.revive("hosta", "hostb")
        shown = site.voltool("replica", "sync", "vol", check=False)
        assert "split" in shown.stderr
        for host in ("hostb", "hostc"):
            with pytest.raises(OSError, match="Read-only"):
                (ground.paths[host] / "no").touch()
        assert "split" in site.voltool("dump", "vol", check=False).stderr
        assert "split" in site.voltool("move", "vol", "hosta", check=False).stderr
        assert "split" in site.voltool("where", "vol", check=False).stderr
        assert "split" in site.voltool("doctor", check=False).stdout
        assert "several hosts" in str(ground.promote("hostc", check=False)["error"])
        done = ground.promote("hostc", "--force")
        assert done["epoch"] == 3
        assert [each["aside"] for each in done["told"] if each["host"] == "hostb"] == [["at b"]]  # type: ignore[attr-defined]
        (ground.paths["hostc"] / "yes").touch()
        assert os.listdir(ground.paths["hostb"]) == []
        where = site.voltool("where", "vol", environment=environment).stdout
        assert where.strip() == f"hostc:{ground.paths['hostc']}"
