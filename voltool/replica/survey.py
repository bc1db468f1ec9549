"""What the hosts say of replicas now: all are asked at once, and none is waited for long."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from voltool.errors import UnreachableError, VoltoolError
from voltool.events import Silent
from voltool.model import LAZY, SERVING, KnownReplica, KnownVolume
from voltool.policy.replicas import REPLICA, ReplicaStanding, filling_home, standing_of
from voltool.replica.contact import settle_homes
from voltool.replica.ports import Hosts, World
from voltool.replica.ways import Ways
from voltool.wire import messages
from voltool.wire.conversation import expect
from voltool.wire.replicas import ListReplicas, ReplicasReply, ReplicaStatus

#: So long (seconds) is waited for the hosts' answers.
PATIENCE = 15.0


_NOTHING = ReplicasReply((), ())


@dataclass(frozen=True)
class Answer:
    """What a host said: of replicas, of what it keeps for others, and the sequences of its volumes (by uuid); or ``error``."""

    reply: ReplicasReply = _NOTHING
    sequences: Mapping[str, int] = dataclasses.field(default_factory=dict)
    error: VoltoolError | None = None


def ask(hosts: Hosts, names: Iterable[str], patience: float = PATIENCE) -> dict[str, Answer]:
    """Ask all at once. One that has not answered after ``patience`` seconds has an error, as one that cannot be reached."""
    wanted = list(dict.fromkeys(names))
    answers: queue.SimpleQueue[tuple[str, Answer]] = queue.SimpleQueue()
    ways = {name: Ways(hosts, Silent()) for name in wanted}
    for name in wanted:
        threading.Thread(target=_ask, args=(ways[name], name, answers), name=f"voltool-ask-{name}", daemon=True).start()
    found: dict[str, Answer] = {}
    deadline = time.monotonic() + patience
    while len(found) < len(wanted):
        try:
            name, answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        found[name] = answer
    late = UnreachableError("the host does not answer", why=f"no answer within {patience:g} s")
    for name in wanted:
        if name not in found:
            ways[name].end(late)
            found[name] = Answer(error=late)
    return found


def _ask(ways: Ways, host: str, answers: queue.SimpleQueue[tuple[str, Answer]]) -> None:
    try:
        with ways.connect(host) as agent:
            agent.send(ListReplicas())
            reply = expect(agent, ReplicasReply)
            agent.send(messages.ListVolumes())
            records = expect(agent, messages.VolumesReply).records
        answers.put((host, Answer(reply, {record.uuid: record.sequence for record in records})))
    except VoltoolError as error:
        answers.put((host, Answer(error=error)))
    except Exception as error:  # noqa: BLE001 - a thread must answer, whatever happened
        answers.put((host, Answer(error=VoltoolError("something unforeseen happened", why=repr(error)))))


def survey(
    world: World,
    volumes: Sequence[KnownVolume],
    max_lag: Callable[[str], int | None],
    now_ns: Callable[[], int] = time.time_ns,
    *,
    moved: Collection[str] = (),
) -> list[ReplicaStanding]:
    """How the replicas of ``volumes`` stand, as their hosts say; the catalog learns it. Of a host that cannot be asked: what was
    seen last. And their homes that lazy moves are still filling: of those with replicas, and of those ``moved`` (uuids)."""
    known = {volume.uuid: world.catalog.replicas(volume.uuid) for volume in volumes}
    wanted = [volume.host for volume in volumes if known[volume.uuid] or volume.uuid in moved]
    wanted += [replica.host for replicas in known.values() for replica in replicas]
    answers = ask(world.hosts, wanted)
    for volume in volumes:
        rows = known[volume.uuid]
        promoted = [row for row in rows if row.host != volume.host and volume.uuid in answers[row.host].sequences]
        if promoted:  # by somebody else, and this catalog has not seen it
            settle_homes(world, volume, [row.host for row in promoted])
            known[volume.uuid] = [row for row in rows if row not in promoted]
    now = now_ns()
    found = list[ReplicaStanding]()
    for volume in volumes:
        found += _filling(volume, answers.get(volume.host, Answer()), now)
        for replica in known[volume.uuid]:
            standing = _standing(volume, replica, answers, now, max_lag(volume.name))
            if standing.known != replica:
                with contextlib.suppress(VoltoolError):  # a catalog that cannot be written to still answers
                    world.catalog.put_replica(_to_remember(replica, standing.known))
            found.append(standing)
    return found


def _filling(volume: KnownVolume, home: Answer, now_ns: int) -> Iterator[ReplicaStanding]:
    for each in home.reply.filling:
        if each.uuid == volume.uuid:
            row = KnownReplica(
                each.move_id,
                each.uuid,
                volume.host,
                each.path,
                missing_bytes=each.missing_bytes,
                checked_ns=now_ns,
            )
            dead = () if each.running else ("the process that fetches does not run",)
            yield filling_home(volume.name, row, each.faults or dead, each.way)


def _to_remember(before: KnownReplica, now: KnownReplica) -> KnownReplica:
    """One that has become full is remembered as lazy until a sync has told those that served it to stop."""
    return dataclasses.replace(now, phase=LAZY) if (before.phase, now.phase) == (LAZY, SERVING) else now


def _standing(
    volume: KnownVolume, replica: KnownReplica, answers: Mapping[str, Answer], now_ns: int, max_lag: int | None
) -> ReplicaStanding:
    home, there = answers[volume.host], answers[replica.host]
    if replica.role == REPLICA and home.error is None:
        sequence = max(replica.home_sequence, home.sequences.get(volume.uuid, 0))
        replica = dataclasses.replace(replica, home_sequence=sequence)
    if there.error is not None:
        standing = standing_of(volume.name, replica, now_ns, max_lag)
        return dataclasses.replace(standing, silent=there.error.why or there.error.what)
    if replica.role != REPLICA:
        return standing_of(volume.name, dataclasses.replace(replica, checked_ns=now_ns), now_ns, max_lag)
    status = next((each for each in there.reply.replicas if each.replica.uuid == volume.uuid), None)
    if status is None or status.replica.replica_id != replica.replica_id:
        return dataclasses.replace(standing_of(volume.name, replica, now_ns, max_lag), faults=(_strange(status),))
    seen = seen_now(replica, status, now_ns)
    faults = status.faults or (() if status.running else ("what must run for it there does not",))
    return dataclasses.replace(standing_of(volume.name, seen, now_ns, max_lag), faults=faults, way=status.way)


def _strange(status: ReplicaStatus | None) -> str:
    if status is None:
        return "its host has no replica of the volume"
    return "its host has another replica of the volume, which somebody else added there"


def seen_now(known: KnownReplica, status: ReplicaStatus, now_ns: int) -> KnownReplica:
    """What the catalog shall remember of a replica, by what its host says."""
    record = status.replica
    return dataclasses.replace(
        known,
        path=record.path,
        phase=record.phase,
        sequence=record.sequence,
        clone_time_ns=record.clone_time_ns,
        home_sequence=max(known.home_sequence, record.sequence),
        missing_bytes=status.missing_bytes,
        checked_ns=now_ns,
    )
