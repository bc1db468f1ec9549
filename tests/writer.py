"""A process that writes to a volume all the time and keeps a log of what was acknowledged; for moves of volumes in use.

Knows nothing of voltool. Used by tests and by the demo.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_WRITER = """
import os, sys, time
root, log, word, pause = sys.argv[1:]
with open(log, "a") as acknowledged:
    number = 0
    while True:
        name, line = f"log{number % 40}", f"{word} {number}"
        try:
            with open(os.path.join(root, name), "a") as file:
                file.write(line + chr(10))
                file.flush()
                os.fsync(file.fileno())
            acknowledged.write(name + ":" + line + chr(10))
            acknowledged.flush()
            if number % 7 == 0:
                os.rename(os.path.join(root, name), os.path.join(root, name + ".swap"))
                os.rename(os.path.join(root, name + ".swap"), os.path.join(root, name))
        except OSError as error:
            sys.exit(error.strerror)
        number += 1
        time.sleep(float(pause))
"""


class Writer:
    """A process that appends, renames and fsyncs files until it is stopped or refused, and logs what came back as done.

    ``enter`` before its command lets it run elsewhere; ``root`` is the tree as it is called there. ``word`` tells its lines, and
    its log in ``directory``, from those of another writer; ``pause`` seconds lie between two writes.
    """

    def __init__(
        self, root: Path, directory: Path, enter: Sequence[str] = (), word: str = "line", pause: float = 0.001
    ) -> None:
        self._log = directory / f"acknowledged-{word}"
        self._log.touch()
        self._process = subprocess.Popen(
            [*enter, sys.executable, "-c", _WRITER, str(root), str(self._log), word, str(pause)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
        )
        wait_until(lambda: len(self.acknowledged()) > 20)

    def acknowledged(self) -> list[tuple[str, str]]:
        """(file, line) of every write that was acknowledged."""
        pairs = [line.split(":") for line in self._log.read_text(encoding="utf-8").splitlines()]
        return [(name, line) for name, line in pairs]

    @property
    def refused(self) -> bool:
        """Whether it was refused a write (and not ended by us)."""
        return self._process.poll() not in (None, -signal.SIGKILL)

    def stop(self) -> None:
        """End it; idempotent."""
        self._process.kill()
        self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def lost(self, root: Path) -> list[tuple[str, str]]:
        """Acknowledged lines that are not in the tree at ``root``. One that was being renamed has its other name."""
        texts: dict[str, set[str]] = {}
        for name in {name for name, _line in self.acknowledged()}:
            for there in (root / name, root / f"{name}.swap"):
                with contextlib.suppress(FileNotFoundError):
                    texts.setdefault(name, set()).update(there.read_text(encoding="utf-8").splitlines())
        return [(name, line) for name, line in self.acknowledged() if line not in texts.get(name, ())]


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
