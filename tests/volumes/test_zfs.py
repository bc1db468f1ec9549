"""The zfs driver on zfs-fuse: what is in a snapshot, which are ours, and what others may do to them meanwhile."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import zfs as pools
from tests.agent.host import Collected, adoption, host_state
from tests.filesystems import LoopFilesystem
from tests.volumes.volume import UUID, make_volume, read_tree, record_for
from tests.writer import wait_until
from voltool import durable
from voltool.agent.adopt import adopt_volume, forget_volume
from voltool.agent.clean import clean_host
from voltool.dumpfile import format as fmt
from voltool.errors import HostError, RefusedError, SpaceError
from voltool.inodes import set_flags
from voltool.model import VolumeRecord
from voltool.volumes import records
from voltool.volumes.contract import Clone
from voltool.volumes.limits import limits_of
from voltool.volumes.registry import detect
from voltool.volumes.traits import traits_of
from voltool.volumes.zfs import ZfsDriver
from voltool.volumes.zfs_command import create_dataset, destroy_dataset
from voltool.wire.messages import CleanHost, ForgetVolume

Make = Callable[..., LoopFilesystem]


class Case:
    """A dataset as a volume, with one file in it."""

    def __init__(self, filesystem: LoopFilesystem, state: Path) -> None:
        self.filesystem = filesystem
        self.pool = pools.pool_name(filesystem.path.parent)
        self.dataset = f"{self.pool}/vol"
        self.state = state
        self.volume: VolumeRecord = make_volume(filesystem.path, "zfs", state)
        self.root = filesystem.path / "vol"
        self.driver = ZfsDriver()
        (self.root / "file").write_bytes(b"first")

    def snapshots(self) -> list[str]:
        """The names of all snapshots in the pool, without the dataset."""
        listed = pools.run("zfs", "list", "-H", "-r", "-t", "snapshot", "-o", "name", self.pool)
        return [line.partition("@")[2] for line in listed.splitlines()]

    def names(self) -> list[str]:
        """The names of all datasets in the pool."""
        return pools.run("zfs", "list", "-H", "-r", "-o", "name", self.pool).split()


@pytest.fixture
def case(make_filesystem: Make, tmp_path: Path) -> Case:
    return Case(make_filesystem("zfs"), tmp_path / "state")


@contextlib.contextmanager
def opened(driver: ZfsDriver, clone: Clone) -> Iterator[int]:
    root = driver.open(clone)
    try:
        yield root
    finally:
        os.close(root)


def read(driver: ZfsDriver, clone: Clone, name: str = "file") -> bytes:
    with opened(driver, clone) as root, open(os.open(name, os.O_RDONLY, dir_fd=root), "rb") as file:
        return file.read()


# ------------------------------------------------------------------------------------------------------ what is in it


def test_a_clone_has_everything_and_cannot_be_written_to(case: Case) -> None:
    """Also the attributes of files, when another file without any was looked at first: on a dataset with readonly=on they
    would be gone then."""
    for number in range(20):
        (case.root / f"plain{number}").write_bytes(b"x")
    os.setxattr(case.root / "file", "user.kept", b"value")
    os.setxattr(case.root / "plain7", "trusted.kept", b"another")
    (case.root / "dir").mkdir()
    (case.root / "link").symlink_to("nowhere")
    before = read_tree(case.volume.path)
    clone = case.driver.clone(case.volume, "dump1")
    assert os.listxattr(Path(os.fsdecode(clone.path)) / "plain0") == []
    after = read_tree(clone.path)
    root = os.lstat(case.root).st_ino
    assert {inode: after[inode] for inode in after if inode != root} == {
        inode: before[inode] for inode in before if inode != root
    }
    for refused in ("file", "new"):
        with pytest.raises(OSError, match="Read-only"):
            (Path(os.fsdecode(clone.path)) / refused).write_bytes(b"x")


def test_what_was_written_through_a_mapping_is_in_it(case: Case) -> None:
    with open(case.root / "mapped", "w+b") as file:
        file.truncate(4 << 20)
        with mmap.mmap(file.fileno(), 0) as mapping:
            for number in range(1, 6):
                mapping[:] = bytes([number]) * len(mapping)
                clone = case.driver.clone(case.volume, f"dump{number}")
                assert set(read(case.driver, clone, "mapped")) == {number}
                case.driver.drop(case.volume, clone)


def test_inode_numbers_outlive_a_remount_and_times_have_seconds_alone(case: Case) -> None:
    traits = traits_of(bytes(case.root))
    assert (traits.kind, traits.stable_inodes, traits.leases) == ("zfs-fuse", True, False)
    clone = case.driver.clone(case.volume, "dump1")
    os.utime(case.root / "file", ns=(1, 1_700_000_000_123_456_789))
    status = (case.root / "file").lstat()
    assert status.st_mtime_ns == 1_700_000_000_000_000_000
    assert status.st_ctime_ns % 1_000_000_000 == 0
    case.filesystem.unmount()
    assert case.driver.find(case.volume, "dump1") is None
    case.filesystem.mount()
    assert (case.root / "file").lstat().st_ino == status.st_ino
    found = case.driver.find(case.volume, "dump1")
    assert found == clone
    assert read(case.driver, found) == b"first"
    with opened(case.driver, found) as root:
        assert os.stat("file", dir_fd=root).st_ino == status.st_ino


def test_its_limits_are_what_it_can_hold(case: Case) -> None:
    limits = limits_of(bytes(case.root))
    assert limits.first is not None
    assert limits.last is not None
    for moment in (limits.first, limits.last):
        os.utime(case.root / "file", (moment, moment))
        assert (case.root / "file").lstat().st_mtime == moment
    for moment in (limits.first - 1, limits.last + 1):
        with pytest.raises(OSError, match="too large"):
            os.utime(case.root / "file", (moment, moment))
    with open(case.root / "file", "rb") as file, pytest.raises(OSError, match=r"Inappropriate ioctl|not supported"):
        set_flags(file.fileno(), fmt.FLAG_NODUMP, fmt.FLAG_NODUMP)
    assert limits.flags == ""


def test_without_renameat2_nothing_is_replaced(case: Case) -> None:
    """zfs-fuse has no flags of rename; voltool's own way must not replace either."""
    place = case.root
    (place / "dir").mkdir()
    (place / "dir/inside").write_bytes(b"x")
    (place / "other").mkdir()
    with pytest.raises(OSError, match="Invalid argument"):
        durable.rename_with_flags(bytes(place / "file"), bytes(place / "new"), durable.RENAME_NOREPLACE)
    for old, new in (("file", "dir"), ("dir", "file"), ("dir", "other")):
        with pytest.raises(FileExistsError):
            durable.rename_new(bytes(place / old), bytes(place / new))
    durable.rename_new(bytes(place / "dir"), bytes(place / "moved"))
    assert (place / "moved/inside").read_bytes() == b"x"
    os.link(place / "file", place / "new")  # cut off between its two steps
    durable.rename_new(bytes(place / "file"), bytes(place / "new"))
    assert not (place / "file").exists()
    assert (place / "new").read_bytes() == b"first"


