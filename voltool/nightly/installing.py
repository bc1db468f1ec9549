"""How `voltool backup` gets into cron or systemd: what is to be called, where the two keep such things, and what is there now.

Only what voltool wrote is ever changed or removed; it is recognised by `MARK`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from voltool.errors import HostError, RefusedError, UsageError

#: The first words of everything that is ours.
MARK = "# Written by `voltool schedule install`"
#: Variables that decide where configuration and state lie; cron and systemd do not hand them on.
_KEPT_VARIABLES = ("VOLTOOL_STATE_DIR", "VOLTOOL_CONFIG", "XDG_STATE_HOME")
_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True)
class Job:
    """What is run each day: the program's absolute path with its arguments, variables for it, and when (local time)."""

    command: tuple[str, ...]
    variables: tuple[tuple[str, str], ...]
    hour: int
    minute: int


@dataclass(frozen=True)
class Installed:
    """One place that calls voltool: ``kind`` is ``cron`` or ``systemd``; ``text``: what it says, in one line."""

    kind: str
    where: str
    text: str


class Place(Protocol):
    """Cron or systemd, of the system or of a user."""

    def installed(self) -> Installed | None:
        """What of ours is there; HostError where that cannot be told."""

    def install(self, job: Job) -> tuple[str, ...]:
        """Let it run ``job`` each day, instead of what of ours was there; what is left to do by hand, in words. Idempotent.

        RefusedError where something that is not ours is in the way; HostError.
        """

    def uninstall(self) -> bool:
        """Take out what is ours; whether there was something. Idempotent. HostError, RefusedError."""


def make_job(at: str, program: str, config: str | None, environment: Mapping[str, str]) -> Job:
    """The job of this machine; ``at``: ``HH:MM``. ``config``: another configuration file. UsageError."""
    match = _TIME.fullmatch(at.strip())
    if match is None:
        raise UsageError(f"{at!a} is not a time of day", remedy="hours and minutes, such as 03:30")
    arguments = [program, "--quiet"]
    if config is not None:
        arguments += ["--config", os.path.abspath(config)]
    variables = [(name, environment[name]) for name in _KEPT_VARIABLES if environment.get(name)]
    for word in (*arguments, *(value for _name, value in variables)):
        if not word.isprintable():
            raise UsageError(f"{word!a} cannot stand in a line of cron or systemd", why="it has control characters")
    return Job((*arguments, "backup"), tuple(variables), int(match[1]), int(match[2]))


def own_program(called_as: str) -> str:
    """The absolute path of the voltool that runs; HostError."""
    name = os.path.basename(called_as)
    candidates = [os.path.abspath(called_as)] if "/" in called_as and name == "voltool" else []
    found = shutil.which("voltool")
    candidates += [os.path.abspath(found)] if found else []
    for path in candidates:
        if os.access(path, os.X_OK):
            return path
    raise HostError(
        "where the program voltool lies is not known", why=f"it was called as {called_as!a}",
        remedy="call it by its path, such as /usr/local/bin/voltool schedule install",
    )  # fmt: skip


def is_ours(text: str) -> bool:
    """Whether a whole file was written by us."""
    return text.startswith(MARK)


def read_own_file(path: str) -> str | None:
    """The text of a file of ours; None where there is none; RefusedError where it is not ours."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError("a file of the schedule cannot be read", where=path, why=error.strerror or str(error)) from None
    if not is_ours(text):
        raise RefusedError(
            "a file is in the way that voltool has not written", where=path, remedy="move it away, or leave it as it is"
        )
    return text


def joined(words: Sequence[str]) -> str:
    """Words for a person."""
    return " ".join(words)
