"""The verify job: read a dump with all it rests on and check every hash."""

from __future__ import annotations

import time
from dataclasses import dataclass

from voltool.backup.chains import open_chain
from voltool.backup.ports import World
from voltool.dumpfile.verify import verify_chain
from voltool.errors import EXIT_DONE
from voltool.events import PhaseEnded, PhaseStarted, Progressed
from voltool.model import StoredDump

PHASE = "verify"


@dataclass(frozen=True)
class VerifyOutcome:
    """What was checked and found whole: ``entries`` of the newest state, ``bytes`` of dumps read."""

    dump_ids: tuple[str, ...]
    entries: int
    bytes: int
    seconds: float
    exit_code: int


def verify(world: World, dump: StoredDump) -> VerifyOutcome:
    """Check ``dump`` and its chain. Raises IntegrityError naming dump and file."""
    began = time.monotonic()
    subject = dump.header.volume_name
    with open_chain(world, dump, "verifying it") as opened:
        total = opened.stored_bytes
        world.reporter.report(PhaseStarted(subject, PHASE, total_bytes=total))

        def progress(done: int, files: int) -> None:
            world.reporter.report(Progressed(subject, PHASE, done, files))

        verify_chain(opened.chain, progress)
        world.reporter.report(PhaseEnded(subject, PHASE))
        entries = opened.chain.totals.entries
        return VerifyOutcome(opened.dump_ids, entries, total, time.monotonic() - began, EXIT_DONE)
