"""Contact with hosts that may not know who the volume's home is: they are asked, told, and the catalog follows.

A promotion by force leaves an old home that takes writes until somebody tells it; two of them leave two homes. Whoever has
the lower epoch retires his copy, equal ones are a split, and nothing is merged (`agent.replica.hearing`).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from voltool.errors import AgentError, NotFoundError, VoltoolError
from voltool.events import Notice
from voltool.model import NO_HOOKS, Hooks, KnownReplica, KnownVolume, Peer
from voltool.policy.homes import Claim, Verdict, judge, pointers
from voltool.policy.replicas import FORMER
from voltool.replica.ports import World
from voltool.showing import shown
from voltool.wire import messages, replicas
from voltool.wire.conversation import Conversation, expect

#: So many hosts that others point to are asked.
_MOST = 16
#: How many paths a notice names.
_NAMED = 5
UNREACHED = "unreached"


@dataclass(frozen=True)
class TellSettings:
    """``hooks``: those of the volume, ``before_lock`` stops who writes to an old home; ``timeout``: how long to wait for
    who still writes there, seconds."""

    hooks: Hooks = NO_HOOKS
    timeout: int = 10


@dataclass(frozen=True)
class Told:
    """What became of telling ``host``: ``outcome`` of `EpochHeard`, or ``unreached`` with ``why`` (it will be told at the next
    contact). ``aside``: what only its retired copy has."""

    host: str
    outcome: str
    home: str = ""
    aside: tuple[bytes, ...] = ()
    aside_count: int = 0
    aside_place: bytes = b""
    why: str = ""


def tell_former_homes(world: World, volume: KnownVolume, settings: TellSettings | None = None) -> list[Told]:
    """Tell the homes that a promotion has replaced without their knowledge; nothing is asked where the catalog has none.
    What is found out is reported. Never fails: what cannot be reached is told at the next contact."""
    if not any(row.role == FORMER for row in world.catalog.replicas(volume.uuid)):
        return []
    return settle_homes(world, volume, settings=settings)


def settle_homes(
    world: World, volume: KnownVolume, also: Iterable[str] = (), settings: TellSettings | None = None
) -> list[Told]:
    """Find out who is the volume's home among its host in the catalog, former ones, those in ``also`` and whoever these
    point to; tell all others, and let the catalog know. Never fails for what a host says."""
    formers = [row.host for row in world.catalog.replicas(volume.uuid) if row.role == FORMER]
    claims, silent = ask_all(world, volume, [volume.host, *formers, *also])
    told = _act(world, volume, judge(claims), settings or TellSettings())
    told += [Told(host, UNREACHED, why=why) for host, why in silent.items() if host in formers]
    _remember(world, volume, claims, told)
    for each in told:
        _report(world, volume, each)
    return told


def ask_all(world: World, volume: KnownVolume, hosts: Iterable[str]) -> tuple[list[Claim], dict[str, str]]:
    """What the volume is to each of the hosts, and to those that they point to; and why some did not answer."""
    claims: list[Claim] = []
    silent: dict[str, str] = {}
    waiting = list(dict.fromkeys(hosts))
    while waiting and len(claims) + len(silent) < _MOST:
        host = waiting.pop(0)
        try:
            claims.append(ask(world, volume, host))
        except VoltoolError as error:
            silent[host] = f"{error.what}: {error.why}" if error.why else error.what
        waiting += [host for host in pointers(claims) if host not in waiting and host not in silent]
    return _each_once(claims), silent


def ask(world: World, volume: KnownVolume, host: str) -> Claim:
    """What the volume is to ``host``. Raises UnreachableError, HostError, AgentError."""
    with world.hosts.connect(host) as agent:
        agent.send(replicas.ShowStanding(volume.uuid))
        standing = expect(agent, replicas.Standing)
        return Claim(host, agent.agent.machine_id, agent.agent.hostname, standing)


def _each_once(claims: list[Claim]) -> list[Claim]:
    """One machine may be known by two names."""
    found: dict[tuple[str, bytes], Claim] = {}
    for claim in claims:
        found.setdefault((claim.machine_id or claim.host, claim.standing.path), claim)
    return list(found.values())


def _act(world: World, volume: KnownVolume, verdict: Verdict, settings: TellSettings) -> list[Told]:
    told = []
    home = verdict.winner or next(iter(verdict.split), None)
    if home is not None:  # also where two are later than it: it is the home in no case
        told += [_tell(world, volume, loser, home, settings) for loser in verdict.losers]
    for claim in verdict.split:
        other = next(each for each in verdict.split if each is not claim)
        told.append(_tell(world, volume, claim, other, settings))
    return told


def _tell(world: World, volume: KnownVolume, hearer: Claim, home: Claim, settings: TellSettings) -> Told:
    place = f"{home.host}:{shown(home.standing.path)}"
    epoch = home.standing.epoch
    assert epoch is not None
    request = replicas.HearEpoch(
        uuid=volume.uuid,
        epoch=epoch,
        home=Peer(home.host, home.machine_id, home.hostname, home.standing.path),
        state_id=home.standing.began_with,
        owner=world.caller,
        timeout=settings.timeout,
        hooks=settings.hooks,
    )
    try:
        with world.hosts.connect(hearer.host) as agent:
            agent.send(request)
            heard = _answer(world, volume, home, agent)
    except VoltoolError as error:
        return Told(hearer.host, UNREACHED, place, why=str(error))
    return Told(hearer.host, heard.outcome, place, heard.aside, heard.aside_count, heard.aside_place)


def _answer(world: World, volume: KnownVolume, home: Claim, agent: Conversation) -> replicas.EpochHeard:
    received = agent.receive()
    if isinstance(received, messages.NeedManifest):
        with contextlib.suppress(NotFoundError):
            for part in _manifest(world, volume, home, received):
                agent.send_data(part)
        agent.send(messages.EndOfData())
        received = agent.receive()
    if not isinstance(received, replicas.EpochHeard):
        raise AgentError("the agent gave an answer that does not belong to the question", why=type(received).__name__)
    return received


def _manifest(world: World, volume: KnownVolume, home: Claim, wanted: messages.NeedManifest) -> Iterator[bytes]:
    """The state's manifest from the new home. NotFoundError where it has none."""
    with world.hosts.connect(home.host) as there:
        there.send(replicas.SendBeginning(volume.uuid, wanted.state_id))
        while isinstance(received := there.receive(), bytes):
            yield received
        if not isinstance(received, messages.EndOfData):
            raise AgentError("the manifest did not come", why=type(received).__name__)


