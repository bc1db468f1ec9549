"""The `zfs` tool: how it is called, and what its answers mean. Ships to servers.

Written for OpenZFS 2.x and for zfs-fuse 0.7.0, whose tool is older: no ``list -p``, no ``get -t``, no ``diff``. What is used here
is in both. Parsing is pure and tested against what both print. Knows nothing of clones or records. Sources: zfs-list(8),
zfs-get(8), zfs-snapshot(8), zfs-destroy(8); lib/libzfs/libzfs_util.c for the texts of errors; proc_pid_mountinfo(5).
"""

from __future__ import annotations

import contextlib
import enum
import os
import shutil
import subprocess
import time
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from voltool.errors import HostError, NotFoundError, RefusedError, SpaceError, VoltoolError
from voltool.frozen import dataclass
from voltool.showing import shown
from voltool.volumes.mounts import Mount, mount_of, read_mounts

#: How mountinfo calls what OpenZFS mounts, and what zfs-fuse mounts.
OPENZFS = "zfs"
ZFS_FUSE = "fuse.zfs"
#: What is ours is called so, snapshots and datasets alike; a snapshot also says so in a property.
OWN_PREFIX = "voltool-"
#: The volume that a snapshot of ours belongs to. Properties of users have a colon in their name (zfsprops(7)).
OWNER_PROPERTY = "voltool:volume"
LOCAL = "local"
#: ZFS_MAX_DATASET_NAME_LEN (include/sys/fs/zfs.h) is 256 with the terminating zero.
MAX_NAME = 255

_TOOL = "zfs"
_PLACES = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
#: A pool that has failed lets commands wait for ever.
_SECONDS = 600.0
#: zfs-fuse takes a moment to let go of what was unmounted; so may someone who only looks into a snapshot.
_BUSY_ATTEMPTS = 25
_BUSY_PAUSE = 0.1


class Trouble(enum.Enum):
    """Why the tool failed, as far as somebody must know."""

    MISSING = "there is no such dataset"
    EXISTS = "it exists already"
    BUSY = "it is busy"
    SPACE = "out of space"
    RIGHTS = "no rights"
    OTHER = "something else"


class ZfsError(HostError):
    """The tool refused; ``trouble`` says why."""

    def __init__(self, trouble: Trouble, what: str, *, where: str = "", why: str = "", remedy: str = "") -> None:
        super().__init__(what, where=where, why=why, remedy=remedy)
        self.trouble = trouble


class ZfsBusyError(ZfsError):
    """Somebody uses it; it may go in a moment."""


@dataclass(frozen=True)
class Property:
    """A property's value and where it comes from: `LOCAL`, ``received``, ``default``, ``inherited from …`` or ``-``."""

    value: str
    source: str


@dataclass(frozen=True)
class Dataset:
    """A file system as `zfs list` has it. ``mountpoint`` is a path, or ``none``, ``legacy``."""

    name: str
    mountpoint: str
    mounted: bool
    may_mount: bool


# ------------------------------------------------------------------------------------------------------ what it says


def parse_rows(text: str, columns: int) -> List[Tuple[str, ...]]:
    """The lines of ``list -H`` or ``get -H``: fields separated by tabs. HostError for a line of another shape."""
    rows = [tuple(line.split("\t")) for line in text.splitlines() if line]
    for row in rows:
        if len(row) != columns:
            raise HostError("the zfs tool says something unexpected", why=repr("\t".join(row))[:200])
    return rows


def parse_properties(text: str) -> Dict[str, Dict[str, Property]]:
    """The output of ``get -Hp -o name,property,value,source``, by dataset and property; what a dataset lacks is left out."""
    found: Dict[str, Dict[str, Property]] = {}
    for name, key, value, source in parse_rows(text, 4):
        properties = found.setdefault(name, {})
        if (value, source) != ("-", "-"):
            properties[key] = Property(value, source)
    return found


def parse_datasets(text: str) -> List[Dataset]:
    """The output of ``list -H -o name,mountpoint,mounted,canmount``."""
    return [
        Dataset(name, mountpoint, mounted == "yes", can_mount == "on")
        for name, mountpoint, mounted, can_mount in parse_rows(text, 4)
    ]


def trouble_of(text: str) -> Trouble:
    """What the tool's complaint is about. The texts are those of libzfs, with LC_ALL=C."""
    for part, trouble in _COMPLAINTS:
        if part in text:
            return trouble
    return Trouble.OTHER


