"""From a login shell to a running agent: the one command line, and what it may answer.

The command is ``sh -c '…'``, since the login shell may be csh or fish: no line break, no ``!``, nothing but quoting that
all of them read alike. It looks for a python, which runs stage.py, which becomes the agent. With ``become`` all of that
runs under sudo. No I/O but through the stream it is given.
"""

from __future__ import annotations

import base64
import contextlib
import re
import shlex
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from voltool.errors import HostError, UnreachableError, VoltoolError
from voltool.remote.ship import ShippedAgent
from voltool.ssh.stream import Stream, printable
from voltool.wire.framing import FrameDecoder, WireFrame

NEED = b"\0voltool-stage\0need\n"
SUDO_PROMPT = "voltool-sudo-password:"
_OLDEST, _NEWEST = 9, 20
_READ_SIZE = 256 << 10

#: Whether a python will do: new enough, and with the parts of its library that distributions like to split off. What is
#: compiled is imported, of the rest it is enough that it can be found: to import all of it takes as long as an agent's start.
_PROBE = (
    "import sys;sys.version_info<(3,9) and sys.exit(1);"
    "import _blake2,_ctypes,_socket,_struct,binascii,fcntl,select,syslog,zipimport,zlib;"
    "find=sys.meta_path[-1].find_spec;"
    "sys.exit(not all(map(find,'ctypes dataclasses hashlib json signal socket struct threading typing'.split())))"
)
_LOADER = "import sys,zlib,binascii;exec(zlib.decompress(binascii.a2b_base64(sys.argv[1])))"
_FIND = (
    "PATH=$PATH:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin; export PATH; seen=; "
    "probe=$1; loader=$2; stage=$3; digest=$4; size=$5; shift 5; "
    'for name in "$@"; do '
    'python=$(command -v "$name" 2>/dev/null) || continue; '
    'if "$python" -I -S -c "$probe" </dev/null >/dev/null 2>&1; then '
    'exec "$python" -I -S -c "$loader" "$stage" "$digest" "$size"; fi; '
    'seen="$seen $python ($("$python" -V 2>&1 </dev/null))"; done; '
    'echo; echo "voltool-bootstrap: no-python$seen"; exit 72'
)
_SUDO_MARKS = ("a password is required", "no tty present", "a terminal is required", "askpass")
_SUDO_DENIED = (
    "not in the sudoers file",
    "is not allowed to",
    "may not run sudo",
    "unknown user",
    "not allowed to execute",
)


@dataclass(frozen=True)
class Start:
    """How to start the agent: ``pythons`` to look for in order; ``become``: under sudo; ``ask``: sudo may want a password."""

    pythons: tuple[str, ...]
    become: bool = False
    ask: bool = False


def pythons(configured: str) -> tuple[str, ...]:
    """The configured python alone, else the newest python3.N, else plain python3."""
    if configured:
        return (configured,)
    return (*(f"python3.{minor}" for minor in range(_NEWEST, _OLDEST - 1, -1)), "python3")


def command_line(start: Start, agent: ShippedAgent) -> list[str]:
    """The arguments that start the agent."""
    stage = (Path(__file__).parent / "stage.py").read_bytes()
    packed = base64.b64encode(zlib.compress(stage, 9)).decode()
    found = ["sh", "-c", _FIND, "voltool", _PROBE, _LOADER, packed, agent.digest, str(len(agent.data)), *start.pythons]
    if not start.become:
        return found
    sudo = ["sudo", "-S", "-p", SUDO_PROMPT] if start.ask else ["sudo", "-n"]
    # sudo clears the environment; what the agent's log and its state directory need is carried over.
    keep = 'SSH_CONNECTION="$SSH_CONNECTION" VOLTOOL_STATE_DIR="$VOLTOOL_STATE_DIR"'
    return ["sh", "-c", f"exec {shlex.join(sudo)} -- env {keep} {shlex.join(found)}"]


def shell_command(arguments: Sequence[str]) -> str:
    """The arguments as one line for whatever login shell."""
    return " ".join(
        argument if re.fullmatch(r"[\w./-]+", argument) else shlex.quote(argument) for argument in arguments
    )


