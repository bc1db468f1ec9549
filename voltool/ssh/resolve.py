"""HOST to everything needed to reach it, as OpenSSH resolves it.

``ssh -G`` where the client is installed (it knows Include, Match, canonical names), else paramiko's reader of
~/.ssh/config. Makes no connection. Sources: ssh(1), ssh_config(5).
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from voltool.errors import UsageError

DEFAULT_PORT = 22
_RESOLVE_TIMEOUT = 30.0
_DEFAULT_IDENTITIES = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
_DEFAULT_USER_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_DEFAULT_GLOBAL_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")


@dataclass(frozen=True)
class HostName:
    """HOST as the user wrote it, taken apart; ``name`` is a Host of ~/.ssh/config or an address."""

    name: str
    user: str | None = None
    port: int | None = None


@dataclass(frozen=True)
class Destination:
    """How to reach one host. Files are expanded paths; ``proxy_jump`` is the chain as ssh_config(5) writes it.

    ``key_name`` is the name under which known_hosts has the host (HostKeyAlias, else the address with its port).
    ``alive_interval`` in seconds, 0: not configured.
    """

    host: str
    address: str
    port: int
    user: str
    key_name: str
    identity_files: tuple[str, ...] = ()
    identities_only: bool = False
    identity_agent: str = ""
    user_known_hosts: tuple[str, ...] = ()
    global_known_hosts: tuple[str, ...] = ()
    proxy_jump: str = ""
    proxy_command: str = ""
    address_family: str = "any"
    alive_interval: int = 0
    connect_timeout: float = 0.0


def parse_host(text: str) -> HostName:
    """``name``, ``user@name``, ``user@addr:port``, ``[v6]:port``, a bare IPv6 address. Raises UsageError."""
    user, at, rest = text.rpartition("@")
    if at and not user:
        raise _bad_host(text)
    match = re.fullmatch(r"\[([^\[\]]+)\](?::(\d+))?", rest) or re.fullmatch(r"([^:\[\]]+)(?::(\d+))?", rest)
    if match is None and rest.count(":") >= 2 and re.fullmatch(r"[0-9A-Fa-f:.]+(%[\w.-]+)?", rest):
        return HostName(rest, user or None)
    if match is None or match[1].startswith("-") or user.startswith("-") or re.search(r"\s|[\x00-\x1f]", text):
        raise _bad_host(text)
    port = int(match[2]) if match[2] else None
    if port is not None and not 0 < port < 65536:
        raise _bad_host(text)
    return HostName(match[1], user or None, port)


def _bad_host(text: str) -> UsageError:
    return UsageError(
        f"not a host: {text!r}", remedy="a name of ~/.ssh/config, user@address, user@address:port, or [IPv6]:port"
    )


def resolve(host: str, config_file: str | None = None) -> Destination:
    """The destination of ``host``; ``config_file`` instead of ~/.ssh/config. Raises UsageError."""
    name = parse_host(host)
    client = shutil.which("ssh")
    options = _ask_openssh(client, name, config_file) if client else _ask_paramiko(name, config_file)
    return destination_from_options(name, options)


def _ask_openssh(client: str, name: HostName, config_file: str | None) -> dict[str, list[str]]:
    command = [client, "-G"]
    if config_file:
        command += ["-F", config_file]
    if name.user:
        command += ["-l", name.user]
    if name.port:
        command += ["-p", str(name.port)]
    done = subprocess.run(
        [*command, "--", name.name], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        timeout=_RESOLVE_TIMEOUT,
    )  # fmt: skip
    if done.returncode != 0:
        raise UsageError(
            f"ssh does not accept the host {name.name!r} or its configuration", why=done.stderr.strip()[-400:],
            remedy=f"ssh -G {name.name}",
        )  # fmt: skip
    return parse_options(done.stdout)


def parse_options(text: str) -> dict[str, list[str]]:
    """The output of ``ssh -G``: keyword (lower case) to its values in order."""
    options: dict[str, list[str]] = {}
    for line in text.splitlines():
        keyword, _, value = line.partition(" ")
        options.setdefault(keyword.lower(), []).append(value)
    return options


def _ask_paramiko(name: HostName, config_file: str | None) -> dict[str, list[str]]:
    from voltool.ssh.library import paramiko, with_commands

    with_commands()
    path = os.path.expanduser(config_file or "~/.ssh/config")
    try:
        config = paramiko.SSHConfig.from_path(path)
    except FileNotFoundError:
        config = paramiko.SSHConfig()
    except (OSError, paramiko.SSHException) as error:
        raise UsageError("the ssh configuration cannot be read", where=path, why=str(error)) from None
    found: Mapping[str, str | list[str]] = dict(config.lookup(name.name))
    options = {key: value if isinstance(value, list) else [value] for key, value in found.items()}
    if name.user:
        options["user"] = [name.user]
    if name.port:
        options["port"] = [str(name.port)]
    return options


def destination_from_options(name: HostName, options: Mapping[str, Sequence[str]]) -> Destination:
    """A destination out of the options that ``ssh -G`` prints."""

    def first(key: str, default: str = "") -> str:
        value = options.get(key, [default])[0].strip()
        return "" if value.lower() == "none" else value

    address = first("hostname", name.name) or name.name
    port = int(first("port") or DEFAULT_PORT)
    user = first("user") or name.user or getpass.getuser()
    tokens = _tokens(name.name, address, port, user)
    alias = first("hostkeyalias")
    user_hosts = _split_paths(
        first("userknownhostsfile") if "userknownhostsfile" in options else None, _DEFAULT_USER_HOSTS
    )
    global_hosts = _split_paths(
        first("globalknownhostsfile") if "globalknownhostsfile" in options else None, _DEFAULT_GLOBAL_HOSTS
    )
    return Destination(
        host=name.name,
        address=address,
        port=port,
        user=user,
        key_name=alias or (address if port == DEFAULT_PORT else f"[{address}]:{port}"),
        identity_files=tuple(_expand(path, tokens) for path in options.get("identityfile", _DEFAULT_IDENTITIES)),
        identities_only=first("identitiesonly") == "yes",
        identity_agent=_expand(options.get("identityagent", [""])[0], tokens),
        user_known_hosts=tuple(_expand(path, tokens) for path in user_hosts),
        global_known_hosts=tuple(_expand(path, tokens) for path in global_hosts),
        proxy_jump=first("proxyjump"),
        proxy_command=_replace_tokens(first("proxycommand"), tokens),
        address_family=first("addressfamily", "any"),
        alive_interval=int(first("serveraliveinterval") or 0),
        connect_timeout=float(first("connecttimeout") or 0),
    )


def _split_paths(value: str | None, default: tuple[str, ...]) -> tuple[str, ...]:
    if value is None:
        return default
    # ssh -G prints the list without quotes; a path with blanks can only be recognised by being there.
    return (value,) if os.path.exists(os.path.expanduser(value)) else tuple(value.split())


def _tokens(name: str, address: str, port: int, user: str) -> dict[str, str]:
    local = socket.gethostname()
    return {
        "%": "%", "h": address, "n": name, "p": str(port), "r": user, "u": getpass.getuser(),
        "d": os.path.expanduser("~"), "l": local, "L": local.split(".")[0], "i": str(os.getuid()), "k": name,
    }  # fmt: skip


def _replace_tokens(text: str, tokens: Mapping[str, str]) -> str:
    return re.sub("%(.)", lambda match: tokens.get(match[1], match[0]), text)


def _expand(path: str, tokens: Mapping[str, str]) -> str:
    return os.path.expanduser(_replace_tokens(path.strip().strip('"'), tokens))
