"""The prune job: retention decides, the store's bin takes what goes, and what has been there for the grace period is removed.

Two steps, so that a wrong rule, a wrong clock or a mistake loses nothing at once: `undelete` brings back what was dropped. What
goes is decided on what lies in the store now, not on what the catalog remembers. Dropping is a rename: it works on a full disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from voltool.backup.keeping import Keeping
from voltool.backup.marks import Marks, note_judged, read_marks
from voltool.backup.ports import World
from voltool.backup.shelf import Discarded, Shelf, Spared, bin_of
from voltool.errors import VoltoolError
from voltool.events import Notice
from voltool.model import StoredDump
from voltool.policy.retention import Circumstances, Decision, decide
from voltool.policy.suspicion import Suspicion, in_words, suspicious
from voltool.stores.contract import Store
from voltool.stores.naming import parse_name

_SECOND = 1_000_000_000
#: A clock that is so far ahead of everything in a store is not believed: nothing is purged by it.
_BELIEVED = 30 * 86_400 * _SECOND


@dataclass(frozen=True)
class PruneOutcome:
    """One volume: ``decisions`` on all its dumps; ``dropped``: those that lie in the bin now; ``spared``: those that should go
    and could not; ``alarms``: why nothing goes."""

    volume: str
    decisions: tuple[Decision, ...]
    dropped: tuple[StoredDump, ...] = ()
    spared: tuple[Spared, ...] = ()
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True)
class PurgeOutcome:
    """Stores' bins: what was ``purged`` (or would be), and what still ``waits`` there; ``faults`` in words."""

    purged: tuple[Discarded, ...] = ()
    waiting: tuple[Discarded, ...] = ()
    faults: tuple[str, ...] = ()


def shelves_of(world: World, uuid: str, known: Sequence[StoredDump]) -> list[Shelf]:
    """The volume's dumps in each store that has some, what a prune that was cut off left there mended."""
    urls = dict.fromkeys(dump.store for dump in known if dump.header.volume_uuid == uuid)
    shelves = []
    for url in urls:
        try:
            shelf = Shelf(world, world.stores.open(url), uuid, known)
            shelf.mend()
        except VoltoolError as error:
            world.reporter.report(Notice("warning", f"the store {url} cannot be looked at: {error.why or error.what}"))
        else:
            shelves.append(shelf)
    return shelves


def find_suspicious(world: World, shelves: Sequence[Shelf], keeping: Keeping) -> list[Suspicion]:
    """The volume's suspicious dumps that nobody has accepted, each store for itself."""
    accepted = world.catalog.accepted()
    found: list[Suspicion] = []
    for shelf in shelves:
        marks = read_marks(shelf.store)
        judged = marks.judged.get(shelf.dumps[0].header.volume_uuid, -1) if shelf.dumps else -1
        found += suspicious(shelf.dumps, keeping.factor, {*accepted, *marks.accepted}, judged)
    if shelves:
        with contextlib.suppress(VoltoolError):  # for `status` alone
            whys = {suspicion.dump.header.dump_id: suspicion.why for suspicion in found}
            world.catalog.put_suspicious(shelves[0].uuid, whys)
    return found


def prune_volume(
    world: World, uuid: str, known: Sequence[StoredDump], keeping: Keeping, now_ns: int, *, dry_run: bool = False
) -> PruneOutcome:
    """Drop what the rules let go of the volume. ``known``: its dumps as the catalog has them. Idempotent."""
    shelves = shelves_of(world, uuid, known)
    suspicions = find_suspicious(world, shelves, keeping)
    decisions: list[Decision] = []
    dropped: list[StoredDump] = []
    spared: list[Spared] = []
    for shelf in shelves:
        about = circumstances(shelf.store, keeping, now_ns, suspicions)
        decided = decide(shelf.dumps, keeping.rules, about)
        decisions += decided
        going = [decision.dump for decision in decided if not decision.keep]
        if going and not dry_run:
            with contextlib.suppress(VoltoolError):  # it costs an alarm later, and this may be what makes room
                note_judged(shelf.store, uuid, max(dump.header.sequence for dump in shelf.dumps))
            gone, stayed = shelf.drop(going)
            dropped += gone
            spared += stayed
    names = [decision.dump.header.volume_name for decision in decisions]
    return PruneOutcome(
        volume=names[-1] if names else "",
        decisions=tuple(decisions),
        dropped=tuple(dropped),
        spared=tuple(spared),
        alarms=tuple(in_words(suspicion) for suspicion in suspicions),
    )


