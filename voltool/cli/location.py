"""``HOST:/path`` as people write it. Pure."""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass

from voltool.errors import UsageError

_HOST = re.compile(r"(?:[^@\s:/\[\]]+@)?(?:\[[0-9A-Fa-f:.%a-z]+\]|[^@\s:/\[\]]+)(?::\d{1,5})?")


@dataclass(frozen=True)
class Location:
    """A path on a host. ``host`` as the user wrote it: a name of ~/.ssh/config, ``user@addr:port``, ``local``."""

    host: str
    path: bytes


def parse_location(text: str) -> Location:
    """``hostA:/srv/x``, ``root@10.0.0.1:2222:/srv/x``, ``[fe80::1]:2222:/srv/x``, ``local:/srv/x``; raises UsageError."""
    at = text.find(":/")
    if at < 0:
        remedy = f"local:{text}" if text.startswith("/") else "HOST:/path, such as hostA:/srv/vol1 or local:/srv/vol1"
        raise UsageError(f"{text!a} is not a place on a host", why="it has no HOST:/path", remedy=remedy)
    return Location(parse_host(text[:at]), parse_path(text[at + 1 :]))


def parse_destination(text: str) -> tuple[str, bytes | None]:
    """``HOST`` or ``HOST:/path``; raises UsageError."""
    if ":/" not in text:
        return parse_host(text), None
    place = parse_location(text)
    return place.host, place.path


def parse_host(text: str) -> str:
    """A HOST as it is, if it can be one; raises UsageError."""
    if not _HOST.fullmatch(text) or text.startswith("-"):
        remedy = "a name of ~/.ssh/config, user@address:port, or local; an IPv6 address in brackets: [fe80::1]:22"
        raise UsageError(f"{text!a} is not a host", remedy=remedy)
    return text


def parse_path(text: str) -> bytes:
    """An absolute path, made plain; raises UsageError where ``..`` is in it: what it means depends on symlinks."""
    if not text.startswith("/") or "\0" in text or ".." in text.split("/"):
        raise UsageError(f"{text!a} is not an absolute path", remedy="the path from / on, without '..'")
    return os.fsencode("/" + posixpath.normpath(text).lstrip("/"))
