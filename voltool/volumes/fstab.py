"""What /etc/fstab says of a mount point, and what a person should change there. Ships to servers. Touches nothing.

Source: fstab(5): six fields, blanks in a field written as \\040 and so on.
"""

from __future__ import annotations

import re
from typing import List

from voltool.showing import shown
from voltool.volumes.mounts import Mount, read_mounts

PATH = b"/etc/fstab"
_ESCAPE = re.compile(rb"\\([0-7]{3})")


def lines_for(text: bytes, point: bytes) -> List[bytes]:
    """The lines that mount something at ``point``."""
    found = []
    for line in text.split(b"\n"):
        fields = line.split()
        if len(fields) >= 2 and not fields[0].startswith(b"#") and _unescape(fields[1]).rstrip(b"/") == point:
            found.append(line.strip())
    return found


def advice_when_left(point: bytes, path: bytes = PATH) -> str:
    """For the old home: the volume has left the mount point ``point``."""
    lines = lines_for(_read(path), point)
    still = f"{shown(point)} is still mounted, and empty but for the retired copy"
    if not lines:
        return f"{still}; nothing in {shown(path)} mounts it"
    return f"{still}; when that is purged, take out of {shown(path)}: {'; '.join(map(shown, lines))}"


def advice_when_come(point: bytes, path: bytes = PATH) -> str:
    """For the new home: the volume has come to the mount point ``point``; empty where a reboot will mount it."""
    if lines_for(_read(path), point):
        return ""
    mount = next((mount for mount in reversed(read_mounts()) if mount.point == point), None)
    if mount is None:
        return ""
    return (
        f"nothing in {shown(path)} mounts {shown(point)}: after a reboot the volume would not be there; "
        f"add to it (or to what else mounts it): {shown(line_of(mount))}"
    )


def line_of(mount: Mount) -> bytes:
    """A line of fstab that would mount it again."""
    options: List[str] = [word for word in mount.options if word not in ("rw", "relatime")]
    if mount.kind == "btrfs" and mount.root != b"/":
        options.append("subvol=" + mount.root.decode(errors="surrogateescape"))
    words = ",".join(options) or "defaults"
    fields = [mount.source, mount.point, mount.kind.encode(), words.encode(), b"0", b"0"]
    return b" ".join(_escape(field) for field in fields)


def _escape(field: bytes) -> bytes:
    return re.sub(rb"[\s\\]", lambda match: b"\\%03o" % match[0][0], field)


def _unescape(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)


def _read(path: bytes) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
