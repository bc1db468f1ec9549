"""The bytes of a tar archive in pax format, as GNU tar reads and writes it: headers, sparse maps, ACLs as text. Pure: no I/O.

Written here and not by tarfile, which decodes names, knows no holes, and puts what it cannot say into no header.
Sources: pax(1) in POSIX.1-2017; GNU tar's manual, "Storing Sparse Files" (PAX format, version 1.0); star(5) for SCHILY.*;
src/xheader.c and src/xattrs.c of GNU tar 1.34; linux/posix_acl_xattr.h.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

BLOCK = 512
#: Two blocks of zeros, then zeros up to a whole record of 20 blocks, as tar writes it.
RECORD = 20 * BLOCK

REGULAR, LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_EXTENDED = b"x"
TYPES = {
    stat.S_IFREG: REGULAR,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHARACTER,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFIFO: FIFO,
}
#: name, mode, uid, gid, size, mtime, checksum, type, link name, magic and version, owner, group, device numbers, prefix
_USTAR = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
assert _USTAR.size == BLOCK
_MAGIC = b"ustar\00000"
_ACL_ENTRY = struct.Struct("<HHI")
_ACLS = {b"system.posix_acl_access": b"SCHILY.acl.access", b"system.posix_acl_default": b"SCHILY.acl.default"}
_ACL_TAGS = {1: b"user", 2: b"user", 4: b"group", 8: b"group", 16: b"mask", 32: b"other"}
_ACL_NAMED = (2, 8)

Ranges = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Member:
    """One member of an archive. ``size`` is that of the data that follows; ``mtime_ns`` since 1970; ``device`` an st_rdev.

    ``sparse``: (start, end) of what is not a hole in a file of ``real_size`` bytes; the data that follows is then
    `encode_map`, then these bytes.
    """

    path: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    owner: bytes = b""
    group: bytes = b""
    link: bytes = b""
    size: int = 0
    device: int = 0
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    sparse: Ranges | None = None
    real_size: int = 0


def encode_header(member: Member) -> bytes:
    """The header blocks of a member: a pax one with all that the old one cannot say, then the old one."""
    records: dict[bytes, bytes] = {}
    path = member.path
    if member.sparse is not None:
        records |= {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": path}
        records[b"GNU.sparse.realsize"] = b"%d" % member.real_size
        path = b"GNUSparseFile.0/" + path[:80].rstrip(b"/")
    name = _text(records, b"path", path, 100)
    link = _text(records, b"linkpath", member.link, 100)
    owner, group = _text(records, b"uname", member.owner, 32), _text(records, b"gname", member.group, 32)
    uid, gid = _number(records, b"uid", member.uid, 7), _number(records, b"gid", member.gid, 7)
    size = _number(records, b"size", member.size, 11)
    seconds, nanoseconds = divmod(member.mtime_ns, 10**9)
    if nanoseconds or not 0 <= seconds < 1 << 33:
        records[b"mtime"] = _decimal(member.mtime_ns)
    records |= _attributes(member.xattrs)
    if any(_is_binary(records.get(key, b"")) for key in (b"path", b"linkpath", b"uname", b"gname", b"GNU.sparse.name")):
        records = {b"hdrcharset": b"BINARY", **records}
    major, minor = (0, 0) if member.type not in (CHARACTER, BLOCK_DEVICE) else device_numbers(member.device)
    header = _ustar(
        name=name, type=member.type, mode=member.mode & 0o7777, uid=uid, gid=gid, size=size,
        mtime=seconds if 0 <= seconds < 1 << 33 else 0, link=link, owner=owner, group=group, major=major, minor=minor,
    )  # fmt: skip
    return _extended(records) + header


def encode_map(ranges: Ranges) -> bytes:
    """The map that precedes a sparse file's data: how many ranges, then start and length of each, a number a line."""
    numbers = [len(ranges)]
    for start, end in ranges:
        numbers += [start, end - start]
    return padded(b"".join(b"%d\n" % number for number in numbers))


def padded(data: bytes) -> bytes:
    """``data``, with zeros up to a whole block."""
    return data + bytes(-len(data) % BLOCK)


def acl_text(value: bytes) -> bytes | None:
    """The text of an ACL from its extended attribute; None where it is not one of version 2."""
    if len(value) < 4 or value[:4] != b"\2\0\0\0" or (len(value) - 4) % _ACL_ENTRY.size:
        return None
    lines = []
    for tag, permissions, number in _ACL_ENTRY.iter_unpack(value[4:]):
        if tag not in _ACL_TAGS or permissions > 7:
            return None
        letters = b"".join(letter if permissions & bit else b"-" for letter, bit in ((b"r", 4), (b"w", 2), (b"x", 1)))
        lines.append(b"%s:%s:%s" % (_ACL_TAGS[tag], b"%d" % number if tag in _ACL_NAMED else b"", letters))
    return b",".join(lines)


def device_numbers(device: int) -> tuple[int, int]:
    """Major and minor number of an st_rdev as Linux encodes it in 32 bits (linux/kdev_t.h)."""
    return device >> 8 & 0xFFF, device & 0xFF | device >> 12 & 0xFFF00


def _attributes(xattrs: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    records = {}
    for name, value in xattrs.items():
        text = acl_text(value) if name in _ACLS else None
        if text is not None:
            records[_ACLS[name]] = text
        else:
            records[b"SCHILY.xattr." + name.replace(b"%", b"%25").replace(b"=", b"%3D")] = value
    return records


def _text(records: dict[bytes, bytes], key: bytes, value: bytes, room: int) -> bytes:
    """What of a text goes into the old header; the whole goes into ``records`` where that is not all, or not plain."""
    if len(value) <= room and value.isascii():
        return value
    records[key] = value
    return value[:room].decode("ascii", "replace").encode("ascii", "replace")[:room]


def _number(records: dict[bytes, bytes], key: bytes, value: int, digits: int) -> int:
    if value < 8**digits:
        return value
    records[key] = b"%d" % value
    return 0


def _decimal(nanoseconds: int) -> bytes:
    seconds, rest = divmod(abs(nanoseconds), 10**9)
    fraction = (b".%09d" % rest).rstrip(b"0") if rest else b""
    return b"%s%d%s" % (b"-" if nanoseconds < 0 else b"", seconds, fraction)


def _is_binary(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return True
    return False


def _extended(records: Mapping[bytes, bytes]) -> bytes:
    if not records:
        return b""
    body = b"".join(_record(key, value) for key, value in records.items())
    header = _ustar(
        name=b"./PaxHeaders/member", type=_EXTENDED, mode=0o644, uid=0, gid=0, size=len(body), mtime=0,
        link=b"", owner=b"", group=b"", major=0, minor=0,
    )  # fmt: skip
    return header + padded(body)


def _record(key: bytes, value: bytes) -> bytes:
    """``length key=value\\n``, where the length counts its own digits too."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _ustar(
    *, name: bytes, type: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, link: bytes, owner: bytes,  # noqa: A002
    group: bytes, major: int, minor: int,
) -> bytes:  # fmt: skip
    def fields(checksum: bytes) -> bytes:
        return _USTAR.pack(
            name, b"%07o" % mode, b"%07o" % uid, b"%07o" % gid, b"%011o" % size, b"%011o" % mtime, checksum, type, link,
            _MAGIC, owner, group, b"%07o" % major, b"%07o" % minor, b"",
        )  # fmt: skip

    return fields(b"%06o\0 " % sum(fields(b" " * 8)))
