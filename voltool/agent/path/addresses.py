"""Under which addresses this host can be reached, as far as it knows itself: candidates, which the other end simply tries.

Part of what is shipped to servers. Sources: proc(5) /proc/net/if_inet6; /proc/net/fib_trie; ssh(1) SSH_CONNECTION.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from typing import Iterable, Iterator, List, Mapping

_MOST = 32
_LOOPBACK = ("127.0.0.1", "::1")
#: Of /proc/net/fib_trie: a line with an address, then one that says what it is.
_LOCAL = re.compile(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL$", re.MULTILINE)


def own_addresses(environment: Mapping[str, str], *, loopback: bool) -> List[str]:
    """The one by which the command line came (SSH_CONNECTION) first, then those of the interfaces; with ``loopback`` (both
    ends are one machine) the loopback's too. No more than 32."""
    found: List[str] = []
    for text in (
        *_of_ssh(environment),
        *_version_4(_read("/proc/net/fib_trie")),
        *_version_6(_read("/proc/net/if_inet6")),
    ):
        if is_candidate(text) and text not in found:
            found.append(text)
    if loopback:
        found += _LOOPBACK
    return found[:_MOST]


def is_candidate(text: str) -> bool:
    """Whether another host might reach us by it: neither of this host alone, nor of one cable alone."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified)


def _of_ssh(environment: Mapping[str, str]) -> Iterable[str]:
    words = environment.get("SSH_CONNECTION", "").split()
    return [words[2].split("%")[0]] if len(words) == 4 else []


def _version_4(fib_trie: str) -> Iterable[str]:
    return _LOCAL.findall(fib_trie)


def _version_6(if_inet6: str) -> Iterator[str]:
    for line in if_inet6.splitlines():
        with contextlib.suppress(ValueError, IndexError):
            yield str(ipaddress.IPv6Address(bytes.fromhex(line.split()[0])))


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""  # the one of SSH_CONNECTION is left
