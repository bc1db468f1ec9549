"""Ways to agents on hosts: `RemoteHosts` is what the jobs know as ``Hosts``."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from voltool.errors import HostError, UnreachableError, UsageError, VoltoolError
from voltool.events import Reporter
from voltool.remote import bootstrap
from voltool.remote.session import AgentSession
from voltool.remote.ship import ShippedAgent, build_agent
from voltool.ssh.secrets import Secrets
from voltool.ssh.stream import ProcessStream, Stream

LOCAL = "local"
#: Silence for so long while the agent starts means that it does not (a cold cache on a slow disk included), seconds.
_START_TIMEOUT = 90.0


@dataclass(frozen=True)
class HostSettings:
    """What the configuration says of one host.

    ``transport``: ``paramiko`` or ``openssh``. ``become``: run the agent as root by sudo. ``python``: its interpreter
    there; empty: the newest that is found. ``connect_timeout`` in seconds. ``ssh_config``: instead of ~/.ssh/config.
    ``silence_timeout``: so many seconds without a sign of life, and either side gives the connection up. ``ports``: where it may
    wait for other hosts, ``from-to``; empty: at any that is free.
    """

    transport: str = "paramiko"
    become: bool = False
    python: str = ""
    connect_timeout: float = 20.0
    ssh_config: str | None = None
    silence_timeout: float = 120.0
    ports: str = ""


@dataclass
class RemoteHosts:
    """Connects to agents. Implements `backup.ports.Hosts`.

    ``settings`` gives each host's settings; ``caller`` says who asks (user@machine, pid), for locks and logs;
    ``secrets`` asks a person where one can be asked, and remembers; ``ask_become_password``: sudo wants a password.

    Conversations that are open at once belong to one job: when one host falls silent the others are ended with it, for whoever
    waits for another host would not notice.
    """

    settings: Callable[[str], HostSettings]
    reporter: Reporter
    caller: str
    secrets: Secrets = field(default_factory=Secrets)
    ask_become_password: bool = False
    _open_now: list[AgentSession] = field(default_factory=list)

    @contextlib.contextmanager
    def connect(self, host: str) -> Iterator[AgentSession]:
        """See `backup.ports.Hosts`."""
        session = self._start(host, self.settings(host))
        try:
            session.when_silent = self._end_all
            session.greet(self.caller)
            self._open_now.append(session)
            yield session
        finally:
            if session in self._open_now:
                self._open_now.remove(session)
            session.close()

    def apart(self, reporter: Reporter) -> RemoteHosts:
        """See `backup.ports.Hosts`. Only what a person was asked for is shared."""
        return replace(self, reporter=reporter, _open_now=[])

    def _end_all(self, error: VoltoolError) -> None:
        for session in tuple(self._open_now):
            session.give_up(error)

    def _start(self, host: str, settings: HostSettings) -> AgentSession:
        agent = build_agent()
        answer = self._password_answer(host, settings)
        stream = self._open(host, settings, agent, answer)
        try:
            if answer is not None:
                answer.stream = stream
                answer(b"")  # the prompt may have come before the stream was known
            decoder, frames = bootstrap.greet(stream, agent, host, _START_TIMEOUT)
        except HostError as error:
            stream.close()
            if settings.transport == "openssh" and host != LOCAL and stream.exit_status(1.0) == 255:
                raise UnreachableError(
                    "the host cannot be reached", where=host, why=error.why, remedy=f"ssh {host}"
                ) from None
            raise self._explained(host, error, answer) from None
        except BaseException:
            stream.close()
            raise
        silence = settings.silence_timeout
        return AgentSession(
            stream, decoder, frames, self.reporter, host,
            local=host == LOCAL, silence=silence, ports=settings.ports, address=lambda: _address(host, settings),
        )  # fmt: skip

    def _explained(self, host: str, error: HostError, answer: bootstrap.PasswordAnswer | None) -> HostError:
        if answer is None or not answer.wrong:
            return error
        self.secrets.become.pop(host, None)
        return HostError("the password for sudo is wrong", where=host, why=error.why, remedy="try again")

    def _password_answer(self, host: str, settings: HostSettings) -> bootstrap.PasswordAnswer | None:
        if not settings.become or not self.ask_become_password:
            return None
        with self.secrets.asking:
            if host not in self.secrets.become:
                self.secrets.become[host] = self._ask_become_password(host)
            return bootstrap.PasswordAnswer(self.secrets.become[host])

    def _ask_become_password(self, host: str) -> str:
        password = self.secrets.question(f"Password for sudo on {host}: ", echo=False)
        if password is None:
            raise UsageError(
                "a password for sudo is wanted, and there is no terminal to ask on", where=host,
                remedy="run it on a terminal, or let sudo work without a password",
            )  # fmt: skip
        return password

    def _open(
        self, host: str, settings: HostSettings, agent: ShippedAgent, answer: bootstrap.PasswordAnswer | None
    ) -> Stream:
        python = settings.python or (sys.executable if host == LOCAL else "")
        start = bootstrap.Start(bootstrap.pythons(python), settings.become, self.ask_become_password)
        arguments = bootstrap.command_line(start, agent)
        if host == LOCAL:
            return ProcessStream(arguments, environment=dict(os.environ), listener=answer)
        command = bootstrap.shell_command(arguments)
        if settings.transport == "openssh":
            from voltool.ssh import openssh

            return openssh.open_command(
                host, command, config_file=settings.ssh_config, connect_timeout=settings.connect_timeout,
                silence_timeout=settings.silence_timeout, interactive=self.secrets.ask is not None, listener=answer,
            )  # fmt: skip
        if settings.transport != "paramiko":
            raise UsageError(f"no such transport: {settings.transport}", where=host, remedy="paramiko or openssh")
        return self._open_paramiko(host, settings, command, answer)

    def _open_paramiko(
        self, host: str, settings: HostSettings, command: str, answer: bootstrap.PasswordAnswer | None
    ) -> Stream:
        # Here and not above: importing paramiko takes longer than many a command.
        from voltool.ssh.connection import SshSettings, connect

        ssh = SshSettings(
            self.reporter, settings.connect_timeout, settings.ssh_config, self.secrets, settings.silence_timeout
        )
        return connect(host, ssh).run(command, listener=answer)


def _address(host: str, settings: HostSettings) -> str:
    """What OpenSSH would connect to for ``host``; empty where that says nothing to another host."""
    if host == LOCAL:
        return ""
    from voltool.ssh.resolve import resolve

    try:
        address = resolve(host, settings.ssh_config).address
    except VoltoolError:
        return ""
    return "" if address == "localhost" or address.startswith(("127.", "::1")) else address