_COMPLAINTS = (
    ("dataset does not exist", Trouble.MISSING),
    ("could not find any snapshots to destroy", Trouble.MISSING),
    ("no such pool or dataset", Trouble.MISSING),
    ("no such pool", Trouble.MISSING),
    ("dataset already exists", Trouble.EXISTS),
    ("pool or dataset exists", Trouble.EXISTS),
    ("dataset is busy", Trouble.BUSY),
    ("pool is busy", Trouble.BUSY),
    ("target is busy", Trouble.BUSY),  # umount(8), which the tool may run
    ("out of space", Trouble.SPACE),
    ("ermission denied", Trouble.RIGHTS),
)


# ---------------------------------------------------------------------------------------------------------- calling


def tool_path() -> Optional[str]:
    """Where the tool is; None: nowhere."""
    return shutil.which(_TOOL, path=_search_path())


def call(*arguments: str) -> str:
    """Run ``zfs`` with these arguments and return what it says. Raises ZfsError, SpaceError, HostError."""
    tool = tool_path()
    if tool is None:
        raise HostError(
            "the zfs tool is not there",
            why="it is not on the path",
            remedy="install it (Debian: zfsutils-linux), or --driver directory",
        )
    try:
        done = subprocess.run(
            [tool, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "LC_ALL": "C", "PATH": _search_path()},
            cwd="/",
            check=False,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise HostError(
            "the zfs tool does not come back",
            where=_command(arguments),
            why="has the pool failed?",
            remedy="zpool status",
        ) from error
    except OSError as error:
        raise HostError("the zfs tool cannot be run", where=tool, why=error.strerror or str(error)) from error
    if done.returncode != 0:
        raise _failed(arguments, os.fsdecode(done.stderr).strip())
    return os.fsdecode(done.stdout)


def call_patiently(*arguments: str) -> str:
    """`call`, again for a while where something is busy."""
    for _attempt in range(_BUSY_ATTEMPTS):
        with contextlib.suppress(ZfsBusyError):
            return call(*arguments)
        time.sleep(_BUSY_PAUSE)
    return call(*arguments)


def _failed(arguments: Sequence[str], complaint: str) -> VoltoolError:
    trouble = trouble_of(complaint)
    why = " ".join(complaint.split()) or "it does not say why"
    where = _command(arguments)
    if trouble is Trouble.SPACE:
        return SpaceError("the pool has no room", where=where, why=why, remedy="free space in it, or raise its quota")
    remedies = {
        Trouble.RIGHTS: "log in as root, or set become = true for the host and allow sudo",
        Trouble.BUSY: "see who uses it (fuser -m, zfs holds), then again",
    }
    kind = ZfsBusyError if trouble is Trouble.BUSY else ZfsError
    return kind(trouble, "zfs refused", where=where, why=why, remedy=remedies.get(trouble, "zpool status may say more"))


def _command(arguments: Sequence[str]) -> str:
    return shown(os.fsencode(" ".join([_TOOL, *arguments])))


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), _PLACES])


# -------------------------------------------------------------------------------------------------------- questions


def is_zfs(mount: Mount) -> bool:
    """Whether it is mounted by OpenZFS or zfs-fuse."""
    return mount.kind in (OPENZFS, ZFS_FUSE)


def dataset_containing(path: bytes) -> Optional[str]:
    """The dataset that the existing ``path`` lies on; None where that is no ZFS, or nothing can be asked."""
    return _dataset_of(mount_of(os.path.realpath(path), read_mounts()))


def dataset_at(path: bytes) -> Optional[str]:
    """The dataset whose root is mounted exactly at ``path``; None where there is none. A lock's mounts over it do not matter."""
    path = os.path.realpath(path)
    mount = mount_of(path, read_mounts())
    if mount is None or mount.point != path or mount.root != b"/":
        return None
    return _dataset_of(mount)


def get(names: Sequence[str], *properties: str) -> Dict[str, Dict[str, Property]]:
    """Properties of datasets and snapshots; those that do not exist are not in the answer."""
    found: Dict[str, Dict[str, Property]] = {}
    for name in names:
        found.update(_get_one(name, ",".join(properties)))
    return found


def _get_one(name: str, properties: str) -> Dict[str, Dict[str, Property]]:
    try:
        return parse_properties(call("get", "-Hp", "-o", "name,property,value,source", properties, name))
    except ZfsError as error:
        if error.trouble is not Trouble.MISSING:
            raise
    return {}


def snapshots_of(dataset: str) -> List[str]:
    """The full names of all snapshots of the dataset itself. ZfsError where the dataset is not there."""
    text = call("list", "-H", "-t", "snapshot", "-d", "1", "-o", "name", dataset)
    names = [name for (name,) in parse_rows(text, 1)]
    return [name for name in names if name.startswith(dataset + "@")]