class PasswordAnswer:
    """Listens to stderr for sudo's prompt and answers it once; a second prompt means that the password was wrong."""

    def __init__(self, password: str) -> None:
        self._password = password
        self._seen = b""
        self.stream: Stream | None = None
        self.wrong = False

    def __call__(self, piece: bytes) -> None:
        """Take a piece of stderr."""
        self._seen += piece
        prompts = self._seen.count(SUDO_PROMPT.encode())
        if self.stream is None or not prompts or self.wrong:
            return
        if prompts == 1:
            answer, self._password = self._password, ""
            if answer:
                self.stream.write(answer.encode() + b"\n")
            return
        self.wrong = True
        self.stream.write(b"\n\n")  # sudo asks three times; empty answers end it at once


def greet(stream: Stream, agent: ShippedAgent, host: str, timeout: float) -> tuple[FrameDecoder, list[WireFrame]]:
    """Wait for the agent's marker, sending the agent when it is asked for. Raises HostError, UnreachableError."""
    decoder = FrameDecoder(expect_sync=True)
    sent = False
    while True:
        try:
            data = stream.read(_READ_SIZE, timeout)
        except TimeoutError:
            raise UnreachableError(
                "the agent does not start",
                where=host,
                why=_last_words(stream, decoder) or f"silence for {timeout:.0f} s",
            ) from None
        if not data:
            raise failed_start(host, decoder.noise, stream.stderr_tail(), stream.exit_status(5.0))
        frames = list(decoder.feed(data))
        if decoder.synced:
            return decoder, frames
        if not sent and NEED in decoder.noise:
            sent = True
            with contextlib.suppress(BrokenPipeError):  # then what it says before it ends explains why
                stream.write(agent.data)


def _last_words(stream: Stream, decoder: FrameDecoder) -> str:
    return "; ".join(part for part in (stream.stderr_tail(), printable(decoder.noise, 4)) if part)


def failed_start(host: str, noise: bytes, complaints: str, status: int | None) -> VoltoolError:
    """Why there is no agent, from what was said instead."""
    said = re.search(rb"^voltool-bootstrap: ([\w-]+)(.*)$", noise, re.MULTILINE)
    if said is not None:
        return _own_words(host, said[1].decode(), printable(said[2]).strip())
    if any(mark in complaints for mark in _SUDO_MARKS):
        return HostError(
            "sudo asks for a password", where=host, why=_last_line(complaints),
            remedy="--ask-become-pass, or a line in sudoers like: USER ALL=(root) NOPASSWD: ALL",
        )  # fmt: skip
    if any(mark in complaints for mark in _SUDO_DENIED) or "incorrect password" in complaints:
        return HostError(
            "sudo refuses", where=host, why=_last_line(complaints),
            remedy="a line in sudoers like: USER ALL=(root) NOPASSWD: ALL",
        )  # fmt: skip
    why = complaints or printable(noise.replace(NEED, b""), 4)
    if not why and status is None:
        return UnreachableError("the connection ended before the agent had started", where=host, remedy="try again")
    why = why or f"the command ended with status {status}"
    return HostError(
        "the agent could not be started",
        where=host,
        why=why,
        remedy="the account needs a login shell that runs commands",
    )


def _own_words(host: str, word: str, detail: str) -> VoltoolError:
    if word == "no-python":
        return HostError(
            "no python3 of version 3.9 or later", where=host,
            why=f"found only {detail}" if detail else "found no python3",
            remedy="install python3 there, or name one in the configuration of the host (python = ...)",
        )  # fmt: skip
    if word == "insecure":
        return HostError(
            "the directory of the agent belongs to somebody else", where=f"{host}:{detail}",
            why="whoever owns it could replace the agent", remedy="look who made it, and remove it",
        )  # fmt: skip
    if word == "cannot-store":
        return HostError(
            "the agent cannot be stored", where=host, why=detail,
            remedy="make room, or set VOLTOOL_STATE_DIR there to a directory that can be written",
        )  # fmt: skip
    return HostError("the agent could not be started", where=host, why=f"{word} {detail}")


def _last_line(text: str) -> str:
    return text.replace(SUDO_PROMPT, "").strip().splitlines()[-1].strip()
