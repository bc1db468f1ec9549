"""Three hosts, each with a state directory of its own, whose agents are forks of the test; and administrators with catalogs."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.core.harness import ForkHosts, Recorder
from voltool.backup.dump import DumpOptions, dump_volume
from voltool.backup.ports import World
from voltool.backup.volumes import VolumeWish, add_volume
from voltool.catalog.sqlite import SqliteCatalog
from voltool.errors import UnreachableError
from voltool.events import Reporter
from voltool.model import StoredDump
from voltool.remote.follow import at_home
from voltool.remote.session import AgentSession
from voltool.replica.contact import Told, settle_homes, tell_former_homes
from voltool.replica.job import AddWish, add
from voltool.replica.pair import How, Pair, bring
from voltool.replica.promote import PromoteOutcome, PromoteWish, promote
from voltool.replica.sessions import ReplicaSettings
from voltool.replica.target import Target
from voltool.stores.opening import StoreOpener

SETTINGS = ReplicaSettings(workers=1)


@dataclass
class ManyHosts:
    """`Hosts` in ``directory``; who is in ``dead`` does not answer."""

    directory: Path
    reporter: Recorder
    dead: set[str] = field(default_factory=set)

    @contextlib.contextmanager
    def connect(self, host: str) -> Iterator[AgentSession]:
        """As of `ForkHosts`."""
        if host in self.dead:
            raise UnreachableError("the host cannot be reached", where=host)
        with ForkHosts(self.directory / host, self.reporter).connect(host) as agent:
            yield agent

    def apart(self, reporter: Reporter) -> ManyHosts:
        """Not in threads."""
        raise NotImplementedError


class Ground:
    """The volume ``vol`` on the host ``a``; ``paths``: where it, and its replicas, are on each host."""

    def __init__(self, directory: Path, paths: dict[str, Path]) -> None:
        self.directory = directory
        self.paths = paths
        self.dead: set[str] = set()
        self.boss = Administrator(self, "boss")
        if not paths["a"].exists():
            paths["a"].mkdir()
        for number in range(12):
            (paths["a"] / f"d{number % 3}").mkdir(exist_ok=True)
            (paths["a"] / f"d{number % 3}" / f"f{number}").write_bytes(os.urandom(2000))
        (paths["a"] / "large").write_bytes(os.urandom(2_500_000))
        wish = VolumeWish("vol", "a", os.fsencode(paths["a"]), "auto", ())
        add_volume(self.boss.world, wish)

    def contents(self, host: str) -> dict[str, bytes]:
        """All files there."""
        root = self.paths[host]
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def clear(self) -> None:
        """Let the file systems be unmounted."""
        self.boss.close()
        for path in self.paths.values():
            while subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True).returncode == 0:
                pass
            subprocess.run(["chattr", "-i", str(path)], check=False, capture_output=True)


class Administrator:
    """One with a catalog of his own; ``like``: a copy of whose."""

    def __init__(self, ground: Ground, name: str, like: Administrator | None = None) -> None:
        self._ground = ground
        self._path = ground.directory / f"{name}.sqlite"
        (ground.directory / "store").mkdir(parents=True, exist_ok=True)
        if like is not None:
            with sqlite3.connect(like._path) as source, sqlite3.connect(self._path) as copy:
                source.backup(copy)
        self.reporter = Recorder()
        self.catalog = SqliteCatalog(str(self._path))
        hosts = ManyHosts(ground.directory, self.reporter, ground.dead)
        self.world = World(hosts, StoreOpener(0.0), self.catalog, self.reporter, name)

    def close(self) -> None:
        """Close the catalog."""
        self.catalog.close()

    def add(self, host: str) -> None:
        """`voltool replica add`."""
        add(self.world, AddWish("vol", host, os.fsencode(self._ground.paths[host])), SETTINGS)

    def sync(self, host: str) -> None:
        """`voltool replica sync vol HOST`."""
        volume = self.catalog.volume("vol")
        known = next(row for row in self.catalog.replicas(volume.uuid) if row.host == host)
        with Pair() as pair:
            bring(self.world, Target(volume, known), How(SETTINGS), pair)

    def promote(self, host: str, *, force: bool = True) -> PromoteOutcome:
        """`voltool replica promote`."""
        return promote(self.world, PromoteWish("vol", host, force, lock_timeout=0))

    def tell(self) -> list[Told]:
        """What commands do that make contact."""
        return tell_former_homes(self.world, self.catalog.volume("vol"))

    def settle(self, *also: str) -> list[Told]:
        """What they do where a host says something else than the catalog."""
        return settle_homes(self.world, self.catalog.volume("vol"), also)

    def dump(self, level: int = 0) -> StoredDump:
        """`voltool dump`."""
        options = DumpOptions(level=level, store=str(self._ground.directory / "store"), min_free_percent=0.0, workers=1)
        dumped = at_home(
            self.world, self.catalog.volume("vol"), lambda volume: dump_volume(self.world, volume, options)
        )
        assert dumped.dump is not None
        return dumped.dump

    def home(self) -> str:
        """Where he takes the volume to be."""
        return self.catalog.volume("vol").host
