"""A volume on a file system of its own, locked for real; and processes that hold on to it. All is gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.filesystems import LoopFilesystem
from voltool.volumes.lock.book import LockBook, LockRecord
from voltool.volumes.lock.hold import LockWish, lock_tree, unlock_tree
from voltool.volumes.lock.search import Files
from voltool.volumes.records import AREA_NAME

UUID = "0123456789abcdef0123456789abcdef"
#: Long enough for a mount namespace that another test makes just now to end again.
TIMEOUT = 15.0
SPARE = b"spare"


class Place:
    """``volume`` holds ``file`` and ``sub/inner``."""

    def __init__(self, filesystem: LoopFilesystem, state: Path) -> None:
        self.filesystem = filesystem
        self.book = LockBook(os.fsencode(state), UUID)
        self.volume = filesystem.path / "vol"
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        if self.filesystem.kind == "btrfs":
            subprocess.run(["btrfs", "-q", "subvolume", "create", str(self.volume)], check=True)
        else:
            self.volume.mkdir()
        (self.volume / "sub").mkdir()
        (self.volume / "file").write_bytes(b"content" * 1000)
        (self.volume / "sub/inner").write_bytes(b"inner")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
        unlock_tree(self.book)

    def lock(self, timeout: float = TIMEOUT, files: Files | None = None, seconds: int = 60) -> LockRecord:
        return lock_tree(self.book, self.wish(timeout, files, seconds))[0]

    def wish(self, timeout: float = TIMEOUT, files: Files | None = None, seconds: int = 60) -> LockWish:
        return LockWish(UUID, "vol", os.fsencode(self.volume), "the test", seconds, timeout, files)

    def unlock(self) -> LockRecord | None:
        return unlock_tree(self.book)

    def spare(self) -> Path:
        """An empty directory beside the volume."""
        path = self.filesystem.path / os.fsdecode(AREA_NAME) / os.fsdecode(SPARE)
        path.mkdir(parents=True)
        return path

    def holder(self, code: str, *prefix: str, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        """A process that runs ``code`` (with ``volume`` set) until it prints a line, and then ``step`` by step: each line
        it is given is executed, and answered by a line."""
        text = (
            f"import os, sys, mmap, socket\nvolume = {str(self.volume)!r}\n{code}\nprint('ready', flush=True)\n"
            "for line in sys.stdin:\n"
            "    try:\n        exec(line)\n        print('done', flush=True)\n"
            "    except OSError as error:\n        print(error.strerror, flush=True)\n"
        )
        child = subprocess.Popen(
            [*prefix, sys.executable, "-c", text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=cwd or "/",
            start_new_session=True,
        )
        self._children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        return child


def step(child: subprocess.Popen[bytes], code: str) -> str:
    """Let a holder execute one line; what it says."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(code.encode() + b"\n")
    child.stdin.flush()
    return child.stdout.readline().decode().strip()


def end(child: subprocess.Popen[bytes]) -> None:
    """Let a holder go."""
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
    time.sleep(0.02)
