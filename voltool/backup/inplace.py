"""The restore in place: a directory that stands is brought to a dump's state, once the user has seen what that would do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from voltool.backup.chains import OpenedChain, open_chain
from voltool.backup.manifest import wanted_manifest
from voltool.backup.paths import resolve_paths
from voltool.backup.ports import World
from voltool.backup.restore import digest_of, send_stream
from voltool.dumpfile.bitmap import Bitmap
from voltool.dumpfile.chain import Chain
from voltool.dumpfile.compose import compose, cut_chunks
from voltool.dumpfile.merge import Merge
from voltool.dumpfile.plan import MergePlan
from voltool.dumpfile.selection import NumberSelection, Selection
from voltool.errors import EXIT_DONE, EXIT_PARTIAL, AgentError, RefusedError, UsageError
from voltool.machine import this_machine
from voltool.model import FileProblem, StoredDump
from voltool.showing import shown
from voltool.tree.inplace.patch import PIECE
from voltool.wire.conversation import IntroducedConversation
from voltool.wire.messages import Done, EndOfData, InPlacePlan, InPlaceReply, PlannedNames, Proceed, StartInPlace
from voltool.wire.numbers import SIZE, decode_numbers


@dataclass(frozen=True)
class PlannedRestore:
    """What a restore in place would do: the counts, and of each kind of change some names."""

    plan: InPlacePlan
    names: dict[str, list[bytes]]

    @property
    def anything(self) -> bool:
        """Whether there is anything to do."""
        plan = self.plan
        return bool(plan.created or plan.written or plan.changed or plan.linked or plan.deleted)


@dataclass(frozen=True)
class InPlaceWish:
    """How: ``only`` as of `restore`; ``delete``: what the dump does not have goes; ``limit``: how many names of a kind are told;
    ``dry_run``: they are told, and nothing is done. ``bandwidth`` in bytes/s, 0: unlimited."""

    only: tuple[bytes, ...] = ()
    delete: bool = False
    dry_run: bool = False
    numeric_owner: bool = False
    workers: int = 0
    bandwidth: int = 0
    limit: int = 10


@dataclass(frozen=True)
class InPlaceOutcome:
    """``done`` is false where it was only shown, or not wanted. ``exit_code`` 3: not all is as in the dump (``problems``)."""

    dump_ids: tuple[str, ...]
    target: str
    planned: PlannedRestore
    done: bool
    seconds: float
    problems: tuple[FileProblem, ...]
    exit_code: int


def restore_in_place(
    world: World,
    dump: StoredDump,
    target_host: str,
    target_path: bytes,
    wish: InPlaceWish,
    confirm: Callable[[PlannedRestore], bool],
) -> InPlaceOutcome:
    """Bring ``target_path`` to the state of ``dump``; an interrupted one goes on. ``confirm`` is shown the plan and asked.

    Raises RefusedError, SpaceError, IntegrityError before anything is touched; NotFoundError for a path that is not in the dump.
    """
    if not target_path.startswith(b"/"):
        raise UsageError("the target must be an absolute path", why=os.fsdecode(target_path))
    began = time.monotonic()
    with open_chain(world, dump, "restoring it") as opened, world.hosts.connect(target_host) as agent:
        _refuse_stores(world, opened, agent, target_path)
        paths = resolve_paths(opened.chain, wish.only)
        selection = Selection(opened.chain, paths) if wish.only else None
        agent.send(_request(dump, opened, target_path, wish, paths, selection))
        for data in wanted_manifest(opened.chain, selection):
            agent.send_data(data)
        agent.send(EndOfData())
        planned, needed, chunks = _receive_plan(agent)
        problems: tuple[FileProblem, ...] = ()
        done = not wish.dry_run and (not planned.anything or confirm(planned))
        if done:
            problems = _carry_out(agent, opened, planned.plan, needed, chunks)
        else:
            if wish.dry_run:
                confirm(planned)
            else:
                agent.send(EndOfData())
            _expect_done(agent)
    return InPlaceOutcome(
        dump_ids=opened.dump_ids,
        target=f"{target_host}:{os.fsdecode(target_path)}",
        planned=planned,
        done=done,
        seconds=time.monotonic() - began,
        problems=problems,
        exit_code=EXIT_PARTIAL if problems else EXIT_DONE,
    )


def _request(
    dump: StoredDump,
    opened: OpenedChain,
    target: bytes,
    wish: InPlaceWish,
    paths: Sequence[Sequence[bytes]],
    selection: Selection | None,
) -> StartInPlace:
    state_id = opened.chain.totals.state_id
    if selection is not None:
        state_id = MergePlan(opened.chain, 0, selection).state_id
    return StartInPlace(
        target=target,
        volume_uuid=dump.header.volume_uuid,
        state_id=state_id,
        selection=f"{digest_of(paths) if wish.only else ''} {wish.numeric_owner}",
        only=tuple(b"/".join(path) for path in paths),
        excludes=dump.header.excludes,
        delete=wish.delete,
        numeric_owner=wish.numeric_owner,
        dry_run=wish.dry_run,
        workers=wish.workers,
        bandwidth=wish.bandwidth,
        limit=wish.limit,
        volume_name=dump.header.volume_name,
    )


def _refuse_stores(world: World, opened: OpenedChain, agent: IntroducedConversation, target: bytes) -> None:
    """The dumps themselves must not lie in what is restored."""
    here, there = this_machine(), agent.agent
    if (there.machine_id, there.hostname) != (here.machine_id, here.hostname):
        return
    for dump in opened.dumps:
        store = world.stores.open(dump.store).path_on_this_host()
        if store is not None and os.path.commonpath([os.path.realpath(store), os.path.realpath(target)]) == (
            os.path.realpath(target)
        ):
            raise RefusedError(
                "the dumps lie in the directory that is to be restored",
                where=shown(store),
                remedy="move the store, or restore with --only to another place",
            )


def _receive_plan(agent: IntroducedConversation) -> tuple[PlannedRestore, Bitmap, dict[int, Bitmap]]:
    names: dict[str, list[bytes]] = {}
    message = agent.receive()
    while isinstance(message, PlannedNames):
        names.setdefault(message.kind, []).extend(message.paths)
        message = agent.receive()
    if not isinstance(message, InPlacePlan):
        raise AgentError("the agent does not follow the protocol", why=type(message).__name__)
    needed = Bitmap()
    for number in _receive_numbers(agent):
        needed.add(number)
    chunks: dict[int, Bitmap] = {}
    if message.patches:
        numbers = _receive_numbers(agent)
        for number, index in zip(numbers, numbers, strict=True):
            chunks.setdefault(number, Bitmap()).add(index)
    return PlannedRestore(message, names), needed, chunks


def _receive_numbers(agent: IntroducedConversation) -> Iterator[int]:
    rest = b""
    data = agent.receive()
    while not isinstance(data, EndOfData):
        rest += data
        whole = len(rest) - len(rest) % SIZE
        yield from decode_numbers(rest[:whole])
        rest = rest[whole:]
        data = agent.receive()


def _carry_out(
    agent: IntroducedConversation,
    opened: OpenedChain,
    plan: InPlacePlan,
    needed: Bitmap,
    chunks: dict[int, Bitmap],
) -> tuple[FileProblem, ...]:
    agent.send(Proceed())
    if plan.transfer:
        merge = Merge(opened.chain, resume_after=plan.resume_after, selection=NumberSelection(needed))
        send_stream(agent, merge)
        agent.send(EndOfData())
    if plan.patches:
        for number in sorted(chunks):
            _send_chunks(agent, opened.chain, number, chunks[number])
        agent.send(EndOfData())
    reply = agent.receive()
    if not isinstance(reply, InPlaceReply):
        raise AgentError("the agent does not follow the protocol", why=type(reply).__name__)
    return reply.problems


def _send_chunks(agent: IntroducedConversation, chain: Chain, number: int, wanted: Bitmap) -> None:
    """Some chunks of a large file; the agent checks the file that comes of them."""
    record = chain.object(number)
    layers = chain.layers(chain.versions_of(number)) if record is not None else []
    if record is None or not layers:
        raise AgentError("the agent asks for a file that is not in the dump")
    for piece in cut_chunks(compose(layers, number, record.size), record.size):
        for index in range(piece.first, piece.first + piece.chunks):
            if index in wanted:
                length = 0 if piece.data is None else len(piece.data)
                agent.send_data(PIECE.pack(number, index, length))
                if piece.data is not None:
                    agent.send_data(bytes(piece.data))


def _expect_done(agent: IntroducedConversation) -> None:
    reply = agent.receive()
    if not isinstance(reply, Done):
        raise AgentError("the agent does not follow the protocol", why=type(reply).__name__)
