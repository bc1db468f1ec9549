"""A site with a volume to mount, and what tests do with mounts: where nothing can be mounted they are skipped with the reason."""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts import Site

needs_fuse = pytest.mark.skipif(
    not os.path.exists("/dev/fuse") or not (ctypes.util.find_library("fuse3") or ctypes.util.find_library("fuse")),
    reason="there is no /dev/fuse, or no libfuse (package libfuse3-3)",
)


@contextlib.contextmanager
def mounted(site: Site, directory: Path, *words: str, library: str | None = None) -> Iterator[Path]:
    """``voltool mount WORDS directory``; taken off at the end, whatever is left of it."""
    directory.mkdir(exist_ok=True)
    environment = {"FUSE_LIBRARY_NAME": library} if library else None
    site.voltool("mount", words[0], str(directory), *words[1:], environment=environment)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=False, capture_output=True)


def daemon_of(directory: Path) -> int:
    """The process that serves the mount at ``directory``."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"mount" in words and os.fsencode(directory) in words:
                return int(pid)
    raise AssertionError(f"nobody serves {directory}")


def kill_daemon(directory: Path) -> None:
    """kill -9, and wait until it is gone."""
    pid = daemon_of(directory)
    descriptor = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)

    assert select.select([descriptor], [], [], 30)[0]
    os.close(descriptor)


def points_of(directory: Path) -> list[str]:
    """The folders of a mount, without the symlink."""
    return sorted(name for name in os.listdir(directory) if name != "latest")
