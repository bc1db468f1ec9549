"""Days that pass in seconds: libfaketime gives programs another clock, also those that sshd starts. The kernel's clock stays,
so what files say of their times is real.

Source: libfaketime's README. The multi-threaded variant is the one that waits (select, condition variables) survive; the
monotonic clock goes with the other, since an absolute clock_nanosleep (time.sleep of Python 3.11) fails otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib*/faketime/libfaketimeMT.so.1")


def library() -> str | None:
    """libfaketime of this machine (Debian's package ``libfaketime``)."""
    for pattern in _LIBRARIES:
        for path in sorted(Path("/").glob(pattern[1:])):
            return str(path)
    return None


class FastClock:
    """A clock in ``directory`` that is so many days ahead. ``environment`` lets a program live by it."""

    def __init__(self, directory: Path) -> None:
        found = library()
        assert found is not None, "needs libfaketime (tools/apt-packages.txt)"
        self._file = directory / "clock"
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": found,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "NO_FAKE_STAT": "1",
        }
        self.set(0)

    @property
    def sshd_option(self) -> str:
        """The line of sshd_config by which sessions live by this clock."""
        return "SetEnv " + " ".join(f"{name}={value}" for name, value in self.environment.items())

    def set(self, days: float) -> None:
        """It is so many days later than it is (negative: earlier), for programs that start now and those that run."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{days:+g}d\n", encoding="ascii")
        fresh.replace(self._file)
