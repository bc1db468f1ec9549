"""One call of voltool: its global options, its output, and, made when they are first needed, settings and world."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import typer

from voltool.config import paths
from voltool.errors import VoltoolError, combined_exit_code
from voltool.statedir import state_directory

if TYPE_CHECKING:
    from voltool.backup.ports import World
    from voltool.browse.learner import NameLearner
    from voltool.cli.output import Output
    from voltool.config.lenient import LenientSettings
    from voltool.config.settings import Settings
    from voltool.model import StoredDump


@dataclass
class Invocation:
    """What a command is given as ``ctx.obj``. ``make_world`` is replaced in tests."""

    output: Output
    environment: Mapping[str, str]
    make_world: Callable[[Invocation], World]
    command: str = ""
    config: str | None = None
    ask_become_pass: bool = False
    #: Nothing is lost when the catalog does not keep what the command writes: it works on a full disk too.
    catalog_is_read: bool = False
    #: Hosts that are connected to as soon as there is a world: said before `world` is asked for.
    needed_soon: tuple[str, ...] = ()
    #: The fields of the result as far as they are known: an interrupted command still says what it has done.
    fields: dict[str, Any] = field(default_factory=dict)
    errors: list[VoltoolError] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    closing: ExitStack = field(default_factory=ExitStack)

    @functools.cached_property
    def settings(self) -> Settings:
        """The configuration; UsageError."""
        from voltool.config.load import load_settings

        return load_settings(self.environment, self.config)

    def read_leniently(self) -> LenientSettings:
        """The configuration as far as it can be relied on, with its faults; it is what ``settings`` gives from now on.

        UsageError. For what runs unattended: one bad line must not keep all other volumes from their dumps.
        """
        from voltool.config.lenient import load_leniently

        lenient = load_leniently(self.environment, self.config)
        vars(self)["settings"] = lenient.settings
        return lenient

    @property
    def settings_file(self) -> str | None:
        """Where the configuration comes from; None where there is no file."""
        from voltool.config.load import settings_path

        return settings_path(self.environment, self.config)

    @property
    def state(self) -> str:
        """The state directory of this machine."""
        return state_directory(self.environment, os.geteuid())

    @functools.cached_property
    def world(self) -> World:
        """Hosts, stores, catalog."""
        return self.make_world(self)

    @functools.cached_property
    def names(self) -> NameLearner:
        """Takes dumps into the index of names; one a command, for it is alone with the index where that must be replaced."""
        from voltool.browse.learner import NameLearner

        learner = NameLearner(self.world, paths.index_path(self.state), paths.catalog_path(self.state))
        self.closing.callback(learner.close)
        return learner

    def learn(self, dump: StoredDump) -> None:
        """After a dump, where the configuration wants it. What fails is a warning: the dump is safe, `find` makes up for it."""
        if not self.settings.index:
            return
        try:
            self.names(dump)
        except VoltoolError as error:
            message = (
                f"{dump.header.volume_name}: its names are not in the index yet, find will see to that: {error.what}"
            )
            self.output.notice("warning", f"{message}: {error.why}" if error.why else message)

    def store_url(self, volume: str = "", explicit: str | None = None) -> str:
        """The store for a volume: ``--store``, else its own, else the configured one, else that in the state directory."""
        from voltool.stores.opening import normalize_url

        chosen = explicit or (volume and self.settings.volume(volume).store) or self.settings.store
        return normalize_url(chosen or paths.default_store_url(self.state))

    def keep_copies(self, url: str) -> None:
        """Let the store have what makes it enough by itself; what goes wrong is a warning."""
        from voltool.backup.safekeeping import keep_copies
        from voltool.config.load import read_text

        path = self.settings_file
        keep_copies(self.world, url, None if path is None else read_text(path).encode())

    def failed(self, error: VoltoolError, subject: str) -> None:
        """One of several things has failed; the others go on."""
        self.output.error(error, subject)
        self.errors.append(error)
        self.codes.append(error.exit_code)
        from voltool.cli.json_lines import error_object

        self.fields.setdefault("errors", []).append({"subject": subject, **error_object(error)})

    def finish(self) -> int:
        """The result line and the exit code, from what was noted in ``codes``, ``fields`` and ``errors``."""
        code = combined_exit_code(self.codes)
        error = next((error for error in self.errors if error.exit_code == code), None)
        self.output.result(self.command, code, self.fields, error)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.closing.close()
        self.output.close()


def begin(context: typer.Context, command: str) -> Invocation:
    """The invocation that the context carries, now known to be of ``command``."""
    invocation = context.obj
    assert isinstance(invocation, Invocation)
    invocation.command = command
    return invocation
