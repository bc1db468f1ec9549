"""`replica add --lazy`: mounted at once, filled from wherever the files are, and in the end a replica as any other."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.judge import compare
from tests.serving.rig import HARDLY, LazySite, await_true
from voltool.agent.replica.records import ReplicaBook
from voltool.errors import RefusedError
from voltool.model import LAZY, SERVING
from voltool.replica.lacking import fill_from, missing_names
from voltool.replica.promote import LacksFilesError, PromoteWish, promote
from voltool.volumes.lock.hold import in_container

PLACES = {"btrfs": "btrfs", "xfs": "reflink"}


@pytest.fixture
def site(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LazySite]:
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("needs root and FUSE")
    kind = getattr(request, "param", "btrfs")
    with LoopFilesystem(kind, 1 << 30) as filesystem:
        made = LazySite(filesystem.path, PLACES.get(kind, "directory"), monkeypatch)
        made.fill()
        try:
            yield made
        finally:
            made.close()


def read(tree: Path) -> dict[str, bytes]:
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


@pytest.mark.may_skip("FUSE needs root and /dev/fuse")
@pytest.mark.parametrize("site", ["btrfs", "xfs"], indirect=True)
def test_it_is_read_while_it_fills_then_it_is_a_plain_replica_and_nobody_serves_any_more(site: LazySite) -> None:
    site.rig.dump()
    truth = read(site.volume)
    done = site.add("hostB")
    assert (site.known("hostB").phase, done.target.replica.clone_time_ns > 0) == (LAZY, True)
    assert not [text for text in site.hosts.reporter.notices() if "every file is read" in text]
    (site.volume / "d1/f1").unlink()  # still in the clone
    (site.volume / "d2/f2").write_bytes(b"other")
    assert read(site.path("hostB")) == truth
    with (site.path("hostB") / "large").open("rb") as held:
        held.read(10)
        site.await_plain("hostB")
        held.seek(0)
        assert held.read() == truth["large"]
    site.await_full("hostB")
    assert read(site.path("hostB")) == truth
    status = site.status("hostB")
    assert (status.replica.phase, status.missing_bytes, status.faults, status.running) == (SERVING, 0, (), True)
    assert site.left_over("hostB") == []
    site.sync("hostB")
    assert site.left_over("local") == []
    assert not compare(site.volume, site.path("hostB"))
    assert site.known("hostB").phase == SERVING


@pytest.mark.may_skip("FUSE needs root and /dev/fuse")
def test_killed_and_after_a_reboot_it_comes_back_with_what_it_had(site: LazySite) -> None:
    truth = read(site.volume)
    site.add("hostB", bandwidth=HARDLY)
    assert any("every file is read" in text for text in site.hosts.reporter.notices())  # there was no dump
    replica = site.path("hostB")
    assert (replica / "d3/f3").read_bytes() == truth["d3/f3"]
    before = site.status("hostB")
    assert before.running
    assert before.missing_files > 0
    site.kill("lazy", "hostB", "hostB")
    dead = site.status("hostB")
    assert not dead.running
    assert dead.faults
    with pytest.raises(OSError, match="not connected"):
        os.listdir(replica)
    site.kill("serve", "local", "hostB")
    site.sync("hostB")
    assert site.status("hostB").running
    assert (replica / "d4/f4").read_bytes() == truth["d4/f4"]
    site.kill("serve", "local", "hostB")
    daemon = site.daemon("lazy", "hostB", "hostB")
    daemon.stop()
    site.sync("hostB")
    running = daemon.running()
    assert site.status("hostB").missing_files > 0  # as slow as it was: a sync that says nothing of it changes nothing
    site.sync("hostB", fill_bandwidth=10 << 20)
    assert daemon.running() in (running, None)
    site.await_full("hostB")
    assert read(replica) == truth


@pytest.mark.may_skip("FUSE needs root and /dev/fuse")
def test_another_full_replica_serves_when_the_home_is_gone_and_without_any_it_is_an_io_error(site: LazySite) -> None:
    site.rig.dump()
    truth = read(site.volume)
    site.add("full", lazy=False)
    site.add("hostB", bandwidth=HARDLY, sources=("full",), fetch_timeout=2)
    replica = site.path("hostB")
    site.kill("serve", "local", "hostB")
    assert (replica / "large").read_bytes() == truth["large"]
    site.kill("serve", "full", "hostB")
    failed = unreadable(replica, truth)
    subprocess.run(["ls", "-lR", str(replica)], check=True, capture_output=True)
    site.sync("hostB", fetch_timeout=20)
    assert (replica / failed).read_bytes() == truth[failed]
    assert site.remove("hostB").host_told
    assert [site.left_over(host) for host in ("hostB", "full", "local")] == [[], [], []]
    assert not site.is_mounted("hostB")


def unreadable(replica: Path, truth: dict[str, bytes]) -> str:
    """A file that cannot be read; what can be read until then is right."""
    for path, content in truth.items():
        try:
            data = (replica / path).read_bytes()
        except OSError as error:
            if error.errno == errno.EIO:
                return path
            raise
        assert data == content
    raise AssertionError("everything is there")


@pytest.mark.may_skip("FUSE needs root and /dev/fuse")
@pytest.mark.skipif(in_container(), reason="who is promoted is locked first, and nothing is locked in a container")
def test_when_its_home_is_lost_what_is_missing_is_named_filled_from_a_dump_and_promoted(site: LazySite) -> None:
    (site.volume / "line\nfeed").write_bytes(b"some" * 100)
    site.rig.dump()
    truth = read(site.volume)
    site.add("hostB", bandwidth=HARDLY, fetch_timeout=1)
    replica = site.path("hostB")
    assert (replica / "d3/f3").read_bytes() == truth["d3/f3"]
    site.kill("serve", "local", "hostB")
    site.kill("lazy", "hostB", "hostB")
    site.hosts.dead.add("local")
    with pytest.raises(LacksFilesError) as refused:
        promote(site.world, PromoteWish("vol", "hostB", force=True, name_all=True))
    missing = {os.fsdecode(path) for path in refused.value.missing}
    assert {"large", "line\nfeed"} <= missing <= set(truth)
    assert "d0/f0, " in refused.value.why
    assert "and others" in refused.value.why
    assert "--fill-from" in refused.value.remedy
    assert replica.name not in missing

    restored = site.ground / "restored"  # of a dump, on that host; one file is in none, one is another by now
    shutil.copytree(site.volume, restored, symlinks=True)
    (restored / "line\nfeed").unlink()
    (restored / "d2/f2").write_bytes(bytes(len(truth["d2/f2"])))
    with pytest.raises(RefusedError, match="no such directory"):
        fill_from(site.world, "vol", "hostB", b"/nowhere")
    assert fill_from(site.world, "vol", "hostB", os.fsencode(restored)).running
    wanted = truth.keys() - {"line\nfeed", "d2/f2"}
    assert {name: (replica / name).read_bytes() for name in wanted} == {name: truth[name] for name in wanted}
    with pytest.raises(OSError, match="Input/output error"):
        (replica / "d2/f2").read_bytes()
    await_true(lambda: names_missing(site) == ["d2/f2", "line\nfeed"])
    with pytest.raises(LacksFilesError, match=r"missing: d2/f2, line\\x0afeed"):
        promote(site.world, PromoteWish("vol", "hostB", force=True))
    for name in ("line\nfeed", "d2/f2"):
        (restored / name).write_bytes(truth[name])
        assert (replica / name).read_bytes() == truth[name]
    site.await_full("hostB")
    done = promote(site.world, PromoteWish("vol", "hostB", force=True))
    assert (done.record.epoch.number, done.untold) == (2, ("local",))
    assert read(replica) == truth
    (replica / "new").touch()


def names_missing(site: LazySite) -> list[str]:
    with site.hosts.connect("hostB") as agent:
        return [os.fsdecode(path) for path in missing_names(agent, site.rig.volume.uuid, -1)]


@pytest.mark.may_skip("FUSE needs root and /dev/fuse")
@pytest.mark.parametrize("site", ["ext4"], indirect=True)
def test_without_clones_it_is_refused_and_nothing_is_left(site: LazySite) -> None:
    with pytest.raises(RefusedError, match="cannot be served lazily"):
        site.add("hostB")
    assert site.rig.catalog.replicas() == []
    assert site.left_over("hostB") == []
    assert [path.name for path in site.path("hostB").parent.iterdir()] == []


@pytest.mark.may_skip("FUSE needs root and /dev/fuse")
def test_the_doctor_starts_what_does_not_run_and_finds_what_is_left_of_a_replica_that_is_gone(site: LazySite) -> None:
    truth = read(site.volume)
    site.add("hostB", bandwidth=HARDLY)
    assert site.findings("hostB") == site.findings("local") == []
    site.kill("serve", "local", "hostB")
    site.kill("lazy", "hostB", "hostB")
    assert "serves files to a lazy replica does not run" in site.findings("local")[0]
    assert any("fills the lazy replica does not run" in text for text in site.findings("hostB"))
    for host in ("local", "hostB"):
        site.findings(host, fix=True)
        assert site.findings(host) == []
    assert (site.path("hostB") / "large").read_bytes() == truth["large"]
    ReplicaBook(os.fsencode(site.hosts.state("hostB"))).remove(site.rig.volume.uuid)
    assert "what is kept of a process" in site.findings("hostB", fix=True)[0]
    assert site.left_over("hostB") == []
