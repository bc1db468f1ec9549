"""`host check`: what voltool can do here, one fact a line, each "no" with its remedy. Ships to servers. Changes nothing."""

from __future__ import annotations

import fcntl
import os
import platform
import pwd
import shutil
import struct
import subprocess
import sys
import time
from typing import Iterator, List

from voltool.agent.host import HostState
from voltool.beneath import has_openat2
from voltool.dumpfile.codec import lz4_source
from voltool.inodes import READ, ioctl_number
from voltool.leases import nobody_writes
from voltool.showing import shown
from voltool.volumes import btrfs_ioctl, zfs_command
from voltool.volumes.mounts import mount_of, nested_mounts, read_mounts
from voltool.volumes.records import list_homes
from voltool.volumes.traits import FilesystemTraits, traits_of
from voltool.wire import messages
from voltool.wire.conversation import Conversation
from voltool.wire.messages import HostFact

_OLDEST_PYTHON = (3, 9)
_FILE_SYSTEMS = ("ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "overlay")
#: XFS_IOC_FSGEOMETRY_V4: 112 bytes, flags at 92; XFS_FSOP_GEOM_FLAGS_REFLINK (xfs_fs.h)
_XFS_GEOMETRY = ioctl_number(READ, ord("X"), 124, 112)
_XFS_REFLINK = 1 << 20
_SUDO_SECONDS = 10
_FEW_BYTES = 256 << 20


def check_host(
    request: messages.CheckHost,
    conversation: Conversation,  # noqa: ARG001 - a handler's signature
    host: HostState,
) -> messages.HostReport:
    """All facts, the general ones first. Never fails for what it finds."""
    facts: List[HostFact] = [*_machine_facts(host), *_kernel_facts(), *_state_facts(host)]
    paths = [*request.paths, *(home.record.path for home in list_homes(host.directory))]
    for path in dict.fromkeys(paths):
        facts += _path_facts(path)
    return messages.HostReport(tuple(facts))


# --------------------------------------------------------------------------------------------------------- the machine


def _machine_facts(host: HostState) -> Iterator[HostFact]:
    python_ok = sys.version_info[:2] >= _OLDEST_PYTHON
    yield HostFact(
        "python",
        python_ok,
        f"{platform.python_version()} ({sys.executable})",
        "" if python_ok else "install python3 3.9 or later, or name one in the config: python = /path/to/python3",
    )
    yield _rights_fact()
    source = lz4_source()
    yield HostFact(
        "lz4",
        bool(source),
        source or "none; dumps are compressed by zlib, which is slower",
        "" if source else "install liblz4 (Debian: apt install liblz4-1; Fedora: dnf install lz4-libs)",
    )
    yield HostFact(
        "machine-id",
        bool(host.machine_id),
        host.machine_id or "missing",
        "" if host.machine_id else "systemd-machine-id-setup, or dbus-uuidgen --ensure=/etc/machine-id",
    )
    yield HostFact("clock", ok=True, value=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))


def _rights_fact() -> HostFact:
    uid = os.geteuid()
    if uid == 0:
        user = os.environ.get("SUDO_USER")
        return HostFact("rights", ok=True, value=f"root, by sudo from {user}" if user else "root")
    login = _login(uid)
    if _sudo_works():
        remedy = "set become = true for this host: sudo works without a password"
    elif shutil.which("sudo") is None:
        remedy = "log in as root, or install sudo"
    else:
        remedy = (
            f"allow sudo: echo '{login} ALL=(root) NOPASSWD: ALL' > /etc/sudoers.d/voltool (by visudo -f), and set"
            " become = true for this host; or use --ask-become-pass"
        )
    return HostFact(
        "rights", ok=False, value=f"user {login} (uid {uid}): files of others cannot be read", remedy=remedy
    )


