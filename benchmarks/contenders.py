"""Who is compared in which discipline: the commands, what is prepared before each run, and where the output lies.

Knows the tools' command lines; measures nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from shlex import quote

from tests.hosts import VOLTOOL as VOLTOOL_PATH
from tests.hosts import Host, Site

TAR_LZ4 = "tar c | lz4"
LZ4_TAR = "lz4 -d | tar x"
SSH_TAR = "ssh tar c | lz4"
TAR_SSH = "tar c | lz4 | ssh cat"
RESTIC_DUMP = "restic dump"

VOLTOOL = str(VOLTOOL_PATH)


@dataclass(frozen=True)
class Contender:
    """One way to do a job: ``prepare`` runs untimed before each run, ``output`` is the file or directory that grows."""

    name: str
    command: str
    output: str = ""
    prepare: Callable[[], None] = field(default=lambda: None)
    servers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where a comparison happens: a file system with the data at ``data``, and a directory ``out`` for what is made."""

    kind: str
    mount: str
    data: str
    out: str
    environment: Mapping[str, str]
    site: Site

    def path(self, name: str) -> str:
        """A path in ``out``, quoted for the shell."""
        return quote(os.path.join(self.out, name))

    def quietly(self, *command: str) -> None:
        """Run something untimed; its output is shown only when it fails."""
        done = subprocess.run(
            command, env=dict(self.environment), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if done.returncode != 0:
            text = (done.stdout + done.stderr).decode(errors="replace")
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{text}")

    def fresh(self, *names: str) -> None:
        """Remove earlier output."""
        for name in names:
            path = os.path.join(self.out, name)
            if os.path.isdir(path):
                shutil.rmtree(path)
            elif os.path.lexists(path):
                os.unlink(path)


def dump_contenders(place: Place) -> list[Contender]:
    """A full dump to a local file."""
    data = quote(place.data)
    found = [_voltool_dump(place, "bench"), *_tar_lz4(place, data)]
    if place.kind == "xfs":
        return [
            *found,
            _file(
                place,
                "xfsdump",
                f"xfsdump -J -l 0 -L bench -M bench -f {place.path('x.dump')} {quote(place.mount)}",
                "x.dump",
            ),
        ]
    device = subprocess.run(
        ["findmnt", "-no", "SOURCE", place.mount], capture_output=True, text=True, check=True
    ).stdout.strip()
    return [
        *found,
        _file(place, "GNU tar (uncompressed)", f"tar -C {data} -cf {place.path('plain.tar')} .", "plain.tar"),
        _file(place, "dump(8)", f"dump -0 -q -f {place.path('dump.0')} {quote(device)}", "dump.0"),
    ]


def incremental_contenders(place: Place) -> list[Contender]:
    """What changed since a full dump that is made here, untimed."""
    place.quietly(VOLTOOL, "--quiet", "dump", "--store", os.path.join(place.out, "store"), "bench")
    voltool = f"{quote(VOLTOOL)} --quiet dump --level 1 --store {place.path('store')} bench"
    found = [Contender("voltool", voltool, os.path.join(place.out, "store"))]
    if place.kind == "xfs":
        return [*found, _xfsdump_incremental(place)]
    return [*found, _tar_incremental(place), _restic(place)]


def restore_contenders(place: Place, target: str) -> list[Contender]:
    """A full restore into the file system at ``target``."""
    place.quietly(VOLTOOL, "--quiet", "dump", "--store", os.path.join(place.out, "store"), "bench")
    place.quietly(
        "bash", "-o", "pipefail", "-ec", f"tar -C {quote(place.data)} -c . | lz4 -q -c > {place.path('tar.lz4')}"
    )
    into = os.path.join(target, "restored")

    def clear() -> None:
        shutil.rmtree(into, ignore_errors=True)

    def clear_and_make() -> None:
        clear()
        os.mkdir(into)

    untar = f"lz4 -q -d -c {place.path('tar.lz4')} | tar -C {quote(into)} -xp"
    return [
        Contender("voltool", f"{quote(VOLTOOL)} --quiet restore bench {quote('local:' + into)}", prepare=clear),
        Contender(LZ4_TAR, untar, prepare=clear_and_make),
        Contender(f"{LZ4_TAR}, then sync", f"{untar}; sync -f {quote(into)}", prepare=clear_and_make),
    ]


def ssh_contenders(place: Place, server: Host) -> list[Contender]:
    """A full dump over SSH on loopback; ``benchssh`` is the volume reached through ``server``."""
    remote = f"ssh {server.name} {quote('tar -C ' + quote(place.data) + ' -c .')}"
    served = (int((server.sshd.directory / "sshd.pid").read_text(encoding="ascii")),)
    borg_url = f"ssh://{server.name}{place.out}/borg"

    def fresh_borg() -> None:
        place.fresh("borg", "borg-home")
        place.quietly("borg", "init", "-e", "none", borg_url)

    tar = _file(place, SSH_TAR, f"{remote} | lz4 -q -c > {place.path('tar.lz4')}", "tar.lz4", served)
    borg = f"borg create --compression lz4 {quote(borg_url)}::one {quote(place.data)}"
    return [
        _voltool_dump(place, "benchssh", served),
        tar,
        Contender("borg create (to a repository over SSH)", borg, os.path.join(place.out, "borg"), fresh_borg, served),
    ]


def export_contenders(place: Place) -> list[Contender]:
    """A tar archive out of a full dump, against restic's out of its repository, and tar's of the tree itself."""
    place.quietly(VOLTOOL, "--quiet", "dump", "--store", os.path.join(place.out, "store"), "bench")
    repository = os.path.join(place.out, "restic")
    place.quietly("restic", "-r", repository, "init")
    place.quietly("restic", "-q", "-r", repository, "backup", place.data)
    restic = f"restic -q -r {quote(repository)} dump latest / > {place.path('restic.tar')}"
    plain = f"tar -C {quote(place.data)} --xattrs --acls -cf {place.path('plain.tar')} ."
    return [
        _file(place, "voltool", f"{quote(VOLTOOL)} --quiet export bench -o {place.path('voltool.tar')}", "voltool.tar"),
        _file(place, RESTIC_DUMP, restic, "restic.tar"),
        _file(place, "tar c (of the tree)", plain, "plain.tar"),
    ]


def sftp_contenders(place: Place, server: Host) -> list[Contender]:
    """A full dump of a volume here into a store on another machine, over SSH on loopback."""
    served = (int((server.sshd.directory / "sshd.pid").read_text(encoding="ascii")),)
    far = os.path.join(place.out, "far")
    url = f"sftp://{server.name}{far}"

    def fresh() -> None:
        place.fresh("far")

    def fresh_restic() -> None:
        fresh()
        place.quietly("restic", "-r", f"sftp:{server.name}:{far}", "init")

    def fresh_directory() -> None:
        fresh()
        os.mkdir(far)

    restic = f"restic -q -r {quote(f'sftp:{server.name}:{far}')} backup {quote(place.data)}"
    tar = f"tar -C {quote(place.data)} -c . | lz4 -q -c | ssh {server.name} {quote(f'cat > {quote(far)}/tar.lz4')}"
    return [
        Contender("voltool", f"{quote(VOLTOOL)} --quiet dump --store {quote(url)} bench", far, fresh, served),
        Contender(TAR_SSH, tar, far, fresh_directory, served),
        Contender("restic backup (to sftp:)", restic, far, fresh_restic, served),
    ]


def _voltool_dump(place: Place, volume: str, servers: tuple[int, ...] = ()) -> Contender:
    command = f"{quote(VOLTOOL)} --quiet dump --store {place.path('store')} {volume}"
    return Contender("voltool", command, os.path.join(place.out, "store"), lambda: place.fresh("store"), servers)


def _tar_lz4(place: Place, data: str) -> list[Contender]:
    command = f"tar -C {data} -c . | lz4 -q -c > {place.path('tar.lz4')}"
    synced = f"{command}; sync {place.path('tar.lz4')}"
    return [_file(place, TAR_LZ4, command, "tar.lz4"), _file(place, f"{TAR_LZ4}, then sync", synced, "tar.lz4")]


def _file(place: Place, name: str, command: str, output: str, servers: tuple[int, ...] = ()) -> Contender:
    return Contender(name, command, os.path.join(place.out, output), lambda: place.fresh(output), servers)


def _tar_incremental(place: Place) -> Contender:
    data = quote(place.data)
    place.quietly(
        "bash", "-ec", f"tar -C {data} -g {place.path('level0.snar')} -c . | lz4 -q -c > {place.path('level0.tar.lz4')}"
    )

    def prepare() -> None:
        place.fresh("level1.tar.lz4")
        shutil.copy(os.path.join(place.out, "level0.snar"), os.path.join(place.out, "level1.snar"))

    command = f"tar -C {data} -g {place.path('level1.snar')} -c . | lz4 -q -c > {place.path('level1.tar.lz4')}"
    return Contender("tar c --listed-incremental | lz4", command, os.path.join(place.out, "level1.tar.lz4"), prepare)


def _restic(place: Place) -> Contender:
    repository = os.path.join(place.out, "restic")
    place.quietly("restic", "-r", repository, "init")
    place.quietly("restic", "-q", "-r", repository, "backup", place.data)
    return Contender("restic backup", f"restic -q -r {quote(repository)} backup {quote(place.data)}", repository)


def _xfsdump_incremental(place: Place) -> Contender:
    """The tool keeps an inventory in /var/lib/xfsdump: a private mount namespace puts our own over it."""
    inventory = os.path.join(place.out, "inventory")
    os.makedirs(inventory, exist_ok=True)

    def level(number: int) -> str:
        cover = f"mount --bind {quote(inventory)} /var/lib/xfsdump"
        output = place.path(f"x.{number}")
        dump = f"exec xfsdump -l {number} -L bench -M bench -f {output} {quote(place.mount)}"
        return f"unshare -m sh -ec {quote(f'{cover} && {dump}')}"

    place.quietly("bash", "-ec", level(0))

    def prepare() -> None:
        place.fresh("x.1")

    return Contender("xfsdump level 1", level(1), os.path.join(place.out, "x.1"), prepare)