# --------------------------------------------------------------------------------------------------- what can be one


def test_auto_takes_the_root_of_a_dataset(case: Case) -> None:
    (case.root / "dir").mkdir()
    assert detect(case.volume.path) == "zfs"
    assert detect(bytes(case.root / "dir")) == "directory"
    with pytest.raises(RefusedError, match="root of a mounted ZFS dataset") as caught:
        case.driver.adopt(bytes(case.root / "dir"))
    assert "zfs create" in caught.value.remedy


def test_a_dataset_that_is_not_mounted_is_named(case: Case) -> None:
    pools.patiently("zfs", "unmount", case.dataset, released=case.dataset)
    case.root.mkdir(exist_ok=True)
    with pytest.raises(RefusedError, match=f"{case.dataset} is not mounted") as caught:
        case.driver.adopt(case.volume.path)
    assert caught.value.remedy == f"zfs mount {case.dataset}"


def test_datasets_inside_are_refused_by_name(case: Case, tmp_path: Path) -> None:
    pools.run("zfs", "create", "-o", f"mountpoint={tmp_path}/outside", f"{case.dataset}/outside")
    case.driver.drop(case.volume, case.driver.clone(case.volume, "dump1"))
    create_dataset(f"{case.dataset}/child", bytes(case.root / "dir/child"))
    create_dataset(f"{case.pool}/stranger", bytes(case.root / "stranger"))
    for act in (
        lambda: case.driver.adopt(case.volume.path),
        lambda: case.driver.clone(case.volume, "dump1"),
    ):
        with pytest.raises(RefusedError, match="datasets inside") as caught:
            act()
        assert caught.value.where == f"{case.pool}/stranger, {case.dataset}/child"
    assert case.snapshots() == []
    pools.patiently("zfs", "unmount", f"{case.dataset}/child", released=f"{case.dataset}/child")
    pools.patiently("zfs", "destroy", f"{case.pool}/stranger", released=f"{case.pool}/stranger")
    with pytest.raises(RefusedError, match="child"):  # at the next boot it is there again
        case.driver.adopt(case.volume.path)


def test_a_label_is_used_once_and_is_a_name(case: Case) -> None:
    case.driver.clone(case.volume, "dump1")
    with pytest.raises(RefusedError, match="exists"):
        case.driver.clone(case.volume, "dump1")
    for label in ("", "..", "a/b", "a@b", "a%b", "a b", ".hidden", "x" * 250):
        with pytest.raises(RefusedError, match="label"):
            case.driver.clone(case.volume, label)
    assert case.snapshots() == ["voltool-01234567-dump1"]


