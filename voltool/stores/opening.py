"""Opens stores by their URL. Knows the kinds of stores, nothing of what is in them."""

from __future__ import annotations

import os
from urllib.parse import quote, unquote

from voltool.errors import UsageError
from voltool.stores.contract import Store
from voltool.stores.local import LocalStore


def normalize_url(url: str) -> str:
    """One spelling for one store: ``/path``, ``path`` and ``file:///path`` become ``file:///path``."""
    return "file://" + quote(_local_path(url))


class StoreOpener:
    """Stores by their URL; ``min_free_percent`` of each one's file system are left alone."""

    def __init__(self, min_free_percent: float) -> None:
        self._min_free_percent = min_free_percent

    def open(self, url: str) -> Store:
        """The store at ``url`` (``file:///path`` or a plain path); UsageError for a kind that is not known."""
        return LocalStore(_local_path(url), min_free_percent=self._min_free_percent)


def _local_path(url: str) -> str:
    if "://" not in url:
        if not url or "\0" in url:
            raise _unknown(url)
        return os.path.abspath(url)
    if not url.startswith("file:///"):
        raise _unknown(url)
    return os.path.abspath(unquote(url.removeprefix("file://")))


def _unknown(url: str) -> UsageError:
    return UsageError(
        f"{url!a} is not a store",
        why="a store is a directory on this machine",
        remedy="an absolute path, such as /srv/dumps or file:///srv/dumps",
    )
