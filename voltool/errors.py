"""Every error a user can see: what failed, where, why, and what to try.

The tree (kind, exit code)::

    VoltoolError                failed       1
    ├── UsageError              usage        2   bad arguments or configuration
    ├── RefusedError            refused      1   we could, but it would put data at risk
    ├── NotFoundError           not_found    1   no such volume, dump, path
    │   └── MovedError          moved        1   the volume lives on another host now
    ├── SpaceError              no_space     1   store, clone or staging would not fit
    ├── HostError               host         1   a server lacks something we need (python, rights, a driver)
    ├── AgentError              agent        1   the agent failed in a way it did not expect
    ├── BusyError               busy         4   someone else works on the volume
    ├── IntegrityError          integrity    5   a dump is damaged or does not fit
    ├── UnreachableError        unreachable  6   a host cannot be reached or trusted
    │   └── PathBrokenError     path_broken  6   the direct path between two hosts broke
    └── InterruptedByUser       interrupted  130 Ctrl-C, SIGTERM, SIGHUP

This module imports nothing of voltool. It is part of what is shipped to servers.
"""

from __future__ import annotations

from typing import Dict, Iterable, Type

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PARTIAL = 3
EXIT_BUSY = 4
EXIT_INTEGRITY = 5
EXIT_UNREACHABLE = 6
EXIT_INTERRUPTED = 130

#: When several volumes end differently, the first of these that occurred is the exit code.
EXIT_PRECEDENCE = (
    EXIT_INTERRUPTED,
    EXIT_INTEGRITY,
    EXIT_FAILED,
    EXIT_UNREACHABLE,
    EXIT_BUSY,
    EXIT_PARTIAL,
)


class VoltoolError(Exception):
    """Base of all errors a user can see.

    ``what`` failed, ``where`` (host, path, file; may be empty), ``why`` (the cause), ``remedy`` (what to try).
    All four are plain text for a person; names inside must already be escaped for display.
    """

    kind = "failed"
    exit_code = EXIT_FAILED

    def __init__(self, what: str, *, where: str = "", why: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.remedy = remedy

    def __str__(self) -> str:
        text = self.what
        if self.where:
            text += f" ({self.where})"
        if self.why:
            text += f": {self.why}"
        if self.remedy:
            text += f". Try: {self.remedy}"
        return text


class UsageError(VoltoolError):
    """Bad arguments or a bad configuration; nothing was done."""

    kind = "usage"
    exit_code = EXIT_USAGE


class RefusedError(VoltoolError):
    """The request would put data at risk; nothing was done."""

    kind = "refused"


class NotFoundError(VoltoolError):
    """A volume, dump, state or path that does not exist (or is ambiguous)."""

    kind = "not_found"


class MovedError(NotFoundError):
    """The volume has moved; ``why`` says where to."""

    kind = "moved"


class SpaceError(VoltoolError):
    """Not enough room in a store, for a clone or for staging; what was begun has been undone."""

    kind = "no_space"


class HostError(VoltoolError):
    """A server lacks something voltool needs there: python3, rights, a file system feature."""

    kind = "host"


class AgentError(VoltoolError):
    """The agent failed in a way voltool did not foresee, or its connection broke in the middle."""

    kind = "agent"


class BusyError(VoltoolError):
    """Someone else works on the volume; ``why`` says who and since when."""

    kind = "busy"
    exit_code = EXIT_BUSY


class IntegrityError(VoltoolError):
    """A dump is damaged, truncated, hostile, or does not fit its base. Nothing was published."""

    kind = "integrity"
    exit_code = EXIT_INTEGRITY


class UnreachableError(VoltoolError):
    """A host cannot be reached, or its identity or ours cannot be proven."""

    kind = "unreachable"
    exit_code = EXIT_UNREACHABLE


class PathBrokenError(UnreachableError):
    """The direct path between two hosts broke, or nobody came to its other end. What has arrived is kept."""

    kind = "path_broken"


class InterruptedByUser(VoltoolError):  # noqa: N818 - an interruption, not an error of ours
    """SIGINT, SIGTERM or SIGHUP; what was begun has been undone or can be resumed, ``remedy`` says how."""

    kind = "interrupted"
    exit_code = EXIT_INTERRUPTED


class Interruption(BaseException):
    """How an interruption travels from the signal handler to the end of the command.

    No subclass of Exception: libraries swallow those where they take every failure of a system call for a broken connection.
    """

    def __init__(self, error: InterruptedByUser) -> None:
        super().__init__(error.what)
        self.error = error


def _tree(root: Type[VoltoolError]) -> Iterable[Type[VoltoolError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def error_from_fields(kind: str, what: str, where: str, why: str, remedy: str) -> VoltoolError:
    """Rebuild an error that crossed the wire; an unknown ``kind`` becomes a plain `VoltoolError`."""
    by_kind: Dict[str, Type[VoltoolError]] = {cls.kind: cls for cls in _tree(VoltoolError) if "kind" in vars(cls)}
    return by_kind.get(kind, VoltoolError)(what, where=where, why=why, remedy=remedy)


def combined_exit_code(codes: Iterable[int]) -> int:
    """The exit code of a command that did several things: the first of `EXIT_PRECEDENCE` that occurred, else 0."""
    seen = set(codes)
    for code in EXIT_PRECEDENCE:
        if code in seen:
            return code
    return EXIT_USAGE if EXIT_USAGE in seen else EXIT_DONE
