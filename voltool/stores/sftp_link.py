"""One connection to an SFTP server that several threads share, made anew when it breaks. Knows nothing of stores.

What is asked twice because the first answer was lost must be harmless: whoever uses `SftpLink.run` says whether it is.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import paramiko

from voltool.errors import NotFoundError, UnreachableError, VoltoolError
from voltool.ssh import openssh
from voltool.ssh.connection import SshSettings, connect
from voltool.ssh.stream import Stream
from voltool.stores.access import StoreAccess
from voltool.stores.sftp_client import DENIED, NO_SUCH_FILE, SftpClient
from voltool.stores.sftp_wire import SftpStatus

T = TypeVar("T")
_SUBSYSTEM = "sftp"


class SftpLink:
    """The way to the SFTP server on ``host`` (as `ssh.connection.connect` takes it). Connects when it is first used."""

    def __init__(self, host: str, access: StoreAccess) -> None:
        self.host = host
        self._access = access
        self._lock = threading.RLock()
        self._client: SftpClient | None = None
        self._hang_up: Callable[[], None] = lambda: None
        #: Grows with each connection: a handle belongs to one of them.
        self.generation = 0

    def run(self, act: Callable[[SftpClient], T], *, again: bool = True) -> T:
        """``act`` with the connection to itself; ``again``: once more over a new one where it breaks.

        Raises SftpStatus; UnreachableError where the host cannot be reached, or the connection broke.
        """
        with self._lock:
            for last in (not again, True):
                try:
                    return act(self._connected())
                except (SftpStatus, VoltoolError):
                    raise
                except (paramiko.SSHException, EOFError, OSError) as error:
                    self._drop()
                    if last:
                        raise self._broken(error) from None
                except BaseException:  # Ctrl-C in the middle of a reply: nobody could tell where the next one begins
                    self._drop()
                    raise
            raise AssertionError("unreachable")

    def close(self) -> None:
        """Hang up. Idempotent; a later `run` connects again."""
        with self._lock:
            self._drop()

    def _connected(self) -> SftpClient:
        if self._client is None:
            self._client = self._open()
            self.generation += 1
        return self._client

    def _drop(self) -> None:
        if self._client is not None:
            self._client = None
            self._hang_up()

    def _open(self) -> SftpClient:
        access = self._access
        if access.transport == "openssh":
            return self._open_openssh(access)
        settings = SshSettings(
            access.reporter, access.connect_timeout, access.ssh_config, access.secrets, access.silence_timeout
        )
        connection = connect(self.host, settings)
        self._hang_up = connection.close
        try:
            channel = connection.transport.open_session()
            channel.settimeout(access.silence_timeout)
            channel.invoke_subsystem(_SUBSYSTEM)
            return SftpClient(channel)
        except (paramiko.SSHException, EOFError, OSError, SftpStatus) as error:
            connection.close()
            raise self._no_sftp(str(error)) from None

    def _open_openssh(self, access: StoreAccess) -> SftpClient:
        stream = openssh.open_command(
            self.host, _SUBSYSTEM, config_file=access.ssh_config, connect_timeout=access.connect_timeout,
            silence_timeout=access.silence_timeout, interactive=access.secrets.ask is not None, subsystem=True,
        )  # fmt: skip
        self._hang_up = stream.close
        try:
            return SftpClient(_StreamSocket(stream, access.silence_timeout))
        except (paramiko.SSHException, EOFError, OSError, SftpStatus) as error:
            unreached = stream.exit_status(1.0) == 255
            why = stream.stderr_tail() or str(error)
            stream.close()
            if unreached:
                remedy = f"ssh {self.host}"
                raise UnreachableError("the host cannot be reached", where=self.host, why=why, remedy=remedy) from None
            raise self._no_sftp(why) from None

    def _no_sftp(self, why: str) -> VoltoolError:
        return UnreachableError(
            "the host lets us in, and does not serve SFTP", where=self.host, why=why or "it closed the channel",
            remedy=f"sftp {self.host} (its sshd_config needs a Subsystem sftp)",
        )  # fmt: skip

    def _broken(self, error: BaseException) -> UnreachableError:
        silent = isinstance(error, TimeoutError)
        why = f"it has not answered for {self._access.silence_timeout:g} s" if silent else str(error)
        return UnreachableError(
            "the connection to the store's host broke", where=self.host, why=why or "it was closed",
            remedy="the same again; what was begun and not published is removed by a later run",
        )  # fmt: skip


class _StreamSocket:
    """A `Stream` as paramiko's SFTP client wants its channel."""

    def __init__(self, stream: Stream, timeout: float) -> None:
        self._stream = stream
        self._timeout = timeout

    def send(self, data: Any) -> int:
        """All of it."""
        self._stream.write(data)
        return len(data)

    def recv(self, limit: int) -> bytes:
        """At least one byte; none at the end. Raises TimeoutError."""
        return self._stream.read(limit, self._timeout)

    def close(self) -> None:
        """End the command."""
        self._stream.close()


@contextlib.contextmanager
def translated(what: str, where: str) -> Iterator[None]:
    """What the server refuses becomes an error of ours."""
    try:
        yield
    except SftpStatus as status:
        if status.code == NO_SUCH_FILE:
            raise NotFoundError(
                what, where=where, why="no such file", remedy="voltool dumps, to see what is there"
            ) from None
        why = "permission denied" if status.code == DENIED else f"the server says: {status.text}"
        remedy = "check the store's directory there: its owner, its mount, its disk"
        raise VoltoolError(what, where=where, why=why, remedy=remedy) from None