def test_readonly_is_no_lock(case: Case) -> None:
    """Why a lock is never made of the property: who has a file open writes on."""
    with open(case.root / "file", "ab", buffering=0) as file:
        pools.run("zfs", "set", "readonly=on", case.dataset)
        file.write(b" and more")
        with pytest.raises(OSError, match="Read-only"):
            (case.root / "new").write_bytes(b"")
    assert (case.root / "file").read_bytes() == b"first and more"


def test_a_full_pool_is_a_space_error_and_leaves_nothing(make_filesystem: Make, tmp_path: Path) -> None:
    case = Case(make_filesystem("zfs", size=64 << 20), tmp_path / "state")
    filler = case.filesystem.fill()
    with pytest.raises(SpaceError):
        case.driver.clone(case.volume, "dump1")
    assert case.snapshots() == []
    filler.unlink()
    case.filesystem.unmount()  # what was freed can be used only when it is on the disk
    case.filesystem.mount()
    assert read(case.driver, case.driver.clone(case.volume, "dump1")) == b"first"


# --------------------------------------------------------------------------------------------------- which are ours


def test_snapshots_of_others_are_left_alone(case: Case) -> None:
    pools.run("zfs", "snapshot", f"{case.dataset}@mine")
    pools.run("zfs", "snapshot", f"{case.dataset}@voltool-01234567-pretended")
    pools.run("zfs", "set", f"voltool:volume={UUID}", case.dataset)  # what a snapshot inherits is not its own
    clone = case.driver.clone(case.volume, "dump1")
    assert case.driver.clones(case.volume) == [clone]
    assert case.driver.find(case.volume, "pretended") is None
    other = record_for(case.root, "zfs", "0123456789abcdefffffffffffffffff")
    assert case.driver.clones(other) == []
    case.driver.drop(case.volume, clone)
    assert case.snapshots() == ["mine", "voltool-01234567-pretended"]


