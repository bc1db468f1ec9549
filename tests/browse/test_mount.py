"""What a mount shows is what a restore makes, at every point in time; and it harms nobody, whatever happens to it."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import torture
from tests.browse.mounting import daemon_of, kill_daemon, mounted, needs_fuse, points_of
from tests.browse.test_export import damage
from tests.cli.test_json import SCHEMA, check_fields
from tests.filesystems import LoopFilesystem
from tests.hosts import Site
from tests.judge import compare
from voltool import fuse
from voltool.browse import mountpoint
from voltool.errors import NotFoundError

pytestmark = needs_fuse

MIB = 1 << 20


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Path]]:
    """A site and its volume ``vol1`` of a few files, dumped once. Some tests dump it again; the last one damages that."""
    tmp_path = tmp_path_factory.mktemp("small")
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "one").write_bytes(random.Random(1).randbytes(3 * MIB))
    (volume / "two").write_bytes(random.Random(2).randbytes(2 * MIB))
    (volume / "small").write_bytes(b"small")
    with Site(tmp_path / "site") as site:
        site.voltool("volume", "add", "vol1", f"local:{volume}")
        site.voltool("dump", "vol1")
        yield site, volume


def test_every_point_in_time_is_what_a_restore_makes(tmp_path: Path) -> None:
    with LoopFilesystem("ext4") as disk, Site(tmp_path / "site") as site:
        volume = disk.path / "volume"
        torture.build(volume)
        site.voltool("volume", "add", "vol1", f"local:{volume}")
        site.voltool("dump", "vol1")
        torture.unseal(volume)
        with open(volume / "sizes" / "random-3145745", "r+b") as file:
            os.pwrite(file.fileno(), b"a patch", 2_000_000)
            os.ftruncate(file.fileno(), 4 * MIB)
        os.rename(volume / "crowd", volume / "crew")
        os.unlink(volume / "links" / "a" / "large")
        os.mkdir(volume / "new")
        site.voltool("dump", "vol1", "--level", "1")
        dumps = site.result("dumps", "vol1")["dumps"]
        # What FUSE cannot show: holes smaller than 1 MiB. It shows flags and project ids, but cannot do what they say.
        with mounted(site, tmp_path / "mnt", "vol1", "--numeric-owner") as top:
            assert [name[-12:] for name in points_of(top)] == [dump["id"][:12] for dump in dumps]
            assert os.readlink(top / "latest") == points_of(top)[-1]
            for number, dump in enumerate(dumps):
                target = disk.path / f"restored{number}"
                site.voltool("restore", dump["id"], f"local:{target}", "--numeric-owner", check=False)
                ignore = ["holes"] if number else ["holes", "rsync"]  # once more is enough
                assert compare(target, top / points_of(top)[number], ignore=ignore) == []
                torture.destroy(target)
            sparse = top / "latest" / os.fsdecode(torture.TERABYTE_FILE)
            assert sparse.stat().st_blocks * 512 <= 4 * MIB
        torture.destroy(volume)


@pytest.mark.parametrize("library", ["fuse", "fuse3"])
def test_one_dump_at_the_directory_itself(small: tuple[Site, Path], tmp_path: Path, library: str) -> None:
    site, volume = small
    with mounted(site, tmp_path / "mnt", "vol1", "--at", "now", library=library) as top:
        line = next(line for line in Path("/proc/mounts").read_text().splitlines() if str(top) in line)
        assert line.startswith(f"voltool:vol1 {top} fuse.voltool ro,nosuid,nodev")
        assert compare(volume, top, ignore=["flags"] if library == "fuse" else []) == []
        with pytest.raises(OSError, match="Read-only file system"):
            (top / "new").write_bytes(b"")
        check_fields(done := json.loads(site.voltool("--json", "umount", str(top)).stdout),
                     {**SCHEMA["result"], **SCHEMA["umount"]}, "umount")  # fmt: skip
        assert done["source"] == "voltool:vol1"
        assert os.listdir(top) == []


def test_a_dead_daemon_is_cleaned_up_after(small: tuple[Site, Path], tmp_path: Path) -> None:
    site, _volume = small
    top = tmp_path / "mnt"
    with mounted(site, top, "vol1"):
        kill_daemon(top)
        with pytest.raises(OSError, match="not connected"):
            os.listdir(top)
        *events, last = map(json.loads, site.voltool("--json", "mount", "vol1", str(top)).stdout.splitlines())
        check_fields(last, {**SCHEMA["result"], **SCHEMA["mount"]}, "mount")
        assert "has been taken off" in str(events)
        assert (top / "latest" / "small").read_bytes() == b"small"
        kill_daemon(top)
        site.voltool("umount", str(top))
        assert os.listdir(top) == []
        refused = site.voltool("umount", str(top), check=False)
        assert (refused.returncode, "no volume is mounted" in refused.stderr) == (1, True)


def test_who_uses_it_is_named_and_may_go_on(small: tuple[Site, Path], tmp_path: Path) -> None:
    site, _volume = small
    with mounted(site, tmp_path / "mnt", "vol1") as top, open(top / "latest" / "small", "rb") as file:
        busy = site.voltool("umount", str(top), check=False)
        assert busy.returncode == 4
        assert f"pid {os.getpid()} (" in busy.stderr
        twice = site.voltool("mount", "vol1", str(top), check=False)
        assert "is mounted already" in twice.stderr
        site.voltool("umount", "--lazy", str(top))
        assert os.listdir(top) == []
        assert file.read() == b"small"


def test_where_nothing_may_be_mounted(small: tuple[Site, Path], tmp_path: Path) -> None:
    site, volume = small
    inside = site.state / "store" / "inside"
    inside.mkdir()
    (tmp_path / "link").symlink_to(inside)
    for place, why in (
        (inside, "would need itself"), (tmp_path / "link", "would need itself"), (site.state, "would need itself"),
        (volume, "is not empty"), (volume / "small", "is not a directory"), (tmp_path / "missing", "there is no"),
    ):  # fmt: skip
        done = site.voltool("mount", "vol1", str(place), check=False)
        assert (done.returncode, why in done.stderr) == (1, True), done.stderr
    assert "fuse.voltool" not in Path("/proc/mounts").read_text()
    with pytest.raises(NotFoundError, match="no volume is mounted"):
        mountpoint.unmount(b"/proc")  # what is not ours stays
    assert os.path.exists("/proc/mounts")


def test_the_foreground_ends_with_a_signal(small: tuple[Site, Path], tmp_path: Path) -> None:
    site, _volume = small
    top = tmp_path / "mnt"
    top.mkdir()
    command = site.command("mount", "vol1", str(top), "--foreground")
    with subprocess.Popen(command, env=site.environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"mounted at" in process.stdout.readline()
        assert daemon_of(top) == process.pid
        assert (top / "latest" / "small").read_bytes() == b"small"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert os.listdir(top) == []
    assert not list((site.state / "store" / "vol1").glob(".pin*"))


def test_a_name_out_of_a_dump_is_no_mount_option() -> None:
    options = fuse._options(fuse.load(), fuse.MountSettings("vol,dev,suid", "voltool"))
    assert options["fsname"] == "voltool:vol_dev_suid"


LOOK = """
import os, sys
os.setgroups([]); os.setgid(4001); os.setuid(4000)
for path in sys.argv[1:]:
    try:
        print(open(path).read())
    except PermissionError:
        print("denied")
