"""`host check`: facts that are true, and a remedy for each "no"."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agent.host import Collected, adoption, host_state
from tests.filesystems import LoopFilesystem
from voltool.agent import check
from voltool.agent.adopt import adopt_volume
from voltool.volumes.btrfs_ioctl import create_subvolume
from voltool.wire.messages import CheckHost, HostFact

Make = Callable[..., LoopFilesystem]


def facts(state: Path, *paths: Path) -> dict[str, HostFact]:
    report = check.check_host(CheckHost(tuple(map(bytes, paths))), Collected(), host_state(state))
    for fact in report.facts:
        assert fact.ok or fact.remedy, fact
        assert fact.value
    return {fact.topic: fact for fact in report.facts}


def test_this_machine(tmp_path: Path) -> None:
    found = facts(tmp_path / "state")
    assert found["python"].value.startswith(".".join(map(str, sys.version_info[:3])))
    assert found["rights"].ok == (os.geteuid() == 0)
    assert found["kernel"].value.split()[1] == os.uname().release
    assert {"lz4", "openat2", "fuse", "file systems", "clock", "machine-id", "state directory"} <= set(found)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("ext4", [], {"leases": True, "inode numbers": True, "driver": True}),
        ("xfs", [], {"leases": True, "reflinks": True}),
        ("xfs", ["-m", "reflink=0"], {"reflinks": False}),
        ("tmpfs", [], {"leases": False, "inode numbers": True}),
        ("zfs", [], {"leases": False, "inode numbers": True, "driver": True}),
    ],
)
def test_each_file_system(
    make_filesystem: Make, tmp_path: Path, kind: str, options: list[str], expected: dict[str, bool]
) -> None:
    path = make_filesystem(kind, mkfs_options=options).path
    before = path.stat().st_mtime_ns
    found = facts(tmp_path, path / "not yet" / "there")
    for topic, ok in expected.items():
        assert found[f"{path}/not yet/there: {topic}"].ok == ok, topic
    assert kind in found[f"{path}/not yet/there: driver"].value
    assert path.stat().st_mtime_ns == before


def test_btrfs_says_what_would_give_snapshots(make_filesystem: Make, tmp_path: Path) -> None:
    path = make_filesystem("btrfs").path
    descriptor = os.open(path, os.O_RDONLY)
    create_subvolume(descriptor, b"vol")
    os.close(descriptor)
    (path / "dir").mkdir()
    found = facts(tmp_path, path / "vol", path / "dir")
    assert found[f"{path / 'vol'}: driver"].ok
    assert "snapshot" in found[f"{path / 'vol'}: driver"].value
    assert not found[f"{path / 'dir'}: driver"].ok
    assert "btrfs subvolume create" in found[f"{path / 'dir'}: driver"].remedy


def test_known_volumes_are_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / "vol").mkdir()
    adopt_volume(adoption(tmp_path / "vol"), Collected(), host_state(tmp_path / "state"))
    assert f"{tmp_path / 'vol'}: space" in facts(tmp_path / "state")


def test_little_space_is_a_no(make_filesystem: Make, tmp_path: Path) -> None:
    path = make_filesystem("ext4", size=64 << 20).path
    assert not facts(tmp_path, path)[f"{path}: space"].ok


def test_without_root_the_sudoers_line_is_given() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    script = (
        "import dataclasses, json, os\nos.setgid(65534); os.setgroups([]); os.setuid(65534)\n"
        "from voltool.agent import check\nprint(json.dumps(dataclasses.asdict(check._rights_fact())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import voltool.agent.check\n{script}"], check=True, capture_output=True
    )
    fact = json.loads(done.stdout)
    assert not fact["ok"]
    assert "nobody" in fact["value"]
    assert "become = true" in fact["remedy"] or "install sudo" in fact["remedy"]
