"""Is this host the one we know? known_hosts files read as OpenSSH does, and strict: what is not known is refused.

Source: sshd(8), section SSH_KNOWN_HOSTS FILE FORMAT. Hashed names, ports that are not 22, wildcards, negation,
``@revoked``. ``@cert-authority`` and lines that cannot be read are skipped and named. No connection is made here.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from voltool.errors import UnreachableError
from voltool.ssh.resolve import Destination


@dataclass(frozen=True)
class HostKey:
    """A public host key: its type (``ssh-ed25519``) and its bytes (the blob that is base64 in known_hosts)."""

    type: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """``SHA256:…`` as ssh-keygen -l shows it."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    @property
    def base64(self) -> str:
        """The blob as known_hosts has it."""
        return base64.b64encode(self.blob).decode()


@dataclass(frozen=True)
class KnownKey:
    """One line of a known_hosts file that speaks of the host."""

    key: HostKey
    revoked: bool
    file: str
    line: int


@dataclass(frozen=True)
class KnownHosts:
    """What the files say of one host; ``skipped`` names the lines that were not understood."""

    keys: tuple[KnownKey, ...]
    skipped: tuple[str, ...]

    def key_types(self) -> list[str]:
        """The types that are known, so that the server can be asked for one of them."""
        return list(dict.fromkeys(known.key.type for known in self.keys if not known.revoked))


def known_keys(destination: Destination) -> KnownHosts:
    """Everything the destination's known_hosts files have on it. A missing file is an empty one."""
    keys: list[KnownKey] = []
    skipped: list[str] = []
    for path in (*destination.user_known_hosts, *destination.global_known_hosts):
        try:
            with open(path, "rb") as file:
                _read_lines(path, file, destination.key_name, keys, skipped)
        except OSError as error:
            if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                skipped.append(f"{path}: {error.strerror}")
    return KnownHosts(tuple(keys), tuple(skipped))


def _read_lines(path: str, lines: Iterable[bytes], name: str, keys: list[KnownKey], skipped: list[str]) -> None:
    for number, raw in enumerate(lines, 1):
        fields = raw.decode(errors="replace").split()
        if not fields or fields[0].startswith("#"):
            continue
        marker = fields.pop(0) if fields[0].startswith("@") else ""
        if fields and not matches(fields[0], name):
            continue
        if marker == "@cert-authority":
            skipped.append(f"{path}:{number}: @cert-authority (host certificates are not supported)")
            continue
        key = _key_of(fields)
        if key is None or marker not in ("", "@revoked"):
            skipped.append(f"{path}:{number}: not a line that can be read")
            continue
        keys.append(KnownKey(key, bool(marker), path, number))


def _key_of(fields: Sequence[str]) -> HostKey | None:
    if len(fields) < 3:
        return None
    try:
        blob = base64.b64decode(fields[2], validate=True)
    except (binascii.Error, ValueError):
        return None
    kind = fields[1].encode()
    if blob[:4] != len(kind).to_bytes(4, "big") or blob[4 : 4 + len(kind)] != kind:
        return None
    return HostKey(fields[1], blob)


def matches(patterns: str, name: str) -> bool:
    """Whether the first field of a known_hosts line speaks of ``name``."""
    if patterns.startswith("|1|"):
        return _matches_hash(patterns, name)
    found = False
    for pattern in patterns.lower().split(","):
        wanted = pattern.removeprefix("!")
        # fnmatch would read brackets as a set of characters, but here they belong to the name: [host]:port.
        if fnmatch.fnmatchcase(name.lower(), wanted.replace("[", "[[]")):
            if pattern != wanted:
                return False
            found = True
    return found


def _matches_hash(field: str, name: str) -> bool:
    try:
        _, _, salt, digest = field.split("|")
        wanted = base64.b64decode(digest, validate=True)
        made = hmac.new(base64.b64decode(salt, validate=True), name.encode(), hashlib.sha1).digest()
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(made, wanted)


def check(destination: Destination, known: KnownHosts, offered: HostKey) -> None:
    """Return when ``offered`` is a known key of the destination; UnreachableError for anything else."""
    same = [entry for entry in known.keys if hmac.compare_digest(entry.key.blob, offered.blob)]
    revoked = next((entry for entry in same if entry.revoked), None)
    if revoked is not None:
        raise UnreachableError(
            "THE HOST KEY IS REVOKED: somebody may be impersonating the host",
            where=destination.host,
            why=f"{offered.type} {offered.fingerprint} is marked @revoked in {revoked.file}:{revoked.line}",
            remedy="ask who runs the host for its new key; do not connect before",
        )
    if same:
        return
    trusted = [entry for entry in known.keys if not entry.revoked]
    if trusted:
        raise _changed(destination, trusted[0], offered)
    raise _unknown(destination, known, offered)


def _changed(destination: Destination, known: KnownKey, offered: HostKey) -> UnreachableError:
    return UnreachableError(
        "THE HOST KEY HAS CHANGED: the host was reinstalled, or somebody is impersonating it",
        where=destination.host,
        why=f"it shows {offered.type} {offered.fingerprint}, but {known.file}:{known.line} has "
        f"{known.key.type} {known.key.fingerprint}",
        remedy=f"if the change is known to be right: ssh-keygen -R '{destination.key_name}' -f {known.file}, "
        f"then add the new key",
    )


def _unknown(destination: Destination, known: KnownHosts, offered: HostKey) -> UnreachableError:
    file = destination.user_known_hosts[0] if destination.user_known_hosts else "~/.ssh/known_hosts"
    why = f"it shows {offered.type} {offered.fingerprint}"
    if known.skipped:
        why += "; lines that were skipped: " + ", ".join(known.skipped)
    return UnreachableError(
        "the host's key is not known",
        where=destination.host,
        why=why,
        remedy=f"compare the fingerprint with the host's own, then add this line to {file}: "
        f"{destination.key_name} {offered.type} {offered.base64}",
    )
