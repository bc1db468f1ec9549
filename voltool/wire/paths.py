"""The messages with which two agents get a direct path to each other: the command line carries what each must know of the other.

Part of what is shipped to servers. What holds an agent's end of a path is its connection with the command line: it ends with it.
That no path can be had is no failure: the replies say ``why``, and the data goes through the command line. In a transfer whose
request says ``over_path``, data frames and `EndOfData` go over the path; all else stays with the command line.
"""

from __future__ import annotations

from typing import Tuple

from voltool.frozen import dataclass


@dataclass(frozen=True)
class PreparePath:
    """Make a key pair for one path, in memory alone. Answered by `PathPrepared`. Replaces what was there of an earlier one."""


@dataclass(frozen=True)
class PathPrepared:
    """``certificate`` (DER) that this host will show; where there is none: ``why``."""

    certificate: bytes = b""
    why: str = ""


@dataclass(frozen=True)
class ListenForPath:
    """Wait at one of ``ports`` (``from-to``, empty: any) for who shows ``peer`` and says ``token``. Answered at once by
    `PathListening`. ``loopback``: the other host is this one. ``silence`` as of `Hello`, for the path."""

    peer: bytes
    token: bytes
    ports: str = ""
    loopback: bool = False
    silence: float = 120.0


@dataclass(frozen=True)
class PathListening:
    """Where, as far as this host knows; ``port`` 0: nowhere, and ``why``."""

    addresses: Tuple[str, ...] = ()
    port: int = 0
    why: str = ""


@dataclass(frozen=True)
class JoinPath:
    """Connect to the host that listens, at whichever address answers within ``timeout`` seconds. Answered by `PathState`."""

    peer: bytes
    token: bytes
    addresses: Tuple[str, ...]
    port: int
    timeout: float
    silence: float = 120.0


@dataclass(frozen=True)
class AwaitPath:
    """The other host has joined: take the path. Answered by `PathState`."""

    timeout: float


@dataclass(frozen=True)
class PathState:
    """Empty: the path is there. Else ``why`` not."""

    why: str = ""


@dataclass(frozen=True)
class ClosePath:
    """Listen no more, drop the path, forget the key. Answered by `Done`. Idempotent."""
