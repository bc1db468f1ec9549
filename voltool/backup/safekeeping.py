"""What every store holds beside the dumps, so that it is enough by itself: a reader that needs nothing but python3, the
configuration, the list of volumes, and a page for whoever finds it.

Written after dumps, where it is not there yet as it should be. Nothing here may make a dump fail.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from voltool import __version__
from voltool.backup import volume_list
from voltool.backup.ports import World
from voltool.backup.volume_list import ListedVolume, VolumeList
from voltool.errors import VoltoolError
from voltool.events import Notice
from voltool.model import StoredDump
from voltool.remote.ship import build_reader
from voltool.stores.contract import Store

READER = "voltool.pyz"
CONFIG = "config.toml"
README = "README.txt"

_README_TEXT = """\
This directory is a store of voltool: it holds dumps of directory trees of Linux servers.

  NAME/<time>-L<level>-<id>.voltool   a dump of the volume NAME at that time (UTC). Level 0 is complete; a dump of a higher
                                      level holds what changed since an older one of a lower level, and needs it
  voltool.pyz                         a program that reads dumps, with nothing but python3 (3.9 or later)
  volumes.json                        which volumes these are: their names, hosts and paths
  config.toml                         the configuration of the voltool that made the dumps

To restore without installing anything, on any Linux machine, as root if owners shall be kept:

  python3 voltool.pyz list .                          what is here
  python3 voltool.pyz verify NAME                     check every byte of the volume's dumps
  python3 voltool.pyz restore NAME /a/new/directory   the newest state of the volume NAME

Instead of NAME, name the dump of an older point in time; what it rests on is found beside it. `--help` says more.

To go on with voltool: install it, put config.toml back to ~/.config/voltool/config.toml (or /etc/voltool/config.toml), and

  voltool catalog rebuild --store URL                 URL is this directory, or sftp://host/this/directory
"""


def keep_copies(world: World, url: str, config_text: bytes | None) -> None:
    """Bring the store's own copies up to date; ``config_text`` None: there is no configuration file.

    Idempotent, and cheap where nothing has changed. What cannot be read or written is a warning.
    """
    try:
        store = world.stores.open(url)
        listed = _listed(world, store)
        _put(store, volume_list.NAME, _volumes(world, url, listed))
        if config_text is not None:
            _put(store, CONFIG, config_text)
        if _version(listed.tool_version) <= _version(__version__):
            _put(store, READER, build_reader())
            _put(store, README, _README_TEXT.encode())
    except VoltoolError as error:
        message = f"the copies of configuration, volume list and reader in {url} are not up to date: {error}"
        world.reporter.report(Notice("warning", message))


def _put(store: Store, name: str, data: bytes | None) -> None:
    if data is not None and _found(store, name) != data:
        store.put_aside(name, data)


def _found(store: Store, name: str) -> bytes | None:
    try:
        return store.get_aside(name)
    except VoltoolError:  # nothing of ours: it is replaced
        return None


def _listed(world: World, store: Store) -> VolumeList:
    def passed_over(why: str) -> None:
        world.reporter.report(Notice("warning", f"{store.url}/{volume_list.NAME} is written anew: {why}"))

    data = _found(store, volume_list.NAME)
    return volume_list.decode(data, passed_over) if data is not None else VolumeList()


def _volumes(world: World, url: str, listed: VolumeList) -> bytes | None:
    """The list as it should be; None where a later voltool's must stay.

    What other catalogs have said stays; what this one has said and knows no more was removed.
    """
    if listed.newer:
        return None
    here = world.catalog.identity()
    dumps: dict[str, list[StoredDump]] = {}
    for dump in world.catalog.dumps():
        if dump.store == url:
            dumps.setdefault(dump.header.volume_uuid, []).append(dump)
    known = {volume.uuid: volume for volume in world.catalog.volumes()}
    entries = {entry.volume.uuid: entry for entry in listed.volumes}
    for uuid, entry in entries.items():
        if entry.by == here and uuid not in known:
            entries[uuid] = ListedVolume(entry.volume, entry.epoch, entry.by, removed=True)
    for uuid in dumps.keys() & known.keys():
        entries[uuid] = ListedVolume(known[uuid], _epoch(dumps[uuid]), here)
    written_by = max(listed.tool_version, __version__, key=_version)
    return volume_list.encode(entries.values(), written_by)


def _epoch(dumps: Sequence[StoredDump]) -> int:
    return max(dump.header.epoch.number for dump in dumps)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d{1,9}", text)[:4])
