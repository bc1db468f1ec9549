"""Where the configuration and the state of the command line lie. Knows nothing of what is in them; creates nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping

SYSTEM_CONFIG = "/etc/voltool/config.toml"


def config_candidates(environment: Mapping[str, str]) -> list[str]:
    """The configuration files that are looked for, the first that exists wins.

    Where ``$VOLTOOL_CONFIG`` is set it is the only one, and it must exist.
    """
    if environment.get("VOLTOOL_CONFIG"):
        return [os.path.abspath(environment["VOLTOOL_CONFIG"])]
    candidates = []
    if environment.get("HOME"):
        candidates.append(os.path.join(environment["HOME"], ".config/voltool/config.toml"))
    return [*candidates, SYSTEM_CONFIG]


def catalog_path(state: str) -> str:
    """The SQLite catalog in the state directory."""
    return os.path.join(state, "catalog.sqlite")


def index_path(state: str) -> str:
    """The index of names in the state directory."""
    return os.path.join(state, "names.sqlite")


def default_store_url(state: str) -> str:
    """The store that is used where none is configured."""
    return "file://" + os.path.join(state, "store")
