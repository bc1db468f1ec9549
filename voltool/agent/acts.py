"""The host's own record of what agents did there: syslog, and one JSON object a line appended to ``log``.

Each act is written when it begins and when it ends, so that an agent that was killed leaves a trace. A record that cannot
be written never stops an act. Part of what is shipped to servers. Format of a line: docs/wire-protocol.md.
"""

from __future__ import annotations

import json
import os
import pwd
import syslog
import time
from typing import Any, Dict, Mapping

from voltool.agent.host import HostState
from voltool.model import Peer


class ActLog:
    """Writes acts of one agent. ``caller`` is who asked, in the CLI's own words (from `Hello`)."""

    def __init__(self, host: HostState, environment: Mapping[str, str], caller: str) -> None:
        self._path = os.path.join(host.directory, b"log")
        self._who = {
            "login": _login(environment),
            "sudo_user": environment.get("SUDO_USER", ""),
            "caller": caller,
            "connection": environment.get("SSH_CONNECTION", ""),
            "pid": os.getpid(),
        }
        syslog.openlog("voltool", syslog.LOG_PID, syslog.LOG_DAEMON)

    def begin(self, request: object) -> None:
        """An act begins."""
        self._write(request, "begin")

    def end(self, request: object, result: str) -> None:
        """It ended: ``done``, or what failed."""
        self._write(request, result)

    def _write(self, request: object, result: str) -> None:
        line: Dict[str, Any] = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "act": type(request).__name__}
        line.update(_subject(request))
        line["result"] = result[:400]
        line.update(self._who)
        text = json.dumps(line)
        try:
            # Not created with its directory: a host that was cleaned stays clean.
            descriptor = os.open(
                self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        except OSError:
            pass
        else:
            try:
                os.write(descriptor, text.encode() + b"\n")
            except OSError:
                pass
            finally:
                os.close(descriptor)
        syslog.syslog(syslog.LOG_INFO, text)


def _subject(request: Any) -> Dict[str, str]:
    """What the act is about: the fields that name a volume, a dump, a path, and the other host of a move."""
    found: Dict[str, str] = {}
    for field in ("uuid", "volume_uuid", "name", "path", "target", "dump_id", "state_id"):
        value = getattr(request, field, None)
        if isinstance(value, Peer):
            continue
        if isinstance(value, bytes):
            value = _text(value)
        if value:
            found["uuid" if field == "volume_uuid" else field] = str(value)
    if getattr(request, "volume_name", ""):
        found.setdefault("name", str(request.volume_name))
    move = getattr(request, "move", None)
    if move is not None:
        found.update(_subject(move))
        other = getattr(move, "target", None) or move.source
        found["target"] = f"{other.host}:{_text(other.path)}"
    return found


def _text(path: bytes) -> str:
    return os.fsdecode(path).encode(errors="backslashreplace").decode()


def _login(environment: Mapping[str, str]) -> str:
    if environment.get("LOGNAME"):
        return environment["LOGNAME"]
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