"""


def test_other_users_see_what_modes_and_acls_let_them(small: tuple[Site, Path], tmp_path: Path) -> None:
    site, _volume = small
    volume = tmp_path / "volume"
    volume.mkdir()
    for name, mode, group in (("open", 0o644, 0), ("secret", 0o600, 0), ("shared", 0o660, 0), ("masked", 0o640, 4001)):
        (volume / name).write_bytes(name.encode())
        os.chmod(volume / name, mode)
        os.chown(volume / name, 0, group)
    access = torture.acl((1, 6, 0), (2, 4, 4000), (4, 0, 0), (16, 6, 0), (32, 0, 0))
    os.setxattr(volume / "shared", "system.posix_acl_access", access)
    # The mode's group bits are the mask here; the owning group itself has no right.
    masked = torture.acl((1, 6, 0), (2, 4, 9), (4, 0, 0), (16, 4, 0), (32, 0, 0))
    os.setxattr(volume / "masked", "system.posix_acl_access", masked)
    site.voltool("volume", "add", "shared", f"local:{volume}")
    site.voltool("dump", "shared")
    top = Path("/run") / f"voltool-test-{os.getpid()}"  # others may not enter pytest's directory
    top.mkdir()
    try:
        old = {"FUSE_LIBRARY_NAME": "fuse"}
        refused = site.voltool("mount", "shared", str(top), "--allow-other", check=False, environment=old)
        assert (refused.returncode, "needs libfuse 3" in refused.stderr) == (1, True)
        with mounted(site, top, "shared", "--at", "now", "--allow-other"):
            paths = [str(top / name) for name in ("open", "secret", "shared", "masked")]
            done = subprocess.run([sys.executable, "-c", LOOK, *paths], capture_output=True, text=True, check=True)
            assert done.stdout.split() == ["open", "denied", "shared", "denied"]
    finally:
        top.rmdir()


def test_reads_anywhere_by_many_at_once(small: tuple[Site, Path], tmp_path: Path) -> None:
    site, volume = small
    rng = random.Random(3)
    with open(volume / "one", "r+b") as file:
        for _time in range(20):
            os.pwrite(file.fileno(), rng.randbytes(300), rng.randrange(3 * MIB))
    site.voltool("dump", "vol1", "--level", "1")
    data = (volume / "one").read_bytes()
    wrong: list[int] = []
    with mounted(site, tmp_path / "mnt", "vol1") as top:

        def read(seed: int) -> None:
            places = random.Random(seed)
            with open(top / "latest" / "one", "rb", buffering=0) as file:
                for _time in range(60):
                    at, length = places.randrange(len(data) + 5), places.choice([1, 5000, 200_000])
                    if os.pread(file.fileno(), length, at) != data[at : at + length]:
                        wrong.append(at)

        before = [name for name in points_of(top) if name != os.readlink(top / "latest")][-1]
        differ = subprocess.run(
            ["diff", "-rq", top / before, top / "latest/"], capture_output=True, text=True, check=False
        )
        assert differ.stdout.count("differ") == 1, "two points in time must not pass for one tree"
        threads = [threading.Thread(target=read, args=[seed]) for seed in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_damage_is_an_error_for_its_file_alone_and_new_dumps_appear(small: tuple[Site, Path], tmp_path: Path) -> None:
    site, volume = small
    before = site.result("dumps", "vol1")["dumps"]
    damage(site.state / "store" / before[0]["file"], -1)
    with mounted(site, tmp_path / "mnt", "vol1") as top:
        outcomes: dict[str, int] = {}
        for name in ("one", "two", "small"):
            try:
                outcomes[name] = int((top / "latest" / name).read_bytes() == (volume / name).read_bytes())
            except OSError as error:
                outcomes[name] = -(error.errno or 0)
        assert sorted(outcomes.values()) == [-errno.EIO, 1, 1]
        (volume / "new").write_bytes(b"new")
        site.voltool("dump", "vol1")
        time.sleep(2.1)  # for so long a list of the dumps is good
        assert len(points_of(top)) == len(before) + 1
        assert (top / "latest" / "new").read_bytes() == b"new"
