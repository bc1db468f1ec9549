"""Which drivers there are, and which fits a directory. Ships to servers. A new driver is one line here."""

from __future__ import annotations

import os
from typing import Callable, Dict

from voltool.errors import HostError, UsageError
from voltool.showing import shown
from voltool.volumes import btrfs_ioctl, zfs_command
from voltool.volumes.btrfs import BtrfsDriver
from voltool.volumes.contract import Driver
from voltool.volumes.directory import DirectoryDriver
from voltool.volumes.reflink import ReflinkDriver
from voltool.volumes.zfs import ZfsDriver

AUTO = "auto"
_DRIVERS: Dict[str, Callable[[], Driver]] = {
    BtrfsDriver.name: BtrfsDriver,
    DirectoryDriver.name: DirectoryDriver,
    ReflinkDriver.name: ReflinkDriver,
    ZfsDriver.name: ZfsDriver,
}


def driver_names() -> list[str]:
    """The names of all drivers."""
    return sorted(_DRIVERS)


def driver_named(name: str) -> Driver:
    """A driver by its name; UsageError with the names there are."""
    try:
        return _DRIVERS[name]()
    except KeyError:
        raise UsageError(
            f"there is no driver {name!r}", remedy=f"one of: {AUTO}, {', '.join(driver_names())}"
        ) from None


def detect(path: bytes) -> str:
    """The driver for ``auto``: btrfs for a subvolume, zfs for the root of a dataset, that we may snapshot (as root), else
    directory. Without the zfs tool there are no datasets."""
    try:
        subvolume = btrfs_ioctl.is_subvolume(path)
    except OSError as error:
        raise HostError(
            "the directory cannot be looked at", where=shown(path), why=error.strerror or str(error)
        ) from error
    if os.geteuid() != 0:
        return DirectoryDriver.name
    if subvolume:
        return BtrfsDriver.name
    return ZfsDriver.name if zfs_command.dataset_at(path) is not None else DirectoryDriver.name
