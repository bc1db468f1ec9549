"""systemd: a timer and the service that it starts, of the system or of a user.

The texts are made by pure functions. Sources: systemd.unit(5), systemd.service(5) (quoting, specifiers), systemd.timer(5).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass

from voltool.durable import make_directory, remove_file, write_file
from voltool.errors import HostError
from voltool.nightly.installing import MARK, Installed, Job, read_own_file

NAME = "voltool-backup"
#: There where systemd is init; see sd_booted(3).
RUNNING = "/run/systemd/system"
_SYSTEM_UNITS = "/etc/systemd/system"


@dataclass(frozen=True)
class SystemdTimer:
    """``directory`` has the units; ``of_user``: they are a user's; ``running``: a directory that is there where systemd runs."""

    directory: str = _SYSTEM_UNITS
    of_user: bool = False
    running: str = RUNNING

    @property
    def _timer(self) -> str:
        return os.path.join(self.directory, f"{NAME}.timer")

    @property
    def _service(self) -> str:
        return os.path.join(self.directory, f"{NAME}.service")

    def installed(self) -> Installed | None:
        """See `installing.Place`."""
        timer, service = read_own_file(self._timer), read_own_file(self._service)
        if timer is None:
            return None
        lines = [
            line for line in (timer + (service or "")).splitlines() if line.startswith(("OnCalendar", "ExecStart"))
        ]
        return Installed("systemd", self._timer, "; ".join(lines))

    def install(self, job: Job) -> tuple[str, ...]:
        """See `installing.Place`."""
        texts = {self._service: service_unit(job, of_user=self.of_user), self._timer: timer_unit(job)}
        try:
            make_directory(self.directory, 0o755)
            for path in texts:
                read_own_file(path)
            for path, text in texts.items():
                write_file(path, text.encode("utf-8", "surrogateescape"), 0o644)
        except OSError as error:
            raise HostError("the timer cannot be written", where=self.directory, why=str(error.strerror)) from None
        by_hand = [] if self._systemctl(("daemon-reload",), ("enable", "--now", f"{NAME}.timer")) else [self._by_hand()]
        if self.of_user:
            by_hand.append("loginctl enable-linger, so that it runs while you are not logged in")
        return tuple(by_hand)

    def uninstall(self) -> bool:
        """See `installing.Place`."""
        there = [path for path in (self._timer, self._service) if read_own_file(path) is not None]
        if not there:
            return False
        self._systemctl(("disable", "--now", f"{NAME}.timer"))
        self._forget_last_run()
        for path in there:
            remove_file(path)
        self._systemctl(("daemon-reload",))
        return True

    def _forget_last_run(self) -> None:
        """Else the next timer of this name would start at once, to catch up on a time when nothing was installed."""
        # A systemd before 244 cannot: a run too many, which finds nothing due.
        with contextlib.suppress(HostError):
            self._systemctl(("clean", "--what=state", f"{NAME}.timer"))

    def _by_hand(self) -> str:
        user = " --user" if self.of_user else ""
        return f"systemd does not run here; where it does: systemctl{user} enable --now {NAME}.timer"

    def _systemctl(self, *calls: tuple[str, ...]) -> bool:
        """Whether systemd runs here and did as it was told; HostError where it refused."""
        if not os.path.isdir(self.running):
            return False
        for call in calls:
            arguments = ["systemctl", *(["--user"] if self.of_user else []), *call]
            try:
                done = subprocess.run(arguments, capture_output=True, text=True, errors="replace", check=False)
            except OSError as error:
                raise HostError("systemctl cannot be run", why=str(error.strerror)) from None
            if done.returncode != 0:
                raise HostError("systemd refuses", where=" ".join(arguments), why=done.stderr.strip())
        return True


def timer_unit(job: Job) -> str:
    """The timer: once a day, and after a night that the machine slept through as soon as it wakes."""
    return f"""{MARK}; `voltool schedule uninstall` removes this file
[Unit]
Description=voltool backup, every day

[Timer]
OnCalendar=*-*-* {job.hour:02d}:{job.minute:02d}:00
Persistent=true

[Install]
WantedBy=timers.target
"""


def service_unit(job: Job, *, of_user: bool) -> str:
    """The service. It is told to stop by SIGTERM alone, and given time: dumps that run are ended cleanly."""
    network = "" if of_user else "Wants=network-online.target\nAfter=network-online.target\n"
    variables = "".join(f"Environment={_quoted(f'{name}={value}')}\n" for name, value in job.variables)
    # In the program's own path variables are not expanded.
    command = " ".join([_quoted(job.command[0]), *(_quoted(word).replace("$", "$$") for word in job.command[1:])])
    return f"""{MARK}; `voltool schedule uninstall` removes this file
[Unit]
Description=voltool backup: dumps of all volumes that are due
{network}
[Service]
Type=oneshot
ExecStart={command}
{variables}KillMode=mixed
TimeoutStopSec=180
"""


def _quoted(word: str) -> str:
    """A word for systemd: in double quotes where it needs them, specifiers escaped."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    plain = word.replace("/", "").replace("-", "").replace("_", "").replace(".", "").isalnum()
    return word if plain else f'"{word}"'