def _remember(world: World, volume: KnownVolume, claims: list[Claim], told: list[Told]) -> None:
    """The catalog has the home, and those that still have to hear of it."""
    verdict = judge(claims)
    settled = {each.host for each in told if each.outcome in (replicas.RETIRED_NOW, replicas.KNOWN, replicas.NOTHING)}
    settled |= {claim.host for claim in claims if claim.standing.standing in (replicas.AWAY, replicas.NOTHING)}
    settled |= {verdict.winner.host} if verdict.winner is not None else set()
    for row in world.catalog.replicas(volume.uuid):
        if row.role == FORMER and row.host in settled:
            world.catalog.remove_replica(row.replica_id)
    for each in verdict.split:
        if each.host != volume.host:
            world.catalog.put_replica(_split_row(volume, each))
    if verdict.winner is not None:
        _remember_home(world, volume, verdict.winner)
        for loser in verdict.losers:
            if loser.host not in settled:
                world.catalog.put_replica(former_home(volume, loser, verdict.winner))


def _remember_home(world: World, volume: KnownVolume, winner: Claim) -> None:
    if winner.host == volume.host:
        return
    world.catalog.put_volume(at_home_of(volume, winner))
    for row in world.catalog.replicas(volume.uuid):
        if row.host == winner.host:
            world.catalog.remove_replica(row.replica_id)


def at_home_of(volume: KnownVolume, home: Claim) -> KnownVolume:
    """The volume as the catalog knows it with that home."""
    local = home.host == "local"
    return dataclasses.replace(
        volume,
        host=home.host,
        path=home.standing.path,
        hostname=home.hostname if local else "",
        machine_id=home.machine_id if local else "",
    )


def former_home(volume: KnownVolume, loser: Claim, winner: Claim) -> KnownReplica:
    """The row that says that ``loser`` has to hear of ``winner``."""
    assert winner.standing.epoch is not None
    return former_row(volume, loser.host, loser.standing.path, winner.standing.epoch.number)


def former_row(volume: KnownVolume, host: str, path: bytes, epoch: int) -> KnownReplica:
    """The row of a home that has to hear of the one with ``epoch``."""
    return KnownReplica(f"former {volume.uuid} {host}", volume.uuid, host, path, FORMER, phase="", epoch=epoch)


def _split_row(volume: KnownVolume, claim: Claim) -> KnownReplica:
    assert claim.standing.epoch is not None
    number = claim.standing.epoch.number
    row = former_row(volume, claim.host, claim.standing.path, number)
    return dataclasses.replace(
        row, fault=f"split: it is a home with epoch {number} too; both are read-only until you choose one"
    )


def _report(world: World, volume: KnownVolume, told: Told) -> None:
    for kind, text in in_words(volume.name, told):
        world.reporter.report(Notice(kind, f"{volume.name}: {text}"))


def in_words(volume: str, told: Told) -> list[tuple[str, str]]:
    """What a person has to know of it: kinds of notices, and texts."""
    host = told.host
    if told.outcome == UNREACHED:
        return [("warning", f"{host} accepts writes as an old home until it is contacted; this time: {told.why}")]
    if told.outcome == replicas.SPLIT:
        text = (
            f"split: {host} and {told.home} are its home with the same epoch; both are read-only until you choose one"
        )
        return [("warning", f"{text} of them: voltool replica promote {volume} HOST --force")]
    if told.outcome != replicas.RETIRED_NOW:
        return []
    said = [("info", f"{host} has heard that the volume lives at {told.home}, and retired its copy")]
    if told.aside_count < 0:
        said.append(("warning", f"nobody knows what was written at {host} meanwhile: all is kept at {place_of(told)}"))
    elif told.aside_count:
        named = ", ".join(shown(path) for path in told.aside[:_NAMED])
        more = f" and {told.aside_count - _NAMED} more" if told.aside_count > _NAMED else ""
        count = "1 path was" if told.aside_count == 1 else f"{told.aside_count} paths were"
        said.append(("warning", f"{count} written at {host} meanwhile, kept at {place_of(told)}: {named}{more}"))
    return said


def place_of(told: Told) -> str:
    """Where the retired copy is."""
    return f"{told.host}:{shown(told.aside_place)}"
