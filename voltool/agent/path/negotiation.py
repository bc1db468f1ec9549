"""The verbs by which an agent gets its end of a direct path: see `wire.paths`. Ships to servers."""

from __future__ import annotations

from voltool.agent.host import HostState
from voltool.agent.path.held import path_of
from voltool.errors import VoltoolError
from voltool.wire import messages, paths
from voltool.wire.conversation import Conversation


def prepare_path(
    request: paths.PreparePath,  # noqa: ARG001 - a handler's signature
    conversation: Conversation,
    host: HostState,  # noqa: ARG001
) -> paths.PathPrepared:
    """Handle `PreparePath`."""
    held = path_of(conversation)
    held.close()
    try:
        from voltool.agent.path.identity import make_identity

        held.identity = make_identity()
    except ImportError as error:
        return paths.PathPrepared(why=f"its python3 has no TLS ({error})")
    except VoltoolError as error:
        return paths.PathPrepared(why=_in_words(error))
    return paths.PathPrepared(held.identity.certificate)


def listen_for_path(
    request: paths.ListenForPath,
    conversation: Conversation,
    host: HostState,  # noqa: ARG001
) -> paths.PathListening:
    """Handle `ListenForPath`."""
    held = path_of(conversation)
    held.drop()
    if held.identity is None:
        return paths.PathListening(why="it has no key")
    from voltool.agent.path.listening import Listener

    try:
        held.listener = Listener(
            held.identity, (request.peer,), request.ports, token=request.token, silence=request.silence
        )
    except VoltoolError as error:
        return paths.PathListening(why=_in_words(error))
    return paths.PathListening(tuple(held.listener.addresses(loopback=request.loopback)), held.listener.port)


def join_path(
    request: paths.JoinPath,
    conversation: Conversation,
    host: HostState,  # noqa: ARG001
) -> paths.PathState:
    """Handle `JoinPath`."""
    held = path_of(conversation)
    held.drop()
    if held.identity is None:
        return paths.PathState("it has no key")
    from voltool.agent.path.joining import join

    try:
        held.link = join(
            held.identity,
            request.peer,
            request.addresses,
            request.port,
            request.token,
            request.timeout,
            silence=request.silence,
        )
    except VoltoolError as error:
        return paths.PathState(f"port {request.port}: {error.why}")
    return paths.PathState()


def await_path(
    request: paths.AwaitPath,
    conversation: Conversation,
    host: HostState,  # noqa: ARG001
) -> paths.PathState:
    """Handle `AwaitPath`."""
    held = path_of(conversation)
    if held.listener is None:
        return paths.PathState("nobody listens")
    try:
        held.link = held.listener.accept(request.timeout)
    except VoltoolError as error:
        return paths.PathState(_in_words(error))
    finally:
        held.listener.close()
        held.listener = None
    return paths.PathState()


def close_path(
    request: paths.ClosePath,  # noqa: ARG001
    conversation: Conversation,
    host: HostState,  # noqa: ARG001
) -> messages.Done:
    """Handle `ClosePath`."""
    path_of(conversation).close()
    return messages.Done()


def _in_words(error: VoltoolError) -> str:
    """What and why, and what would help: the command line has its own remedy."""
    text = f"{error.what} ({error.where})" if error.where else error.what
    text = f"{text}: {error.why}" if error.why else text
    return f"{text}; {error.remedy}" if error.remedy else text
