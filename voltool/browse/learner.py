"""Fills the index of names out of stores: after a dump, and whatever `find` finds missing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from voltool.backup.ports import World
from voltool.browse.index import Comparison, NameIndex
from voltool.catalog.database import DamagedError
from voltool.dumpfile.reader import DumpReader
from voltool.errors import BusyError, IntegrityError, NotFoundError, SpaceError, VoltoolError
from voltool.events import Notice, PhaseEnded, PhaseStarted, Progressed
from voltool.model import StoredDump
from voltool.policy.chain import chain_of

#: How many dumps a warning names.
_NAMED = 5


class NameLearner:
    """Takes dumps into the index in ``path``; `nightly.ports.Learner`, for several threads too. Opens it when it is first needed;
    `close` it."""

    def __init__(self, world: World, path: str, catalog_path: str) -> None:
        self._world = world
        self._path = path
        self._catalog_path = catalog_path
        self._opened: NameIndex | None = None
        # Volumes are dumped side by side, and what one of them makes anew must not be in use by another one.
        self._lock = threading.RLock()

    def __call__(self, dump: StoredDump) -> None:
        """Take ``dump`` in, and first what it rests on. Raises VoltoolError; the dump is safe all the same."""
        with self._lock:
            try:
                self._learn(dump)
            except DamagedError:
                self.replace_index()
                self._learn(dump)

    def close(self) -> None:
        """Idempotent."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @property
    def index(self) -> NameIndex:
        """The index."""
        if self._opened is None:
            self._opened = NameIndex(self._path, self._catalog_path)
        return self._opened

    def replace_index(self) -> None:
        """The index is damaged: begin an empty one, and say so."""
        message = f"the index of names was damaged, and is made anew from the stores: {self._path}"
        self._world.reporter.report(Notice("warning", message))
        self.index.replace()

    def _learn(self, dump: StoredDump) -> None:
        if self.index.knows(dump.header.dump_id):
            return
        known = self._world.catalog.dumps(dump.header.volume_uuid)
        for part in chain_of(dump, known):
            self.index.learn(part, lambda part=part: _records(self._world, part))  # type: ignore[misc]
        self._sweep(self.index.compare(dump.header.volume_uuid))

    # ------------------------------------------------------------------------------------------------ catching up

    def catch_up(self, volume_uuid: str | None = None) -> Comparison:
        """Take in what the catalog knows and the index does not, of all volumes or of one; what is gone since then.

        What cannot be read is a warning.
        """
        comparison = self.index.compare(volume_uuid)
        if not comparison.unlearned:
            return comparison
        failures = _Failures()
        reporter = self._world.reporter
        reporter.report(PhaseStarted("names", "index", 0, 0))
        learned = 0
        for uuid in comparison.unlearned:
            for dump in self._world.catalog.dumps(uuid):
                if failures.stands_in_the_way(dump) or self.index.knows(dump.header.dump_id):
                    continue
                try:
                    self.index.learn(dump, lambda dump=dump: _records(self._world, dump))  # type: ignore[misc]
                except DamagedError:
                    raise
                except VoltoolError as error:
                    if error.where == self._path:  # the index itself: full, or in use; what it has can be searched
                        return self._give_up(error, comparison)
                    failures.add(dump, error)
                else:
                    learned += 1
                    reporter.report(Progressed("names", "index", 0, learned))
        reporter.report(PhaseEnded("names", "index"))
        for message in failures.messages():
            reporter.report(Notice("warning", message))
        after = self.index.compare(volume_uuid)
        self._sweep(after)
        return after

    def _sweep(self, comparison: Comparison) -> None:
        """Another time will do, where there is no room or somebody else writes."""
        with contextlib.suppress(SpaceError, BusyError):
            self.index.sweep(comparison.gone)

    def _give_up(self, error: VoltoolError, comparison: Comparison) -> Comparison:
        self._world.reporter.report(PhaseEnded("names", "index"))
        message = f"what the index of names lacks is not searched: {error.what}: {error.why}"
        self._world.reporter.report(Notice("warning", message))
        return comparison


class _Failures:
    """What could not be read: a store once, not once for each of its dumps."""

    def __init__(self) -> None:
        self._stores: dict[str, VoltoolError] = {}
        self._dumps: list[tuple[StoredDump, VoltoolError]] = []

    def add(self, dump: StoredDump, error: VoltoolError) -> None:
        if isinstance(error, IntegrityError | NotFoundError):
            self._dumps.append((dump, error))
        else:
            self._stores[dump.store] = error

    def stands_in_the_way(self, dump: StoredDump) -> bool:
        return dump.store in self._stores

    def messages(self) -> Iterator[str]:
        for url, error in self._stores.items():
            yield f"the store {url} cannot be looked at, and its dumps not be searched: {error.why or error.what}"
        for dump, error in self._dumps[:_NAMED]:
            why = f": {error.why}" if error.why else ""
            yield f"the dump {dump.header.dump_id[:12]} of {dump.header.volume_name} cannot be searched: {error.what}{why}"
        if len(self._dumps) > _NAMED:
            yield f"{len(self._dumps) - _NAMED} more dumps cannot be searched either: voltool verify tells why"


@contextlib.contextmanager
def _records(world: World, dump: StoredDump) -> Iterator[DumpReader]:
    """A dump's records, while it is kept from being removed."""
    store = world.stores.open(dump.store)
    with store.pin(dump.file, "reading its names"):
        source = store.open(dump.file)
        try:
            reader = DumpReader(source, f"{dump.store}/{dump.file}")
            if (reader.header.dump_id, reader.state_id) != (dump.header.dump_id, dump.totals.state_id):
                raise IntegrityError(
                    "a dump is not the one it should be",
                    where=reader.name,
                    why="its id or its state is another than the catalog remembers: the file was replaced",
                    remedy="another copy of this dump",
                )
            yield reader
        finally:
            source.close()
