"""A read-only FUSE mount of a directory, in a process of its own: ``python -m tests.lazymove.passthrough SOURCE MOUNTPOINT``.

As plain as it can be: mfusepy with the options that a lazy mount has.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Passthrough:
    """What mfusepy calls."""

    use_ns = True

    def __init__(self, source: str) -> None:
        self._source = source

    def _at(self, path: str) -> str:
        return self._source + path

    def getattr(self, path: str, _fh: int | None = None) -> dict[str, Any]:
        status = os.lstat(self._at(path))
        kept = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_rdev", "st_size", "st_blocks")
        return {name: getattr(status, name) for name in kept} | {"st_mtime": status.st_mtime_ns}

    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path))

    def readdir(self, path: str, _fh: int) -> Iterator[tuple[str, dict[str, int], int]]:
        for name in [".", "..", *os.listdir(self._at(path))]:
            status = os.lstat(os.path.join(self._at(path), name))
            yield name, {"st_mode": status.st_mode, "st_ino": status.st_ino}, 0

    def open(self, path: str, _flags: int) -> int:
        return os.open(self._at(path), os.O_RDONLY)

    def read(self, _path: str | None, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def release(self, _path: str | None, fh: int) -> int:
        os.close(fh)
        return 0

    def listxattr(self, path: str) -> list[str]:
        return os.listxattr(self._at(path), follow_symlinks=False)

    def getxattr(self, path: str, name: str) -> bytes:
        return os.getxattr(self._at(path), name, follow_symlinks=False)

    def opendir(self, _path: str) -> int:
        return 0

    def releasedir(self, _path: str, _fh: int) -> int:
        return 0

    def statfs(self, _path: str) -> dict[str, int]:
        return {"f_bsize": 4096, "f_frsize": 4096, "f_namemax": 255}


def start(source: Path, mountpoint: Path) -> subprocess.Popen[bytes]:
    """Mount it; the process that serves it."""
    command = [sys.executable, "-m", "tests.lazymove.passthrough", str(source), str(mountpoint)]
    process = subprocess.Popen(command)
    for _attempt in range(200):
        if os.path.ismount(mountpoint):
            return process
        time.sleep(0.02)
    process.kill()
    raise RuntimeError(f"{mountpoint} is not mounted")


if __name__ == "__main__":
    os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
    import mfusepy

    cached = {"kernel_cache": True, "entry_timeout": 3600, "attr_timeout": 3600}
    mfusepy.FUSE(
        Passthrough(sys.argv[1]), sys.argv[2],
        foreground=True, ro=True, use_ino=True, allow_other=True, default_permissions=True, **cached,
    )  # fmt: skip
