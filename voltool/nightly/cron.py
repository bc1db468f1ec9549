"""Cron: a file of our own in /etc/cron.d for root, some lines between two marks in a user's crontab.

The texts are made by pure functions. Sources: crontab(5), cron(8) (names with a dot are passed over in /etc/cron.d),
crontab(1).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass

from voltool.durable import remove_file, write_file
from voltool.errors import HostError, RefusedError
from voltool.nightly.installing import MARK, Installed, Job, read_own_file

BEGIN = f"{MARK}; `voltool schedule uninstall` takes these lines out"
END = "# End of voltool's lines"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class SystemCron:
    """Root's jobs in a file of our own. ``path``: the file."""

    path: str = "/etc/cron.d/voltool"

    def installed(self) -> Installed | None:
        """See `installing.Place`."""
        text = read_own_file(self.path)
        return None if text is None else Installed("cron", self.path, text.rstrip("\n").rpartition("\n")[2])

    def install(self, job: Job) -> tuple[str, ...]:
        """See `installing.Place`."""
        if not os.path.isdir(os.path.dirname(self.path)):
            raise HostError(
                "there is no cron here", where=os.path.dirname(self.path), why="the directory is missing",
                remedy="apt install cron; or voltool schedule install --systemd",
            )  # fmt: skip
        read_own_file(self.path)
        text = f"{MARK}; `voltool schedule uninstall` removes this file\nSHELL=/bin/sh\nPATH={_PATH}\n"
        text += f"{cron_line(job, user='root')}\n"
        try:
            write_file(self.path, text.encode("utf-8", "surrogateescape"), 0o644)
        except OSError as error:
            raise HostError("the cron job cannot be written", where=self.path, why=str(error.strerror)) from None
        return ()

    def uninstall(self) -> bool:
        """See `installing.Place`."""
        if read_own_file(self.path) is None:
            return False
        remove_file(self.path)
        return True


@dataclass(frozen=True)
class UserCron:
    """Lines in the crontab of who calls, by crontab(1)."""

    program: str = "crontab"

    def installed(self) -> Installed | None:
        """See `installing.Place`."""
        lines = self._read().splitlines() if self._is_there() else []
        if BEGIN not in lines:
            return None
        return Installed("cron", "your crontab", lines[lines.index(BEGIN) + 1])

    def install(self, job: Job) -> tuple[str, ...]:
        """See `installing.Place`."""
        before = self._read()
        after = with_lines(before, cron_line(job))
        if after != before:
            self._write(after)
        return ()

    def uninstall(self) -> bool:
        """See `installing.Place`."""
        before = self._read() if self._is_there() else ""
        after = without_lines(before)
        if after == before:
            return False
        self._write(after)
        return True

    def _is_there(self) -> bool:
        return shutil.which(self.program) is not None

    def _read(self) -> str:
        done = self._run("-l")
        if done.returncode == 0:
            return done.stdout
        if "no crontab for" in done.stderr:
            return ""
        raise HostError("your crontab cannot be read", where=f"{self.program} -l", why=done.stderr.strip())

    def _write(self, text: str) -> None:
        done = self._run("-", text=text)
        if done.returncode != 0:
            raise HostError("your crontab cannot be written", where=f"{self.program} -", why=done.stderr.strip())

    def _run(self, argument: str, text: str = "") -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [self.program, argument],
                input=text,
                capture_output=True,
                text=True,
                errors="surrogateescape",
                env={**os.environ, "LC_ALL": "C"},
                check=False,
            )
        except OSError as error:
            remedy = "apt install cron; or voltool schedule install --systemd"
            raise HostError(
                "there is no cron here", where=self.program, why=str(error.strerror), remedy=remedy
            ) from None


def cron_line(job: Job, user: str = "") -> str:
    """The line of crontab(5): in a command a ``%`` stands for a newline unless it is escaped."""
    words = [f"{name}={shlex.quote(value)}" for name, value in job.variables]
    words += [shlex.quote(word) for word in job.command]
    command = " ".join(words).replace("%", "\\%")
    return " ".join(filter(None, [f"{job.minute} {job.hour} * * *", user, command]))


def with_lines(crontab: str, line: str) -> str:
    """The crontab with our lines, where they were or at its end; all others stay as they are, byte by byte."""
    ours = f"{BEGIN}\n{line}\n{END}\n"
    span = _span(crontab)
    if span is not None:
        return crontab[: span[0]] + ours + crontab[span[1] :]
    if crontab and not crontab.endswith("\n"):
        crontab += "\n"
    return crontab + ours


def without_lines(crontab: str) -> str:
    """The crontab without our lines."""
    span = _span(crontab)
    return crontab if span is None else crontab[: span[0]] + crontab[span[1] :]


def _span(crontab: str) -> tuple[int, int] | None:
    """From where to where our lines go; RefusedError where their end is missing."""
    position, first = 0, -1
    for line in crontab.splitlines(keepends=True):
        if line.rstrip("\n") == BEGIN and first < 0:
            first = position
        position += len(line)
        if line.rstrip("\n") == END and first >= 0:
            return first, position
    if first >= 0:
        raise RefusedError(
            "voltool's lines in your crontab have no end",
            why=f"the line {END!a} is missing",
            remedy="crontab -e, and put it behind them or take them out",
        )
    return None
