"""Who one end of a direct path is: a private key and a self-signed certificate, made on its own host. Ships to servers.

A certificate says nothing about anybody. It is trusted because the command line carried it to the other end over SSH, and the
other end accepts that very certificate and no other (`contexts`).
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import ssl
import stat
import subprocess
from dataclasses import dataclass, field
from typing import Optional

from voltool import durable
from voltool.agent.path.libcrypto import LibcryptoError, make_key_and_certificate
from voltool.errors import HostError
from voltool.showing import shown

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----\s(.+?)-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile(rb"-----BEGIN (?:EC )?PRIVATE KEY-----\s.+?-----END (?:EC )?PRIVATE KEY-----\n", re.DOTALL)
_SECONDS = 30


@dataclass(frozen=True)
class Identity:
    """``certificate`` in DER, which the other end is told; ``key`` in PEM, which never leaves the host."""

    certificate: bytes
    key: bytes = field(repr=False)

    def pem(self) -> bytes:
        """Both in one, as `ssl` and `load_identity` read it."""
        return self.key + ssl.DER_cert_to_PEM_cert(self.certificate).encode()


def make_identity() -> Identity:
    """A new key pair, in memory alone. HostError where this host has no means to make one."""
    if not ssl.HAS_TLSv1_3:
        raise HostError(
            "this host has no TLS 1.3",
            why=f"its python3 uses {ssl.OPENSSL_VERSION}",
            remedy="a python3 with OpenSSL 1.1.1 or later",
        )
    try:
        key, certificate = make_key_and_certificate()
    except LibcryptoError as error:
        return _made_by_command(str(error))
    return Identity(certificate, key)


def _made_by_command(why: str) -> Identity:
    """The same by the command ``openssl``, which writes both to its stdout."""
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "36500",
    ]
    words += ["-subj", f"/CN=voltool {secrets.token_hex(16)}", "-keyout", "-", "-out", "-"]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        why = f"{why}; openssl: {error}"
    else:
        identity = _parse(done.stdout)
        if identity is not None:
            return identity
        why = f"{why}; openssl ended with status {done.returncode}"
    raise HostError(
        "no key pair can be made on this host",
        why=why,
        remedy="install openssl there (libcrypto 1.1.1 or later, or the command)",
    )


def save_identity(identity: Identity, path: bytes) -> None:
    """Keep it in a file that only its owner reads; durable, replaces what was there. OSError."""
    durable.write_file(path, identity.pem())


def load_identity(path: bytes) -> Identity:
    """The one that was kept. FileNotFoundError where there is none; HostError where it is damaged, or others had access to it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise HostError(
                "a private key is not private", where=shown(path), why="others can read it, or it is not ours",
                remedy="remove it: a new one is made",
            )  # fmt: skip
        identity = _parse(file.read())
    if identity is None:
        raise HostError("a private key is damaged", where=shown(path), remedy="remove it: a new one is made")
    return identity


def _parse(pem: bytes) -> Optional[Identity]:
    key, certificate = _KEY.search(pem), _CERTIFICATE.search(pem)
    if key is None or certificate is None:
        return None
    return Identity(base64.b64decode(certificate[1]), key[0])
