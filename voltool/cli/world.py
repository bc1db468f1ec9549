"""The composition root: the real hosts, stores and catalog out of the configuration. Imports heavy things, so it is
imported late."""

from __future__ import annotations

import getpass
import os
import socket
from typing import TYPE_CHECKING

from voltool.backup.ports import World
from voltool.cli.invocation import Invocation
from voltool.cli.prompt import asker
from voltool.config.paths import catalog_path
from voltool.config.settings import Settings
from voltool.errors import VoltoolError
from voltool.events import Reporter
from voltool.machine import this_machine
from voltool.memory import keep_freed_memory
from voltool.remote.ahead import Ahead
from voltool.remote.connect import HostSettings, RemoteHosts
from voltool.ssh.resolve import parse_host
from voltool.ssh.secrets import Secrets
from voltool.stores.access import StoreAccess
from voltool.stores.opening import StoreOpener

if TYPE_CHECKING:
    from voltool.catalog.sqlite import SqliteCatalog


def build_world(invocation: Invocation) -> World:
    """All collaborators of the jobs, for one call of voltool; UsageError for a bad configuration."""
    keep_freed_memory()  # data may pass through here
    settings = invocation.settings
    secrets = Secrets(ask=asker())
    stores = StoreOpener(settings.min_free, lambda host: _store_access(settings, host, secrets, invocation.output))
    invocation.closing.callback(stores.close)
    caller = f"{_user()}@{socket.gethostname()} pid {os.getpid()}"
    remote = RemoteHosts(
        lambda name: _host_settings(settings, name),
        invocation.output,
        caller,
        secrets=secrets,
        ask_become_password=invocation.ask_become_pass,
    )
    hosts = invocation.closing.enter_context(Ahead(remote))
    for host in invocation.needed_soon:  # before the catalog is opened, whose imports take as long
        hosts.begin(host)
    invocation.closing.callback(lambda: _ask_no_more(secrets))
    catalog = _open_catalog(invocation)
    return World(
        hosts=hosts,
        stores=stores,
        catalog=catalog,
        reporter=invocation.output,
        caller=caller,
        machine=this_machine(),
    )


def _ask_no_more(secrets: Secrets) -> None:
    """A connection that nobody waits for any more must not ask on a terminal that is given back; who is just asked answers."""
    with secrets.asking:
        secrets.ask = None


def _open_catalog(invocation: Invocation) -> SqliteCatalog:
    """The catalog; where its disk is full and the command only reads it (`Invocation.catalog_is_read`), a copy of it."""
    from voltool.catalog.spare import is_full, spare_catalog
    from voltool.catalog.sqlite import SqliteCatalog

    path = catalog_path(invocation.state)
    try:
        catalog = SqliteCatalog(path, this_machine())
    except VoltoolError:
        if not (invocation.catalog_is_read and is_full(path)):
            raise
        message = f"the disk of {path} is full: a copy in memory is used, and what is done now the catalog learns later"
        invocation.output.notice("warning", message)
        return invocation.closing.enter_context(spare_catalog(path, this_machine()))
    invocation.closing.callback(catalog.close)
    return catalog


def _host_settings(settings: Settings, name: str) -> HostSettings:
    section = settings.host(name)
    return HostSettings(
        transport=section.transport,
        become=section.become,
        python=section.python or "",
        connect_timeout=section.connect_timeout,
        silence_timeout=section.silence_timeout,
        ssh_config=section.ssh_config,
        ports=section.ports,
    )


def _store_access(settings: Settings, host: str, secrets: Secrets, reporter: Reporter) -> StoreAccess:
    """``host`` as it stands in a store's URL: its own section, or that of its name without user and port."""
    section = settings.host(host if host in settings.hosts else parse_host(host).name)
    return StoreAccess(
        transport=section.transport,
        connect_timeout=section.connect_timeout,
        silence_timeout=section.silence_timeout,
        ssh_config=section.ssh_config,
        secrets=secrets,
        reporter=reporter,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())
