"""How data goes from one agent to another: over a direct path that is negotiated here, or through this machine.

For every job that has two agents: `open_path` before the transfer's requests, which say ``over_path`` where it is True; then the
job feeds no data frames and no `EndOfData` from one to the other, but waits by `until_sent` for what the sender says next.

The target listens first, and the source connects; where that cannot be done the other way round. Each end gets the other's
certificate and a token, over SSH. Knows what is said (`wire.paths`), not what TLS is.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from voltool.errors import PathBrokenError, UnreachableError, UsageError
from voltool.events import Notice, Reporter
from voltool.wire import paths
from voltool.wire.conversation import IntroducedConversation, expect

AUTO, DIRECT, RELAY = "auto", "direct", "relay"
MODES = (AUTO, DIRECT, RELAY)
#: How long all addresses of the other host are tried, seconds; twice at the most.
_PATIENCE = 4.0
_TOKEN = 32
_SILENCE = 120.0
#: While a transfer goes on: how often the receiver is listened to, seconds.
_TICK = 0.2
#: How long an end has to say what has gone wrong there, once the path between the two is broken, seconds.
_LAST_WORDS = 10.0


def check_mode(mode: str) -> str:
    """``mode`` as the user gave it; UsageError for none of the three."""
    if mode not in MODES:
        raise UsageError(f"there is no path {mode!a}", remedy="--path auto, --path direct or --path relay")
    return mode


def open_path(
    source: IntroducedConversation, target: IntroducedConversation, mode: str, reporter: Reporter, subject: str
) -> bool:
    """Whether ``source`` and ``target`` have a direct path now; both are between two requests. It lasts as long as their
    connections, for any number of transfers, or until one of these fails.

    ``mode``: `RELAY` tries nothing. `AUTO`: where there is none a Notice about ``subject`` (a volume's name) says so, and why.
    `DIRECT`: UnreachableError then.
    """
    if mode == RELAY:
        return False
    why = _negotiate(source, target)
    if not why:
        return True
    if mode == DIRECT:
        raise UnreachableError(
            "there is no direct path between the hosts",
            where=f"{source.host}, {target.host}",
            why=why,
            remedy="let a port through on either host and name it in the configuration ([hosts.NAME] ports = ...);"
            " or --path relay: through this machine",
        )
    text = f"{subject}: the data goes through this machine, for there is no direct path: {why}"
    reporter.report(Notice("warning", text))
    return False


def until_sent(sender: IntroducedConversation, receiver: Callable[[float], bool]) -> None:
    """Wait until ``sender``, which sends over the direct path, has something to say for `receive`; meanwhile ``receiver``, the
    `attend` of the other conversation, is listened to: events are reported. Raises what either fails with; where one fails only
    because the other has, and the path with it, what that other one says."""
    first: PathBrokenError | None = None
    try:
        while not sender.attend(_TICK):
            first = _broken_at(receiver, 0.0)
            if first is not None:
                break
        else:
            return
    except PathBrokenError as error:
        _listen(receiver)
        raise error from None
    _listen(sender.attend)
    raise first


def _broken_at(attend: Callable[[float], bool], timeout: float) -> PathBrokenError | None:
    try:
        attend(timeout)
    except PathBrokenError as error:
        return error
    return None


def _listen(attend: Callable[[float], bool]) -> None:
    """Raise what that end says has gone wrong there, if it is more than that the path broke."""
    left = _LAST_WORDS
    while left > 0 and _broken_at(attend, _TICK) is None:
        left -= _TICK


def _negotiate(source: IntroducedConversation, target: IntroducedConversation) -> str:
    """Why there is no path; empty: there is one."""
    for end in (source, target):
        end.send(paths.PreparePath())
    ends = []
    for end in (source, target):
        prepared = expect(end, paths.PathPrepared)
        ends.append(_End(end, prepared.certificate, f"{end.host}: {prepared.why}" if prepared.why else ""))
    why = "; ".join(end.why for end in ends if end.why)
    if why:
        return why
    here, there = ends
    reasons = []
    for listener, joiner in ((there, here), (here, there)):
        why = _connect(listener, joiner)
        if not why:
            return ""
        reasons.append(f"from {joiner.agent.host} to {listener.agent.host}: {why}")
    return "; ".join(reasons)


@dataclass(frozen=True)
class _End:
    agent: IntroducedConversation
    certificate: bytes
    why: str


def _connect(listener: _End, joiner: _End) -> str:
    token = secrets.token_bytes(_TOKEN)
    silence = min(listener.agent.silence or _SILENCE, joiner.agent.silence or _SILENCE)
    one_machine = listener.agent.agent.boot_id == joiner.agent.agent.boot_id
    listener.agent.send(
        paths.ListenForPath(joiner.certificate, token, listener.agent.ports, loopback=one_machine, silence=silence)
    )
    listening = expect(listener.agent, paths.PathListening)
    if not listening.port:
        return listening.why
    # A host behind a router does not know under which address others see it; the command line may.
    known = listener.agent.address()
    addresses = (*listening.addresses, *([known] if known and known not in listening.addresses else []))
    joiner.agent.send(paths.JoinPath(listener.certificate, token, addresses, listening.port, _PATIENCE, silence))
    why = expect(joiner.agent, paths.PathState).why
    # Also where it did not: who listens shall listen no more.
    listener.agent.send(paths.AwaitPath(0.0 if why else _PATIENCE))
    taken = expect(listener.agent, paths.PathState).why
    return why or taken
