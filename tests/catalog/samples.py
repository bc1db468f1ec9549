"""Volumes and dumps that are made up, for tests that need some."""

from __future__ import annotations

from voltool.model import (
    Consistency,
    DumpHeader,
    DumpTotals,
    Epoch,
    FileProblem,
    KnownVolume,
    StoredDump,
)

UUID = "a" * 32
SECOND = 1_000_000_000


def make_volume(
    name: str = "vol1", *, uuid: str = "", path: bytes = b"", host: str = "hostA", excludes: tuple[bytes, ...] = ()
) -> KnownVolume:
    """A volume; its uuid follows from its name."""
    identity = uuid or name.encode().hex().ljust(32, "0")[:32]
    return KnownVolume(identity, name, host, path or b"/srv/" + name.encode(), "directory", excludes)


def make_dump(
    number: int,
    *,
    volume: KnownVolume | None = None,
    level: int = 0,
    base: StoredDump | None = None,
    dump_id: str = "",
    time_ns: int | None = None,
    store: str = "file:///srv/store",
    problems: tuple[FileProblem, ...] = (),
) -> StoredDump:
    """The dump of sequence ``number``, made at second ``number`` (or ``time_ns``), on ``base``."""
    volume = volume or make_volume()
    identity = dump_id or f"{number:032x}"
    header = DumpHeader(
        dump_id=identity,
        volume_uuid=volume.uuid,
        volume_name=volume.name,
        level=level,
        sequence=number,
        epoch=Epoch(1, "token", volume.host),
        clone_time_ns=number * SECOND if time_ns is None else time_ns,
        boot_id="boot",
        host=volume.host,
        driver=volume.driver,
        consistency=Consistency.LIVE,
        source_path=volume.path,
        base_state_id=base.totals.state_id if base else None,
        base_dump_id=base.header.dump_id if base else None,
    )
    totals = DumpTotals(state_id=f"{number:064x}", entries=10, objects=9, data_bytes=1000, stored_bytes=700)
    return StoredDump(header, totals, store, f"{volume.name}/{identity}.voltool", 1.5, problems)
