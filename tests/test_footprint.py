"""docs/footprint.md against what really appears during adopting, dumping at levels, verifying and restoring."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.hosts import Site
from voltool.volumes.lock.hold import in_container

PAGE = Path(__file__).parent.parent / "docs/footprint.md"
ROW = re.compile(r"^\| (state|host|area|target) \| `([^`]+)` \| (kept|base|run) \| [^|]+ \|$")


@dataclass(frozen=True)
class Row:
    """One documented path."""

    root: str
    path: str
    lasting: str

    def matches(self, path: str) -> bool:
        pattern = "".join(
            "[^/]+" if part.startswith("<") else re.escape(part) for part in re.split("(<[^>]+>)", self.path)
        )
        return re.fullmatch(pattern, path) is not None


def documented() -> list[Row]:
    table = PAGE.read_text().partition("<!-- table: begin -->")[2].partition("<!-- table: end -->")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    matches = [ROW.match(line) for line in rows]
    assert all(matches), [line for line, match in zip(rows, matches, strict=True) if not match]
    return [Row(*match.groups()) for match in matches if match]


def walk(root: Path, below: str = "") -> Iterator[str]:
    """Everything below ``root``, as relative paths; neither a clone's nor a staged tree's own content."""
    try:
        entries = list(os.scandir(root / below))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        path = f"{below}/{entry.name}".lstrip("/")
        yield path
        if entry.is_dir(follow_symlinks=False) and not re.fullmatch(
            r"[^/]+/clones/[^/]+|staging-[^/]+|[^/]+/retired-[^/]+", path
        ):
            yield from walk(root, path)


class Watch:
    """Looks at some directories again and again, and remembers every path that was ever there."""

    def __init__(self, roots: list[tuple[str, Path]]) -> None:
        self._roots = roots
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.seen: set[tuple[str, str]] = set()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.look()

    def look(self) -> set[tuple[str, str]]:
        found = {(name, path) for name, root in self._roots for path in walk(root)}
        self.seen |= found
        return found

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        self._thread.join()


@pytest.fixture(params=["btrfs", "directory", "reflink"])
def volume(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A volume's path in a directory where nothing else is."""
    if request.param == "btrfs":
        with LoopFilesystem("btrfs") as filesystem:
            os.mkdir(filesystem.path / "srv")
            assert os.system(f"btrfs -q subvolume create {filesystem.path}/srv/vol1") == 0  # noqa: S605 - our own path
            yield filesystem.path / "srv/vol1"
    else:  # never on a file system that other mount namespaces have: it could not be locked
        with LoopFilesystem("xfs" if request.param == "reflink" else "ext4") as filesystem:
            (filesystem.path / "srv/vol1").mkdir(parents=True)
            yield filesystem.path / "srv/vol1"


def undocumented(found: set[tuple[str, str]], rows: list[Row]) -> set[tuple[str, str]]:
    return {(root, path) for root, path in found if not any(row.root == root and row.matches(path) for row in rows)}


def test_every_path_that_appears_is_documented_and_what_is_for_a_run_goes(
    volume: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    driver = request.node.callspec.params["volume"]
    rows = documented()
    target = tmp_path / "target"
    target.mkdir()
    with Site(tmp_path / "site") as site:
        site.add_host("hosta")
        site.add_host("hostb")
        roots = [("state", site.state), *(("host", host.state) for host in site.hosts.values())]
        new_home = tmp_path / "new home"
        new_home.mkdir()
        roots += [
            ("area", volume.parent / ".voltool"),
            ("area", new_home / ".voltool"),
            ("target", target / ".voltool"),
        ]
        with Watch(roots) as watch:
            live_with(site, volume, target, driver)
            if not in_container():
                site.voltool("lock", "vol1")
                site.voltool("unlock", "vol1")
                site.voltool("move", "vol1", f"hostb:{new_home}/vol1", "--yes")
                subprocess.run(["chattr", "-i", str(volume)], check=False)
        left = watch.look()
        assert undocumented(watch.seen, rows) == set()
        passing = [row for row in rows if row.lasting == "run"]
        assert {
            (root, path) for root, path in left if any(row.root == root and row.matches(path) for row in passing)
        } == set()
        kept = [row for row in rows if row.lasting == "kept" and "clones" not in row.path]
        if in_container():
            kept = [row for row in kept if not re.search("move|lock|retired|root-record", row.path)]
        assert [
            row.path for row in kept if not any(row.root == root and row.matches(path) for root, path in left)
        ] == []
        assert_nothing_else(site, volume, target)


def live_with(site: Site, volume: Path, target: Path, driver: str) -> None:
    """What an administrator does in a week."""
    config = site.directory / "config.toml"
    config.write_text("min_free = 1.0\n")
    site.environment["VOLTOOL_CONFIG"] = str(config)
    for number in range(300):
        (volume / f"file{number}").write_bytes(os.urandom(20_000))
    (volume / "large").write_bytes(os.urandom(8 << 20))
    site.voltool("volume", "add", "vol1", f"hosta:{volume}", "--driver", driver)
    site.voltool("backup", "vol1")  # in no schedule, and the first: level 0
    for level in ("1", "2"):
        (volume / f"at-level-{level}").write_text(level)
        site.voltool("dump", "--level", level, "vol1")
    site.voltool("dumps")
    site.voltool("verify", "vol1")
    site.voltool("ls", "vol1")
    site.voltool("restore", "vol1", f"hostb:{target}/vol1")
    merged = site.result("merge", "vol1", "--replace")
    site.voltool("dumps", "--accept", merged["dump"]["id"])


def assert_nothing_else(site: Site, volume: Path, target: Path) -> None:
    """Beside the documented places there is nothing new."""
    assert {path.name for path in volume.parent.iterdir()} == {"vol1", ".voltool"}
    assert {path.name for path in target.iterdir()} <= {"vol1", ".voltool"}
    assert list(walk(site.home)) == []


@pytest.mark.parametrize("volume_is", ["there", "gone"])
def test_host_clean_leaves_nothing(tmp_path: Path, volume_is: str) -> None:
    volume = tmp_path / "srv/vol1"
    volume.mkdir(parents=True)
    (volume / "file").write_text("content")
    with Site(tmp_path / "site") as site:
        state = site.add_host("hosta").state
        site.voltool("volume", "add", "vol1", f"hosta:{volume}")
        site.voltool("dump", "vol1")
        site.voltool("volume", "remove", "vol1")
        if volume_is == "gone":
            shutil.rmtree(volume)
        site.voltool("host", "clean", "hosta")
        assert not (tmp_path / "srv/.voltool").exists()
        assert list(walk(state)) == []
