"""From complete data to a published tree: sync, assemble, root's attributes, publish, seals, clean up.

Each step is recorded before it begins and can be repeated. Part of what is shipped to servers.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Dict

from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import ObjectRecord
from voltool.model import ROOT_OBJECT
from voltool.tree.apply.assemble import Assembler, DirectorySpool
from voltool.tree.apply.attributes import SEALS, Attributes
from voltool.tree.apply.files import flat_directory, flat_path, translate
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.publish import publish
from voltool.tree.apply.staging import Phase, Progress, Staging, Way

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Finisher:
    """Carries the end of a restore out."""

    def __init__(self, staging: Staging, attributes: Attributes, losses: Losses) -> None:
        self._staging = staging
        self._attributes = attributes
        self._losses = losses

    def run(self, directories: DirectorySpool, sealed: Dict[bytes, int], progress: Progress) -> None:
        """Everything from assembly on. ``sealed``: top names of files whose +i or +a waits, with their flags."""
        assert directories.root is not None
        root = fmt.decode_object(directories.root)
        if progress.phase is not Phase.PUBLISH:
            progress = self.assemble(directories, sealed, progress)
        self.publish(root, progress)

    def assemble(self, directories: DirectorySpool, sealed: Dict[bytes, int], progress: Progress) -> Progress:
        """Put the tree together, durably, so that only publishing is left; what `publish` needs."""
        assert directories.root is not None
        assembler = Assembler(self._staging.descriptor, self._attributes, self._losses)
        try:
            progress = self._enter(progress, Phase.ASSEMBLE)
            assembler.run(directories)
            sealed = {**sealed, **{placed.name: placed.record.flags for placed in assembler.unsealed}}
            return self._finish_root(fmt.decode_object(directories.root), progress, sealed)
        except OSError as error:
            raise translate(error, "the restored tree") from error

    def publish(self, root: ObjectRecord, progress: Progress) -> None:
        """Give the assembled tree its name, and remove staging. Can be repeated."""
        try:
            self._publish(root, progress)
        except OSError as error:
            raise translate(error, "the restored tree") from error

    def _enter(self, progress: Progress, phase: Phase) -> Progress:
        self._staging.sync()
        progress = dataclasses.replace(progress, phase=phase)
        self._staging.save(progress)
        return progress

    def _finish_root(self, root: ObjectRecord, progress: Progress, sealed: Dict[bytes, int]) -> Progress:
        descriptor = os.open(flat_directory(ROOT_OBJECT), _OPEN | os.O_DIRECTORY, dir_fd=self._staging.descriptor)
        try:
            if self._staging.way in (Way.RENAME, Way.INSIDE):
                self._attributes.finish(descriptor, root, seal=False)
            inode = os.fstat(descriptor).st_ino
        finally:
            os.close(descriptor)
        flags = tuple((name.hex(), bits & SEALS) for name, bits in sorted(sealed.items()))
        return self._enter(dataclasses.replace(progress, root_inode=inode, sealed=flags), Phase.PUBLISH)

    def _publish(self, root: ObjectRecord, progress: Progress) -> None:
        staging = self._staging
        publish(staging, flat_path(ROOT_OBJECT))
        target = staging.open_target()
        try:
            for name, flags in progress.sealed:
                self._seal(target, bytes.fromhex(name), flags)
            if staging.way is Way.ENTRIES:
                self._attributes.strip(target, root)
                self._attributes.finish(target, root, seal=False)
            staging.remove()
            if staging.way is not Way.MERGE:
                self._attributes.times(target, root)
                self._attributes.seal(target, root)
            os.fsync(target)
        finally:
            os.close(target)

    def _seal(self, directory: int, name: bytes, flags: int) -> None:
        """A name that is still in staging was merged into a directory of somebody else's; one that is nowhere is lost."""
        if self._staging.way is not Way.INSIDE and self._is_staged(name):
            return
        try:
            descriptor = os.open(name, _OPEN, dir_fd=directory)
        except FileNotFoundError:
            return
        try:
            self._attributes.seal_entry(descriptor, flags)
        finally:
            os.close(descriptor)

    def _is_staged(self, name: bytes) -> bool:
        try:
            os.stat(flat_path(ROOT_OBJECT) + b"/" + name, dir_fd=self._staging.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True
