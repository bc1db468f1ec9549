"""Opens stores by their URL. Knows the kinds of stores, nothing of what is in them."""

from __future__ import annotations

import os
import posixpath
import re
import threading
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from voltool.errors import UsageError
from voltool.stores.access import AccessTo, StoreAccess
from voltool.stores.contract import Store
from voltool.stores.local import LocalStore

if TYPE_CHECKING:
    from voltool.stores.sftp import SftpStore

_SFTP = re.compile(r"sftp://(?P<host>[^/?#]+)(?P<path>/[^?#]*)")


def normalize_url(url: str) -> str:
    """One spelling for one store: ``/path``, ``path`` and ``file:///path`` become ``file:///path``. UsageError."""
    if url.startswith("sftp:"):
        host, path = _sftp_parts(url)
        return f"sftp://{host}{quote(path)}"
    return "file://" + quote(_local_path(url))


class StoreOpener:
    """Stores by their URL; ``min_free_percent`` of each one's file system are left alone; ``access`` to those on other hosts."""

    def __init__(self, min_free_percent: float, access: AccessTo = lambda _host: StoreAccess()) -> None:
        self._min_free_percent = min_free_percent
        self._access = access
        self._lock = threading.Lock()
        #: One for each URL: they have a connection each.
        self._remote: dict[str, SftpStore] = {}

    def open(self, url: str) -> Store:
        """The store at ``url`` (``sftp://host/path``, ``file:///path`` or a plain path); UsageError for what is no store."""
        if url.startswith("sftp:"):
            return self._open_sftp(url)
        return LocalStore(_local_path(url), min_free_percent=self._min_free_percent)

    def close(self) -> None:
        """Hang up wherever we are connected. Idempotent."""
        with self._lock:
            for store in self._remote.values():
                store.close()

    def _open_sftp(self, url: str) -> SftpStore:
        from voltool.stores.sftp import SftpPlace, SftpStore  # paramiko takes a while

        host, path = _sftp_parts(url)
        place = SftpPlace(host, os.fsencode(path))
        with self._lock:
            if place.url not in self._remote:
                self._remote[place.url] = SftpStore(place, self._access(host), min_free_percent=self._min_free_percent)
            return self._remote[place.url]


def _sftp_parts(url: str) -> tuple[str, str]:
    """The host as it stands there, and the path."""
    match = _SFTP.fullmatch(url)
    if match is None or "\0" in (path := unquote(match["path"], errors="surrogateescape")):
        raise _unknown(url, "it needs a host and an absolute path")
    user, at, _rest = match["host"].rpartition("@")
    if ":" in user or (at and not user):
        raise _unknown(url, "a password has no place in it: keys, or the agent, let us in")
    path = posixpath.normpath("/" + path.lstrip("/"))
    if path == "/":
        raise _unknown(url, "a store has a directory of its own")
    return match["host"], path


def _local_path(url: str) -> str:
    if "://" not in url:
        if not url or "\0" in url:
            raise _unknown(url)
        return os.path.abspath(url)
    if not url.startswith("file:///"):
        raise _unknown(url)
    return os.path.abspath(unquote(url.removeprefix("file://")))


def _unknown(url: str, why: str = "a store is a directory on this machine, or on another one by SFTP") -> UsageError:
    return UsageError(
        f"{url!a} is not a store",
        why=why,
        remedy="an absolute path, such as /srv/dumps, or sftp://[user@]host[:port]/srv/dumps",
    )
