"""Proving to a server who we are, in OpenSSH's order: agent, key files, keyboard-interactive, password.

Questions (a passphrase, a password) go through a callback that exists only where a person can answer; without it
nothing is asked. Sources: RFC 4252, RFC 4256, ssh_config(5).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import copy
import os
from collections.abc import Callable, Iterator
from typing import Any

from voltool.errors import UnreachableError
from voltool.ssh.library import paramiko
from voltool.ssh.resolve import Destination
from voltool.ssh.secrets import Secrets

_ATTEMPTS = 3


def authenticate(transport: paramiko.Transport, destination: Destination, secrets: Secrets) -> None:
    """Log in. Raises UnreachableError that says what was tried."""
    attempt = _Attempt(transport, destination, secrets)
    try:
        attempt.run()
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise attempt.failure(str(error) or "the connection was closed") from None
    finally:
        attempt.close()


class _Attempt:
    """One log-in: what is still allowed, what was tried."""

    def __init__(self, transport: paramiko.Transport, destination: Destination, secrets: Secrets) -> None:
        self._transport = transport
        self._destination = destination
        self._secrets = secrets
        self._tried: list[str] = []
        self._allowed: list[str] = []
        self._agent: paramiko.Agent | None = None

    def close(self) -> None:
        """Let go of the agent, whose keys are of no use after this."""
        if self._agent is not None:
            self._agent.close()

    def run(self) -> None:
        """Try what the server allows until it is content."""
        user = self._destination.user
        try:
            self._transport.auth_none(user)
        except paramiko.BadAuthenticationType as refusal:
            self._allowed = list(refusal.allowed_types)
        else:
            return
        methods: list[tuple[str, Callable[[], bool]]] = [
            ("publickey", self._try_keys),
            ("keyboard-interactive", self._try_interactive),
            ("password", self._try_password),
        ]
        for name, method in methods:
            if name in self._allowed and method():
                return
        raise self.failure("the server accepts " + (" or ".join(self._allowed) or "nothing we have"))

    def failure(self, why: str) -> UnreachableError:
        """What to tell the user."""
        tried = "tried " + ", ".join(self._tried) if self._tried else "found no key to try"
        return UnreachableError(
            "the server does not let us in",
            where=f"{self._destination.user}@{self._destination.host}",
            why=f"{why}; {tried}",
            remedy=f"ssh {self._destination.host} (the same keys must work there), or ssh-add the key first",
        )

    def _done(self, further: list[str]) -> bool:
        """After an accepted method: are we in, or does the server want another one as well?"""
        self._allowed = list(further)
        return not further

    def _try_keys(self) -> bool:
        for name, key in self._keys():
            self._tried.append(name)
            try:
                if self._done(self._transport.auth_publickey(self._destination.user, key)):
                    return True
            except paramiko.BadAuthenticationType as refusal:
                self._allowed = list(refusal.allowed_types)
                return False
            except paramiko.AuthenticationException:
                continue
            return False
        return False

    def _keys(self) -> Iterator[tuple[str, paramiko.PKey]]:
        agent_keys = self._agent_keys()
        wanted = {blob for path in self._destination.identity_files if (blob := _public_blob(path))}
        offered: set[bytes] = set()
        for key in agent_keys:
            if not self._destination.identities_only or key.asbytes() in wanted:
                offered.add(key.asbytes())
                yield f"agent key {key.get_name()}", key
        for path in self._destination.identity_files:
            if not os.path.exists(path) or _public_blob(path) in offered:
                continue
            loaded = self._load(path)
            if loaded is not None and loaded.asbytes() not in offered:
                yield from _with_certificate(path, loaded)

    def _agent_keys(self) -> list[paramiko.PKey]:
        socket_path = self._destination.identity_agent
        if socket_path.lower() == "none":
            return []
        with _agent_socket(socket_path):
            try:
                self._agent = paramiko.Agent()
                return list(self._agent.get_keys())
            except (paramiko.SSHException, OSError, EOFError):
                return []

    def _load(self, path: str) -> paramiko.PKey | None:
        passphrase = self._secrets.passphrases.get(path)
        for _ in range(_ATTEMPTS + 1):
            try:
                secret: Any = passphrase.encode() if passphrase else None  # its hints say str, it takes bytes
                key: paramiko.PKey = paramiko.PKey.from_path(path, secret)
            except (paramiko.PasswordRequiredException, TypeError, ValueError, paramiko.SSHException) as error:
                # With a passphrase every failure means that it is the wrong one, whatever the message says.
                if not passphrase and not _is_encrypted(error):
                    self._tried.append(f"{path} (not readable: {error})")
                    return None
                passphrase = self._secrets.question(f"Passphrase for key {path}: ", echo=False)
                if not passphrase:
                    self._tried.append(f"{path} (encrypted, and nobody to ask for its passphrase)")
                    return None
            except (OSError, paramiko.pkey.UnknownKeyType) as error:
                self._tried.append(f"{path} (not readable: {error})")
                return None
            else:
                if passphrase:
                    self._secrets.passphrases[path] = passphrase
                return key
        return None

    def _try_interactive(self) -> bool:
        if self._secrets.ask is None:
            return False
        self._tried.append("keyboard-interactive")
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(paramiko.AuthenticationException):
                return self._done(self._transport.auth_interactive(self._destination.user, self._answer))
            if not self._transport.is_active():
                return False
        return False

    def _answer(self, title: str, instructions: str, prompts: list[tuple[str, bool]]) -> list[str]:
        head = "".join(f"{line}\n" for line in (title, instructions) if line)
        return [self._secrets.question(head + prompt, echo=echo) or "" for prompt, echo in prompts]

    def _try_password(self) -> bool:
        account = f"{self._destination.user}@{self._destination.address}:{self._destination.port}"
        password = self._secrets.passwords.get(account)
        for _ in range(_ATTEMPTS):
            password = password or self._secrets.question(f"Password for {account}: ", echo=False)
            if not password:
                return False
            if "password" not in self._tried:
                self._tried.append("password")
            with contextlib.suppress(paramiko.AuthenticationException):
                further = self._transport.auth_password(self._destination.user, password, fallback=False)
                self._secrets.passwords[account] = password
                return self._done(further)
            password = None
            if not self._transport.is_active():
                return False
        return False


@contextlib.contextmanager
def _agent_socket(path: str) -> Iterator[None]:
    """IdentityAgent: paramiko takes the agent's socket from the environment alone."""
    if not path or path == "SSH_AUTH_SOCK":
        yield
        return
    before = os.environ.get("SSH_AUTH_SOCK")
    os.environ["SSH_AUTH_SOCK"] = os.environ.get(path[1:], "") if path.startswith("$") else path
    try:
        yield
    finally:
        if before is None:
            del os.environ["SSH_AUTH_SOCK"]
        else:
            os.environ["SSH_AUTH_SOCK"] = before


def _is_encrypted(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, paramiko.PasswordRequiredException) or "encrypted" in text or "password" in text


def _public_blob(path: str) -> bytes | None:
    try:
        with open(path + ".pub", encoding="ascii", errors="replace") as file:
            return base64.b64decode(file.readline().split()[1], validate=True)
    except (OSError, IndexError, binascii.Error):
        return None


def _with_certificate(path: str, key: paramiko.PKey) -> Iterator[tuple[str, paramiko.PKey]]:
    """A key with a certificate beside it (PATH-cert.pub, loaded with it) is offered as both, the certificate first."""
    if key.public_blob is not None:
        yield f"{path}-cert.pub", key
        key = copy.copy(key)
        key.public_blob = None
    yield path, key
