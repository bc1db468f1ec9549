"""The overlay over a lazy mount: what it shows at once, what it keeps when the mount below is another, where it cannot be."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browse.mounting import needs_fuse
from tests.filesystems import LoopFilesystem
from tests.judge import compare
from tests.lazymove import passthrough
from voltool.agent.lazymove.overlay import Layers, check_upper, is_mounted, mount, prepare, unfit, unmount
from voltool.dumpfile import format as fmt
from voltool.errors import RefusedError

FILES = 20


class Mounted:
    """An overlay with a FUSE mount below it that can be killed and started again."""

    def __init__(self, root: Path) -> None:
        self.source, self.lower, self.shown = root / "source", root / "lower", root / "shown, as: it is"
        for directory in (self.source, self.lower, self.shown):
            directory.mkdir()
        self.layers = Layers(
            os.fsencode(self.lower), os.fsencode(root / "up,per"), os.fsencode(root / "wo:rk"), os.fsencode(self.shown)
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = passthrough.start(self.source, self.lower)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            subprocess.run(["umount", "-l", self.lower], check=True)
        self.process = None


@pytest.fixture
def mounted(make_filesystem: Callable[..., LoopFilesystem]) -> Iterator[Mounted]:
    made = Mounted(make_filesystem("ext4").path)
    for number in range(FILES):
        (made.source / f"f{number}").write_text(f"content {number}")
    (made.source / "directory/inner").mkdir(parents=True)
    (made.source / "directory/inner/file").write_text("inner")
    os.chmod(made.source, 0o2750)
    os.chown(made.source, 7, 8)
    os.setxattr(made.source, "user.root", b"of the volume")
    os.utime(made.source, ns=(1, 10**18))
    yield made
    unmount(made.layers.path)
    made.kill()


@needs_fuse
def test_everything_is_there_at_once_and_takes_writes(mounted: Mounted) -> None:
    mounted.start()
    prepare(mounted.layers)
    mount(mounted.layers)
    assert is_mounted(mounted.layers.path)
    assert compare(mounted.source, mounted.shown) == []
    root = mounted.shown.stat()
    assert (stat.S_IMODE(root.st_mode), root.st_uid, root.st_gid, root.st_mtime_ns) == (0o2750, 7, 8, 10**18)
    (mounted.shown / "f1").write_text("written")
    (mounted.shown / "directory").rename(mounted.shown / "renamed")
    assert (mounted.shown / "renamed/inner/file").read_text() == "inner"
    assert (mounted.source / "f1").read_text() == "content 1"


@needs_fuse
def test_after_a_restart_of_what_is_below_no_file_shows_another_ones_bytes(mounted: Mounted) -> None:
    """FUSE gives out its handles anew, by the order in which files are looked at; the kernel believes those it has noted."""
    mounted.start()
    prepare(mounted.layers)
    mount(mounted.layers)
    for number in range(5):
        with open(mounted.shown / f"f{number}", "a") as file:
            file.write(", written")
    (mounted.shown / "directory").rename(mounted.shown / "renamed")
    with open(mounted.shown / "f0", "a") as still_open:
        mounted.kill()
        still_open.write(", while it was dead")
        unmount(mounted.layers.path)
        mounted.start()
        for number in reversed(range(FILES)):
            (mounted.lower / f"f{number}").read_text()
        prepare(mounted.layers)
        mount(mounted.layers)
        still_open.write(", and after")
    shown = {name: (mounted.shown / name).read_text() for name in (f"f{number}" for number in range(FILES))}
    wanted = {f"f{number}": f"content {number}" + ", written" * (number < 5) for number in range(FILES)}
    wanted["f0"] += ", while it was dead, and after"
    assert shown == wanted
    assert (mounted.shown / "renamed/inner/file").read_text() == "inner"
    inodes = {(path.stat().st_dev, path.stat().st_ino) for path in mounted.shown.glob("f*")}
    assert len(inodes) == FILES


def test_where_an_upper_directory_cannot_be_is_said_before(make_filesystem: Callable[..., LoopFilesystem]) -> None:
    root = make_filesystem("ext4").path
    check_upper(os.fsencode(root))
    assert os.listdir(root) == ["lost+found"]
    layers = Layers(*(os.fsencode(root / name) for name in ("lower", "upper", "work", "shown")))
    (root / "lower").mkdir()
    (root / "shown").mkdir()
    prepare(layers)
    mount(layers)
    try:
        with pytest.raises(RefusedError, match="cannot hold the upper directory"):
            check_upper(layers.path)
    finally:
        unmount(layers.path)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_an_upper_directory_can_be_there(kind: str, make_filesystem: Callable[..., LoopFilesystem]) -> None:
    check_upper(os.fsencode(make_filesystem(kind).path))


def test_the_mount_is_as_careful_as_the_one_it_lies_on(make_filesystem: Callable[..., LoopFilesystem]) -> None:
    root = make_filesystem("ext4", mount_options=["nosuid", "nodev", "noexec"]).path
    layers = Layers(*(os.fsencode(root / name) for name in ("lower", "upper", "work", "shown")))
    (root / "lower").mkdir()
    (root / "shown").mkdir()
    prepare(layers)
    mount(layers)
    flags = os.statvfs(root / "shown").f_flag
    unmount(layers.path)
    assert flags & os.ST_NOSUID
    assert flags & os.ST_NODEV
    assert flags & os.ST_NOEXEC


def test_what_an_overlay_cannot_show_is_known_beforehand() -> None:
    plain = fmt.ObjectRecord(5, stat.S_IFREG | 0o644, 0, 0, 0, 0, 0, 0, 0, 0, b"", b"", b"")
    assert unfit(plain) == ""
    assert unfit(plain._replace(mode=stat.S_IFCHR | 0o600, size=os.makedev(1, 3))) == ""
    assert "0:0" in unfit(plain._replace(mode=stat.S_IFCHR | 0o600))
    assert "immutable" in unfit(plain._replace(flags=fmt.FLAG_IMMUTABLE))
    assert "another overlay" in unfit(plain._replace(xattrs=fmt.encode_xattrs([(b"trusted.overlay.opaque", b"y")])))