def test_a_received_copy_is_not_ours(case: Case, tmp_path: Path) -> None:
    clone = case.driver.clone(case.volume, "dump1")
    snapshot = f"{case.dataset}@voltool-01234567-dump1"
    command = f"zfs send -p {snapshot} | zfs receive {case.pool}/copy"
    environment = {**os.environ, "PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
    # The mount point came with it, and is in use.
    subprocess.run(["sh", "-c", command], check=False, env=environment, capture_output=True)
    pools.run("zfs", "set", f"mountpoint={tmp_path}/copy", f"{case.pool}/copy")
    pools.patiently("zfs", "mount", f"{case.pool}/copy")
    assert (tmp_path / "copy/file").read_bytes() == b"first"
    assert case.driver.clones(record_for(tmp_path / "copy", "zfs")) == []
    with pytest.raises(RefusedError, match="did not make"):
        destroy_dataset(f"{case.pool}/copy")
    assert case.driver.clones(case.volume) == [clone]
    destroy_dataset(case.dataset)
    assert case.dataset not in case.names()


def test_a_snapshot_that_somebody_destroyed_is_gone(case: Case) -> None:
    clone = case.driver.clone(case.volume, "dump1")
    snapshot = f"{case.dataset}@voltool-01234567-dump1"
    pools.patiently("zfs", "destroy", "-R", snapshot, released=f"{case.dataset}/voltool-01234567-dump1")
    assert case.driver.find(case.volume, "dump1") is None
    assert case.driver.clones(case.volume) == []
    with pytest.raises(HostError):
        case.driver.open(clone)
    case.driver.drop(case.volume, clone)
    assert read(case.driver, case.driver.clone(case.volume, "dump1")) == b"first"


def test_a_renamed_dataset_keeps_its_clones(case: Case) -> None:
    clone = case.driver.clone(case.volume, "dump1")
    # zfs-fuse is too slow to let go of what it mounts again itself
    pools.patiently("zfs", "unmount", f"{case.dataset}/voltool-01234567-dump1", released=case.dataset)
    pools.patiently("zfs", "unmount", case.dataset, released=case.dataset)
    pools.patiently("zfs", "rename", case.dataset, f"{case.pool}/renamed")
    if not os.path.ismount(case.root):
        pools.patiently("zfs", "mount", f"{case.pool}/renamed")
    (found,) = case.driver.clones(case.volume)
    assert (found.label, found.time_ns, found.uuid) == (clone.label, clone.time_ns, clone.uuid)
    assert read(case.driver, found) == b"first"
    case.driver.drop(case.volume, found)
    assert case.snapshots() == []
    assert case.names() == [case.pool, f"{case.pool}/renamed"]


def test_one_that_is_in_use_goes_when_it_is_free(case: Case) -> None:
    clone = case.driver.clone(case.volume, "dump1")
    with opened(case.driver, clone):
        case.driver.drop(case.volume, clone)
        assert case.driver.find(case.volume, "dump1") is None
        assert case.driver.clones(case.volume) == []
        assert case.snapshots() == ["voltool-01234567-dump1"]
        pools.run("zfs", "hold", "backup", f"{case.dataset}@voltool-01234567-dump1")
    case.driver.clone(case.volume, "dump2")
    assert case.snapshots() == ["voltool-01234567-dump1", "voltool-01234567-dump2"]
    assert [clone.label for clone in case.driver.clones(case.volume)] == ["dump2"]
    pools.run("zfs", "release", "backup", f"{case.dataset}@voltool-01234567-dump1")

    def is_gone_after_the_next_clone() -> bool:
        """zfs-fuse is slow to let go of what was mounted, and a clone does not wait for that: the next one tries again."""
        case.driver.drop(case.volume, case.driver.clone(case.volume, "later"))
        return case.snapshots() == ["voltool-01234567-dump2"]

    wait_until(is_gone_after_the_next_clone)


def test_copies_of_its_mount_in_other_namespaces_do_not_keep_it(case: Case) -> None:
    clone = case.driver.clone(case.volume, "dump1")
    with subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sleep", "60"]) as other:
        try:
            own = os.readlink("/proc/self/ns/mnt")
            wait_until(lambda: os.readlink(f"/proc/{other.pid}/ns/mnt") != own)
            wait_until(lambda: Path(f"/proc/{other.pid}/comm").read_text().strip() == "sleep")
            case.driver.drop(case.volume, clone)
            assert case.snapshots() == []
            assert case.names() == [case.pool, case.dataset]
        finally:
            other.kill()


_CRASH = """
import os, sys
from voltool.volumes import records, zfs, zfs_view
state, path, where, uuid = os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2]), sys.argv[3], sys.argv[4]
volume = records.open_home(state, uuid, path).record
driver = zfs.ZfsDriver()
def die(*_, **__): os._exit(9)
call = zfs.zfs.call
if where == "before": zfs.zfs.call = lambda *words: die() if words[0] == "snapshot" else call(*words)
elif where == "after": zfs_view.open_place = die
elif where == "shown": zfs_view.mounting.remount = die
else:
    clone = driver.clone(volume, "dump1")
    zfs.zfs.destroy_snapshot = die
    driver.drop(volume, clone)
driver.clone(volume, "dump1")
"""


@pytest.mark.parametrize("where", ["before", "after", "shown", "drop"])
def test_after_a_crash_the_clone_is_there_whole_or_not_at_all(case: Case, where: str) -> None:
    arguments = [str(case.state), str(case.root), where, UUID]
    assert subprocess.run([sys.executable, "-c", _CRASH, *arguments], check=False).returncode == 9
    (case.root / "file").write_bytes(b"second")
    note = Path(os.fsdecode(records.area_of(case.volume.path, UUID))) / "clones/dump1.json"
    assert note.exists()
    found = case.driver.find(case.volume, "dump1")
    assert (found is None) == (where == "before")
    if found is not None:
        assert read(case.driver, found) == b"first"
        with pytest.raises(OSError, match="Read-only"):
            (Path(os.fsdecode(found.path)) / "file").write_bytes(b"x")
        case.driver.drop(case.volume, found)
    clone = case.driver.clone(case.volume, "dump1")
    assert read(case.driver, clone) == b"second"
    case.driver.drop(case.volume, clone)
    assert case.snapshots() == []
    assert case.names() == [case.pool, case.dataset]
    assert not note.exists()
    assert not Path(os.fsdecode(clone.path)).exists()


def test_cleaning_a_host_destroys_the_snapshots_of_forgotten_volumes(case: Case, tmp_path: Path) -> None:
    destroy_dataset(case.dataset)
    create_dataset(case.dataset, case.volume.path)
    host, talk = host_state(tmp_path / "host"), Collected()
    record = adopt_volume(adoption(case.volume.path), talk, host).record
    assert record.driver == "zfs"
    (case.root / "precious").write_bytes(b"data")
    case.driver.clone(record, "user-1")
    pools.run("zfs", "snapshot", f"{case.dataset}@mine")
    left = forget_volume(ForgetVolume(record.uuid, record.path), talk, host).left
    assert any(path.endswith(b"user-1.json") for path in left)
    clean_host(CleanHost(dry_run=False), talk, host)
    assert case.snapshots() == ["mine"]
    assert case.names() == [case.pool, case.dataset]
    assert [path.name for path in case.root.iterdir()] == ["precious"]
