"""A key pair and its certificate, made by libcrypto through ctypes: the standard library can use certificates, not make them.

The library is the very one that `ssl` has loaded (1.1.1 or 3.x; every function named here is in both). Nothing is written to a
disk. Part of what is shipped to servers. Sources: EVP_PKEY_keygen(3), EVP_PKEY_CTX_ctrl_str(3), X509_sign(3), BIO_s_mem(3).
"""

from __future__ import annotations

import ctypes
import secrets
from ctypes import c_char_p, c_int, c_long, c_void_p
from typing import Any, Dict, List, Tuple

_EVP_PKEY_EC = 408
_MBSTRING_ASC = 0x1001
_VERSION_3 = 2
_MOST_PEM = 16 << 10

#: Result and arguments of each function.
_FUNCTIONS: Dict[str, Tuple[Any, List[Any]]] = {
    "EVP_PKEY_CTX_new_id": (c_void_p, [c_int, c_void_p]),
    "EVP_PKEY_CTX_free": (None, [c_void_p]),
    "EVP_PKEY_keygen_init": (c_int, [c_void_p]),
    "EVP_PKEY_CTX_ctrl_str": (c_int, [c_void_p, c_char_p, c_char_p]),
    "EVP_PKEY_keygen": (c_int, [c_void_p, c_void_p]),
    "EVP_PKEY_free": (None, [c_void_p]),
    "EVP_sha256": (c_void_p, []),
    "X509_new": (c_void_p, []),
    "X509_free": (None, [c_void_p]),
    "X509_set_version": (c_int, [c_void_p, c_long]),
    "X509_get_serialNumber": (c_void_p, [c_void_p]),
    "ASN1_INTEGER_set": (c_int, [c_void_p, c_long]),
    "X509_getm_notBefore": (c_void_p, [c_void_p]),
    "X509_getm_notAfter": (c_void_p, [c_void_p]),
    "ASN1_TIME_set_string": (c_int, [c_void_p, c_char_p]),
    "X509_get_subject_name": (c_void_p, [c_void_p]),
    "X509_NAME_add_entry_by_txt": (c_int, [c_void_p, c_char_p, c_int, c_char_p, c_int, c_int, c_int]),
    "X509_set_issuer_name": (c_int, [c_void_p, c_void_p]),
    "X509_set_pubkey": (c_int, [c_void_p, c_void_p]),
    "X509_sign": (c_int, [c_void_p, c_void_p, c_void_p]),
    "i2d_X509": (c_int, [c_void_p, c_void_p]),
    "BIO_s_mem": (c_void_p, []),
    "BIO_new": (c_void_p, [c_void_p]),
    "BIO_read": (c_int, [c_void_p, c_char_p, c_int]),
    "BIO_free": (c_int, [c_void_p]),
    "PEM_write_bio_PrivateKey": (c_int, [c_void_p, c_void_p, c_void_p, c_void_p, c_int, c_void_p, c_void_p]),
}


class LibcryptoError(Exception):
    """It cannot be done with this libcrypto; the text says what failed."""


def make_key_and_certificate() -> Tuple[bytes, bytes]:
    """The private key (PEM) and its self-signed certificate (DER): P-256, valid whatever the clocks of the hosts say.
    LibcryptoError."""
    crypto = _Libcrypto()
    try:
        return crypto.make()
    finally:
        crypto.free()


class _Libcrypto:
    """The functions, and what was allocated."""

    def __init__(self) -> None:
        try:
            import _ssl

            # A look-up in the module's own library also finds what that was linked with.
            library = ctypes.CDLL(getattr(_ssl, "__file__", None))
            self._functions = {name: getattr(library, name) for name in _FUNCTIONS}
        except (ImportError, OSError, AttributeError) as error:
            raise LibcryptoError(str(error)) from None
        for name, (result, arguments) in _FUNCTIONS.items():
            self._functions[name].restype, self._functions[name].argtypes = result, arguments
        self._allocated: List[Tuple[str, Any]] = []

    def free(self) -> None:
        """Give back what was allocated."""
        while self._allocated:
            name, pointer = self._allocated.pop()
            self._functions[name](pointer)

    def make(self) -> Tuple[bytes, bytes]:
        """See `make_key_and_certificate`."""
        key = self._new_key()
        certificate = self._new("X509_new", "X509_free")
        self._do("X509_set_version", certificate, _VERSION_3)
        self._do("ASN1_INTEGER_set", self._get("X509_get_serialNumber", certificate), secrets.randbits(31) | 1)
        self._do("ASN1_TIME_set_string", self._get("X509_getm_notBefore", certificate), b"20000101000000Z")
        self._do("ASN1_TIME_set_string", self._get("X509_getm_notAfter", certificate), b"99991231235959Z")
        name = self._get("X509_get_subject_name", certificate)
        words = b"voltool " + secrets.token_hex(16).encode()
        self._do("X509_NAME_add_entry_by_txt", name, b"CN", _MBSTRING_ASC, words, -1, -1, 0)
        self._do("X509_set_issuer_name", certificate, name)
        self._do("X509_set_pubkey", certificate, key)
        self._do("X509_sign", certificate, key, self._get("EVP_sha256"))
        return self._pem(key), self._der(certificate)

    def _new_key(self) -> Any:
        maker = self._new("EVP_PKEY_CTX_new_id", "EVP_PKEY_CTX_free", _EVP_PKEY_EC, None)
        self._do("EVP_PKEY_keygen_init", maker)
        self._do("EVP_PKEY_CTX_ctrl_str", maker, b"ec_paramgen_curve", b"P-256")
        key = c_void_p()
        self._do("EVP_PKEY_keygen", maker, ctypes.byref(key))
        self._allocated.append(("EVP_PKEY_free", key))
        return key

    def _der(self, certificate: Any) -> bytes:
        length = self._functions["i2d_X509"](certificate, None)
        if length <= 0:
            raise LibcryptoError("i2d_X509 failed")
        buffer = ctypes.create_string_buffer(length)
        place = c_void_p(ctypes.addressof(buffer))  # i2d moves it past what it wrote
        self._do("i2d_X509", certificate, ctypes.byref(place))
        return buffer.raw

    def _pem(self, key: Any) -> bytes:
        memory = self._new("BIO_new", "BIO_free", self._get("BIO_s_mem"))
        self._do("PEM_write_bio_PrivateKey", memory, key, None, None, 0, None, None)
        buffer = ctypes.create_string_buffer(_MOST_PEM)
        length = self._do("BIO_read", memory, buffer, _MOST_PEM)
        return buffer.raw[:length]

    def _new(self, name: str, free: str, *arguments: Any) -> Any:
        pointer = c_void_p(self._get(name, *arguments))
        self._allocated.append((free, pointer))
        return pointer

    def _get(self, name: str, *arguments: Any) -> Any:
        pointer = self._functions[name](*arguments)
        if not pointer:
            raise LibcryptoError(f"{name} failed")
        return pointer

    def _do(self, name: str, *arguments: Any) -> int:
        result: int = self._functions[name](*arguments)
        if result <= 0:
            raise LibcryptoError(f"{name} failed")
        return result
