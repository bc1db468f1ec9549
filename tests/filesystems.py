"""Throw-away file systems on loop devices, for tests that need the real thing: ext4, xfs, btrfs, tmpfs, zfs.

Knows nothing of voltool. An image is a sparse file, so a large size costs nothing until it is filled. What a killed test
run left mounted is swept away by the next one.

Use as a context manager, or through the fixture::

    from tests.filesystems import LoopFilesystem, make_filesystem  # noqa: F401 - a fixture

    with LoopFilesystem("btrfs") as filesystem: ...

    def test_it(make_filesystem):
        volume = make_filesystem("xfs").path / "volume"
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import pytest

from tests import zfs

MIB = 1 << 20
DEFAULT_SIZE = 512 * MIB
_PREFIX = "voltool-test-fs-"
_MAKERS = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"], "btrfs": ["mkfs.btrfs", "-q", "-f"]}
KINDS = (*_MAKERS, "tmpfs", "zfs")


class LoopFilesystem:
    """A mounted file system of ``kind`` and ``size`` bytes at ``path``, gone when the context ends.

    ``mkfs_options`` and ``mount_options`` (``["ro", "prjquota"]``) are passed on. Minimal sizes: xfs 300 MiB, btrfs
    about 110 MiB. ``zfs`` is a pool of zfs-fuse, its root dataset mounted; it takes no options. Skips the test, with the
    reason, where we are not root or the tools or the kernel's driver are missing.
    """

    def __init__(
        self,
        kind: str,
        size: int = DEFAULT_SIZE,
        mkfs_options: Sequence[str] = (),
        mount_options: Sequence[str] = (),
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"no such kind of file system: {kind}")
        self.kind = kind
        self.size = size
        self._mkfs_options = list(mkfs_options)
        self._mount_options = list(mount_options)
        self._home: Path | None = None

    @property
    def path(self) -> Path:
        """Where it is mounted: a directory that is a mount point."""
        assert self._home is not None, "the file system is not set up"
        return self._home / "mnt"

    @property
    def image(self) -> Path:
        """The sparse file that holds it (not for tmpfs)."""
        return self.path.parent / "image"

    def __enter__(self) -> LoopFilesystem:
        skip_without(self.kind)
        if self.kind == "zfs":
            zfs.hold_daemon()
        self._home = temporary_home()
        try:
            self.path.mkdir()
            if self.kind == "zfs":
                with open(self.image, "wb") as image:
                    image.truncate(self.size)
                zfs.create_pool(self._home, self.image, self.path)
            else:
                if self.kind != "tmpfs":
                    make_image(self.kind, self.image, self.size, self._mkfs_options)
                self.mount()
        except BaseException:
            _remove_home(self._home)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._home is not None:
            _remove_home(self._home)
            self._home = None

    def mount(self) -> None:
        """Mount it again after `unmount`."""
        if self.kind == "zfs":
            assert self._home is not None
            zfs.import_pool(self._home)
            return
        if self.kind == "tmpfs":
            options = [f"size={self.size}", *self._mount_options]
            _run(["mount", "-t", "tmpfs", "-o", ",".join(options), "voltool-test", str(self.path)])
            return
        mount_image(self.kind, self.image, str(self.path), self._mount_options)

    def unmount(self) -> None:
        """Take the mount off; the image stays. Cold caches, or a "reboot"."""
        if self.kind == "zfs":
            assert self._home is not None
            zfs.export_pool(self._home)
            return
        _run(["umount", str(self.path)])

    def remount(self, *options: str) -> None:
        """Change mount options in place: ``remount("ro")``."""
        _run(["mount", "-o", ",".join(["remount", *options]), str(self.path)])

    def fill(self, leave: int = 0) -> Path:
        """Fill the file system up to ``leave`` bytes with one file, and name it; removing it frees the space again."""
        return fill(self.path, leave)


def fill(root: Path, leave: int = 0) -> Path:
    """`LoopFilesystem.fill` for the file system at ``root``."""
    path = root / "filler"
    step = MIB
    with open(path, "wb", buffering=0) as file:
        while step >= 4096:
            free = os.statvfs(root)
            if leave and free.f_bavail * free.f_frsize - step < leave:
                step //= 2
                continue
            try:
                file.write(b"\xa5" * step)
                os.fsync(file.fileno())
            except OSError:
                step //= 2
    return path


@pytest.fixture
def make_filesystem() -> Iterator[Callable[..., LoopFilesystem]]:
    """A function that makes file systems (`LoopFilesystem`'s arguments); all are removed after the test."""
    with contextlib.ExitStack() as stack:

        def make(kind: str, size: int = DEFAULT_SIZE, **options: Sequence[str]) -> LoopFilesystem:
            return stack.enter_context(LoopFilesystem(kind, size, **options))

        yield make


def temporary_home() -> Path:
    """A directory for images and mounts, which the next test run sweeps away if this one is killed."""
    sweep()
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))


def make_image(kind: str, image: Path, size: int, options: Sequence[str] = ()) -> None:
    """A sparse file with an empty file system of ``kind``."""
    with open(image, "wb") as file:
        file.truncate(size)
    _run([*_MAKERS[kind], *options, str(image)])


def mount_image(kind: str, image: Path, point: str, options: Sequence[str] = (), *, enter: Sequence[str] = ()) -> None:
    """Mount it at ``point``; ``enter`` is put before the command, to run it in another mount namespace."""
    command = [*enter, "mount", "-t", kind, "-o", ",".join(["loop", *options]), str(image), point]
    for attempt in range(5):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if "unknown filesystem type" in done.stderr:
            pytest.skip(f"this kernel cannot mount {kind}")
        time.sleep(0.1 * (attempt + 1))  # two tests may have grabbed the same free loop device
    raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def skip_without(kind: str) -> None:
    """Skip the test unless file systems of ``kind`` can be made and mounted here."""
    if os.geteuid() != 0:
        pytest.skip(f"needs root to mount {kind}")
    if kind == "zfs":
        zfs.skip_without_zfs()
    if kind in _MAKERS and shutil.which(_MAKERS[kind][0]) is None:
        pytest.skip(f"needs {_MAKERS[kind][0]}")
    if kind in _MAKERS and not Path("/dev/loop-control").exists():
        pytest.skip("needs loop devices")


def sweep() -> None:
    """Remove what test runs that are no longer alive left behind."""
    for home in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid = home.name[len(_PREFIX) :].split("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            with contextlib.suppress(OSError, RuntimeError):
                _remove_home(home)


def _remove_home(home: Path) -> None:
    if (home / "image").exists() and shutil.which("zpool"):
        zfs.destroy_pool(home)
    for mount in reversed(_mounts_below(home)):
        for attempt in range(10):
            if subprocess.run(["umount", mount], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.05 * attempt)
        else:
            subprocess.run(["umount", "-l", mount], capture_output=True, check=False)
    if not _mounts_below(home):
        _remove_tree(home)


def _remove_tree(home: Path) -> None:
    # only plain files and empty directories can be here once nothing is mounted; never walk into a mount by mistake
    for path in home.iterdir():
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
    home.rmdir()


def _mounts_below(home: Path) -> list[str]:
    mounts = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        point = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), line.split(b" ")[4])
        if point.startswith(os.fsencode(home) + b"/"):
            mounts.append(os.fsdecode(point))
    return mounts


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
