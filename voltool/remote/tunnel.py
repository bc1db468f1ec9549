"""Carries a tunnel between two agents (`wire.tunnel`): what it passes on is ciphertext to it, and it keeps nothing.

One thread does it. It never waits for one end while the other one has something to say for longer than a moment; and a write to
an agent does not block for ever, since agents take whatever comes.
"""

from __future__ import annotations

import time

from voltool.errors import AgentError
from voltool.wire import messages
from voltool.wire.conversation import IntroducedConversation
from voltool.wire.tunnel import EndTunnel, EnterTunnel, LeaveTunnel, TunnelOver

#: How long one end is listened to while the other one might have something to say, seconds: when something came just now; later.
_BRISK, _CALM = 0.003, 0.05
_JUST_NOW = 2.0


def carry(entry: IntroducedConversation, enter: EnterTunnel, exit_: IntroducedConversation, leave: LeaveTunnel) -> str:
    """Let the tunnel stand until ``entry`` says that it is over; why it is, empty: it has done its work. Both conversations are
    free before and afterwards. Raises what either end fails with, and then neither is of use any more."""
    entry.send(enter)
    exit_.send(leave)
    over: TunnelOver | None = None
    heard, first, second = time.monotonic(), entry, exit_
    while over is None:
        came = _pass_on(exit_, entry)
        if came is not None:
            raise AgentError("something else came where a tunnel is", where=exit_.host, why=type(came).__name__)
        came = _pass_on(entry, exit_)
        if isinstance(came, TunnelOver):
            over = came
        elif came is not None:
            raise AgentError("something else came where a tunnel is", where=entry.host, why=type(came).__name__)
        now = time.monotonic()
        pause = _BRISK if now - heard < _JUST_NOW else _CALM
        if first.attend(pause):
            heard = now
        else:
            first, second = second, first
    for end in (entry, exit_):
        end.send(EndTunnel())
    for end in (entry, exit_):
        _await_done(end)
    return over.why


def _pass_on(source: IntroducedConversation, target: IntroducedConversation) -> object:
    """What has come is passed on; the first that is no data frame is given back."""
    while source.attend(0):
        received = source.receive()
        if not isinstance(received, bytes):
            return received
        target.send_data(received)
    return None


def _await_done(end: IntroducedConversation) -> None:
    """What is still under way is dropped."""
    while isinstance(received := end.receive(), bytes | TunnelOver):
        pass
    if not isinstance(received, messages.Done):
        raise AgentError("the tunnel did not end as it should", where=end.host, why=type(received).__name__)