def _login(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _sudo_works() -> bool:
    try:
        done = subprocess.run(
            ["sudo", "-n", "true"], check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=_SUDO_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


# ---------------------------------------------------------------------------------------------------------- the kernel


def _kernel_facts() -> Iterator[HostFact]:
    yield HostFact("kernel", ok=True, value=f"{platform.system()} {platform.release()} {platform.machine()}")
    openat2 = has_openat2()
    yield HostFact(
        "openat2",
        openat2,
        "yes" if openat2 else "no; paths are opened step by step, which is as safe but slower",
        "" if openat2 else "Linux 5.6 or later; in a container, a seccomp profile that knows openat2",
    )
    fuse = os.path.exists("/dev/fuse")
    yield HostFact(
        "fuse",
        fuse,
        "yes" if fuse else "no; needed for lazy replicas alone",
        "" if fuse else "modprobe fuse; in a container, pass /dev/fuse in",
    )
    known = _known_file_systems()
    yield HostFact("file systems", ok=True, value=", ".join(known) or "none of those voltool knows is loaded yet")


def _known_file_systems() -> List[str]:
    try:
        with open("/proc/filesystems", encoding="ascii", errors="replace") as file:
            names = {line.split()[-1] for line in file if line.strip()}
    except OSError:
        return []
    return [name for name in _FILE_SYSTEMS if name in names]


def _state_facts(host: HostState) -> Iterator[HostFact]:
    place = _existing(host.directory)
    writable = os.access(place, os.W_OK | os.X_OK)
    yield HostFact(
        "state directory",
        writable,
        shown(host.directory),
        "" if writable else "make it writable for this account, or set VOLTOOL_STATE_DIR",
    )
    yield _space_fact("state directory", place)


# ---------------------------------------------------------------------------------------------------------- the places


def _path_facts(path: bytes) -> Iterator[HostFact]:
    topic = shown(path)
    place = _existing(path)
    if place != path:
        yield HostFact(topic, ok=True, value=f"does not exist yet; {shown(place)} does")
    try:
        traits = traits_of(place)
    except OSError as error:
        yield HostFact(topic, ok=False, value=error.strerror or str(error), remedy="check the path and the rights")
        return
    yield _driver_fact(topic, place, traits)
    yield _lease_fact(topic, place, traits)
    yield _inode_fact(topic, traits)
    if traits.kind in ("btrfs", "xfs"):
        yield _reflink_fact(topic, place, traits)
    readable = os.access(place, os.R_OK | os.X_OK)
    if not readable:
        yield HostFact(f"{topic}: access", ok=False, value="cannot be listed", remedy="run as root (become = true)")
    nested = nested_mounts(place) if place == path else []
    if nested:
        value = f"other file systems inside, which are not part of it: {', '.join(map(shown, nested[:10]))}"
        yield HostFact(f"{topic}: mounts", ok=True, value=value)
    yield _space_fact(topic, place)


def _driver_fact(topic: str, place: bytes, traits: FilesystemTraits) -> HostFact:
    mount = mount_of(os.path.realpath(place), read_mounts())
    kind = mount.kind if mount is not None else traits.kind
    topic = f"{topic}: driver"
    if mount is not None and zfs_command.is_zfs(mount):
        return _zfs_fact(topic, place)
    if traits.kind != "btrfs":
        return HostFact(topic, ok=True, value=f"directory (on {kind}): dumps read the live tree")
    if not btrfs_ioctl.is_subvolume(place):
        remedy = (
            "make it a subvolume to have snapshots: btrfs subvolume create, then move the data in; or --driver reflink"
        )
        return HostFact(topic, ok=False, value="directory (on btrfs, but not a subvolume): no snapshots", remedy=remedy)
    if os.geteuid() != 0:
        remedy = "run as root (become = true) to have snapshots"
        return HostFact(
            topic, ok=False, value="directory (a btrfs subvolume, but without root): no snapshots", remedy=remedy
        )
    return HostFact(topic, ok=True, value="btrfs: dumps read a snapshot")


def _zfs_fact(topic: str, place: bytes) -> HostFact:
    if zfs_command.tool_path() is None:
        remedy = "install the zfs tool (Debian: zfsutils-linux) to have snapshots"
        return HostFact(
            topic, ok=False, value="directory (on ZFS, but without the zfs tool): no snapshots", remedy=remedy
        )
    dataset = zfs_command.dataset_at(place)
    if dataset is None:
        remedy = "make it a dataset to have snapshots: zfs create, then move the data in"
        return HostFact(
            topic, ok=False, value="directory (on ZFS, but not a dataset's root): no snapshots", remedy=remedy
        )
    if os.geteuid() != 0:
        remedy = "run as root (become = true) to have snapshots"
        return HostFact(
            topic, ok=False, value="directory (a ZFS dataset, but without root): no snapshots", remedy=remedy
        )
    return HostFact(topic, ok=True, value=f"zfs: dumps read a snapshot of {shown(os.fsencode(dataset))}")


def _lease_fact(topic: str, place: bytes, traits: FilesystemTraits) -> HostFact:
    """Tried with a file that has no name, where one can be made; else what is known of the file system."""
    works = traits.leases
    if works:
        try:
            descriptor = os.open(place, os.O_TMPFILE | os.O_RDWR, 0o600)
        except OSError:
            pass
        else:
            try:
                reader = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)
                os.close(descriptor)
                descriptor = reader
                works = nobody_writes(reader)
            finally:
                os.close(descriptor)
    return HostFact(
        f"{topic}: leases",
        works,
        "yes" if works else f"no (on {traits.kind}): a live tree is read and hashed in full at each level",
        "" if works else "a driver with snapshots, or a local file system such as ext4, XFS, btrfs",
    )


def _inode_fact(topic: str, traits: FilesystemTraits) -> HostFact:
    return HostFact(
        f"{topic}: inode numbers",
        traits.stable_inodes,
        "stable"
        if traits.stable_inodes
        else f"may change (on {traits.kind}): files are matched by path, which takes longer",
        "" if traits.stable_inodes else "adopt the volume on the server whose disk it is",
    )


def _reflink_fact(topic: str, place: bytes, traits: FilesystemTraits) -> HostFact:
    works = traits.kind == "btrfs" or _xfs_reflinks(place)
    return HostFact(
        f"{topic}: reflinks",
        works,
        "yes: --driver reflink can clone a volume here" if works else "no (XFS made without them)",
        "" if works else "they are given by mkfs.xfs -m reflink=1 alone",
    )


def _xfs_reflinks(place: bytes) -> bool:
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        (flags,) = struct.unpack_from("=I", fcntl.ioctl(descriptor, _XFS_GEOMETRY, bytes(112)), 92)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return bool(flags & _XFS_REFLINK)


def _space_fact(topic: str, place: bytes) -> HostFact:
    space = os.statvfs(place)
    free, total = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
    enough = free >= _FEW_BYTES
    return HostFact(
        f"{topic}: space",
        enough,
        f"{free / 2**30:.1f} GiB free of {total / 2**30:.1f} GiB",
        "" if enough else "free some space: clones, home stamps and staging need room",
    )


def _existing(path: bytes) -> bytes:
    """The path itself or the nearest directory above it that exists."""
    path = os.path.abspath(path)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path