def circumstances(store: Store, keeping: Keeping, now_ns: int, suspicions: Sequence[Suspicion]) -> Circumstances:
    """What `decide` is told of a volume's dumps in ``store``."""
    frozen = ""
    if suspicions:
        ids = ", ".join(suspicion.dump.header.dump_id[:12] for suspicion in suspicions)
        frozen = f"the volume has a suspicious dump ({ids}), and nothing goes until that is accepted"
    return Circumstances(
        now_ns=now_ns,
        zone=keeping.zone,
        made_ns=made_ns,
        held=_held(read_marks(store), keeping.grace, now_ns),
        frozen=frozen,
    )


def made_ns(dump: StoredDump) -> int:
    """When the dump was made by the CLI's clock, which its file is named after; its own time is its host's."""
    name = parse_name(dump.file)
    return dump.header.clone_time_ns if name is None else name.time * _SECOND


def _held(marks: Marks, grace: int, now_ns: int) -> dict[str, str]:
    why = "somebody has undeleted it, and may want it for as long as the grace period"
    return {dump_id: why for dump_id, at in marks.undeleted.items() if at > now_ns - grace * _SECOND}


def purge_expired(
    world: World,
    known: Sequence[StoredDump],
    grace_of: Callable[[str], int],
    now_ns: int,
    *,
    urls: Iterable[str] = (),
    only: Collection[str] | None = None,
    spare: Collection[str] = (),
    at_once: bool = False,
    dry_run: bool = False,
) -> PurgeOutcome:
    """Remove for good what has been in the bins of stores for longer than its volume's grace period (``grace_of`` its name, s).

    ``known``: the dumps that tell which stores these are, and what time it must be. ``urls``: further stores. ``only``: of the
    volumes of these names; ``spare``: not of these; ``at_once``: whatever the grace period says.
    """
    purged: list[Discarded] = []
    waiting: list[Discarded] = []
    faults: list[str] = []
    for url in dict.fromkeys([*urls, *(dump.store for dump in known)]):
        store = world.stores.open(url)
        try:
            binned = [each for each in bin_of(store, only) if each.name.volume not in spare]
            believed = at_once or not binned or now_ns - _latest_sign(known, store, binned, now_ns) <= _BELIEVED
            if not believed:
                faults.append(_not_believed(url))
            for each in binned:
                old = at_once or each.since_ns + grace_of(each.name.volume) * _SECOND <= now_ns
                if not (old and believed):
                    waiting.append(each)
                    continue
                if not dry_run:
                    store.purge(each.file)
                purged.append(each)
        except VoltoolError as error:
            faults.append(f"the bin of {url}: {error}")
    return PurgeOutcome(tuple(purged), tuple(waiting), tuple(faults))


def names_of(dumps: Iterable[StoredDump]) -> set[str]:
    """The names that the dumps' files are under: those that their volume has, or had."""
    return {name.volume for dump in dumps if (name := parse_name(dump.file)) is not None}


def _latest_sign(known: Iterable[StoredDump], store: Store, binned: Sequence[Discarded], now_ns: int) -> int:
    """The latest time that something in the store shows, the future left out."""
    times = [each.since_ns for each in binned]
    for dump in known:
        if dump.store == store.url:
            times += [dump.header.clone_time_ns, made_ns(dump)]
    return max((time for time in times if time <= now_ns), default=0)


def _not_believed(url: str) -> str:
    return (
        f"nothing is purged from {url}: this machine's clock is more than 30 days ahead of everything in that store, so it may be"
        " wrong. Try: date, to see whether it is; voltool prune --purge-now if it is right"
    )