def datasets_below(dataset: str) -> List[Dataset]:
    """The file systems below the dataset in the hierarchy of names."""
    text = call("list", "-H", "-r", "-t", "filesystem", "-o", "name,mountpoint,mounted,canmount", dataset)
    return [found for found in parse_datasets(text) if found.name != dataset]


def unmounted_at(path: bytes) -> Optional[str]:
    """A dataset that would be mounted at ``path``, and is not; for a message."""
    with contextlib.suppress(VoltoolError):
        text = call("list", "-H", "-t", "filesystem", "-o", "name,mountpoint,mounted,canmount")
        for found in parse_datasets(text):
            if os.fsencode(found.mountpoint) == path and not found.mounted:
                return found.name
    return None


def key_is_missing(dataset: str) -> bool:
    """Whether it is encrypted and its key not loaded. zfs-fuse knows no encryption, nor the property."""
    with contextlib.suppress(VoltoolError):
        return call("get", "-Hp", "-o", "value", "keystatus", dataset).strip() == "unavailable"
    return False


def _dataset_of(mount: Optional[Mount]) -> Optional[str]:
    """The mount's dataset, as the tool confirms it: with zfs-fuse a name may be out of date."""
    if mount is None or not is_zfs(mount) or b"@" in mount.source or tool_path() is None:
        return None
    name = os.fsdecode(mount.source)
    return name if get([name], "type").get(name, {}).get("type") == Property("filesystem", "-") else None


# ------------------------------------------------------------------------------------------------------------- acts


def create_dataset(name: str, mountpoint: bytes) -> None:
    """Make the file system ``name``, mounted at ``mountpoint`` (absent, or an empty directory). Durable when it returns.

    Not idempotent. Raises RefusedError where the name is taken or the mount point is in use, SpaceError, HostError; then
    nothing is left.
    """
    if get([name], "type"):
        raise RefusedError(
            "the dataset exists already", where=shown(os.fsencode(name)), remedy="another name, or destroy it first"
        )
    try:
        call("create", "-o", "mountpoint=" + os.fsdecode(mountpoint), name)
    except ZfsError as error:
        if error.trouble is not Trouble.EXISTS:
            with contextlib.suppress(VoltoolError):  # made, but it could not be mounted
                call_patiently("destroy", name)
        raise
    if dataset_at(mountpoint) != name:
        call_patiently("destroy", name)
        raise RefusedError(
            "the new dataset cannot be mounted",
            where=shown(mountpoint),
            why="something is there already, or its pool does not mount anything",
            remedy="an absent path, or an empty directory",
        )


def destroy_dataset(name: str) -> None:
    """Destroy a file system with our own snapshots of it. Idempotent.

    RefusedError, and nothing is touched, where it has snapshots or children that are not voltool's.
    """
    try:
        snapshots = snapshots_of(name)
        below = datasets_below(name)
    except ZfsError as error:
        if error.trouble is Trouble.MISSING:
            return
        raise
    ours = _ours(snapshots)
    foreign = [found for found in snapshots if found not in ours]
    foreign += [found.name for found in below if not _is_reader_of(found.name, name, ours)]
    if foreign:
        raise RefusedError(
            "the dataset has snapshots or datasets below it that voltool did not make",
            where=", ".join(shown(os.fsencode(found)) for found in foreign[:10]),
            remedy="keep them elsewhere (zfs send), or destroy them yourself; then again",
        )
    for found in below:
        call_patiently("destroy", found.name)
    for snapshot in ours:
        call_patiently("destroy", snapshot)
    call_patiently("destroy", name)


def destroy_snapshot(name: str, call_it: Callable[..., str] = call_patiently) -> None:
    """Destroy a snapshot; one that somebody holds or has cloned goes when that ends. Idempotent. ZfsError where it is busy."""
    if "@" not in name:
        raise NotFoundError("this is no snapshot", where=shown(os.fsencode(name)))
    try:
        call_it("destroy", "-d", name)
    except ZfsError as error:
        if error.trouble is not Trouble.MISSING:
            raise


def _ours(snapshots: Sequence[str]) -> List[str]:
    candidates = [name for name in snapshots if name.partition("@")[2].startswith(OWN_PREFIX)]
    found = get(candidates, OWNER_PROPERTY)
    return [name for name in candidates if found.get(name, {}).get(OWNER_PROPERTY, Property("", "")).source == LOCAL]


def _is_reader_of(child: str, name: str, ours: Sequence[str]) -> bool:
    """Whether the child is what one of our snapshots is read through where there is no `.zfs`."""
    return child.startswith(name + "/") and name + "@" + child[len(name) + 1 :] in ours
