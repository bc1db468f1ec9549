"""Owners by name where the name is known on this host, else by number. Part of what is shipped to servers.

Source of the ACL layout: linux/posix_acl_xattr.h.
"""

from __future__ import annotations

import grp
import os
import pwd
import struct
from typing import Dict, Iterable

from voltool.dumpfile import format as fmt

_ACL_ENTRY = struct.Struct("<HHI")
_ACL_USER, _ACL_GROUP = 0x02, 0x08
_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")


class Owners:
    """Numbers of the source → numbers here. Without names (``numeric_owner``) every number stays what it is."""

    def __init__(self, *, numeric: bool) -> None:
        self._numeric = numeric
        self.users: Dict[int, int] = {}
        self.groups: Dict[int, int] = {}

    def learn(self, records: Iterable[bytes]) -> None:
        """Take OWNERS records. A name unknown here, or without a change of number, needs no entry."""
        for record in records:
            kind, number, name = fmt.decode_owner(record)
            if self._numeric:
                continue
            here = _user(name) if kind == b"u" else _group(name)
            if here is not None and here != number:
                (self.users if kind == b"u" else self.groups)[number] = here

    def user(self, number: int) -> int:
        """The user's number here."""
        return self.users.get(number, number)

    def group(self, number: int) -> int:
        """The group's number here."""
        return self.groups.get(number, number)

    def xattr(self, name: bytes, value: bytes) -> bytes:
        """The attribute's value for this host: ACLs name users and groups too."""
        if name not in _ACLS or not (self.users or self.groups) or (len(value) - 4) % _ACL_ENTRY.size:
            return value
        parts = [value[:4]]
        for tag, permissions, number in _ACL_ENTRY.iter_unpack(value[4:]):
            parts.append(_ACL_ENTRY.pack(tag, permissions, self._acl_number(tag, number)))
        return b"".join(parts)

    def _acl_number(self, tag: int, number: int) -> int:
        if tag == _ACL_USER:
            return self.user(number)
        return self.group(number) if tag == _ACL_GROUP else number


def _user(name: bytes) -> int | None:
    try:
        return pwd.getpwnam(os.fsdecode(name)).pw_uid
    except (KeyError, ValueError):
        return None


def _group(name: bytes) -> int | None:
    try:
        return grp.getgrnam(os.fsdecode(name)).gr_gid
    except (KeyError, ValueError):
        return None
