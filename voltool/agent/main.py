"""The agent's life: greet, read requests, let handlers answer them, end with the connection and leave nothing running.

Part of what is shipped to servers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import sys
from typing import Any

import voltool
from voltool.agent.acts import ActLog
from voltool.agent.channel import ConnectionGone, HangUpWatch, HungUp, StdioChannel, end_children, take_over_stdio
from voltool.agent.handlers import Handler, find_handler
from voltool.agent.host import HostState, find_host_state
from voltool.errors import AgentError, HostError, SpaceError, VoltoolError
from voltool.memory import keep_freed_memory
from voltool.showing import shown
from voltool.wire import messages
from voltool.wire.pulse import Pulse

#: Where the tools of file systems are, which the PATH of a non-interactive login often lacks.
_MORE_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_TRACE_LINES = 6


def main() -> int:
    """Serve one connection on stdin and stdout; the exit status."""
    settle_process()
    channel = take_over_stdio()
    watch = HangUpWatch(channel.source)
    watch.start()
    try:
        channel.greet()
        serve(channel, watch, find_host_state(os.environ, os.geteuid()))
    except (ConnectionGone, HungUp):
        pass
    finally:
        end_children()
    watch.stop()
    return 0


def settle_process() -> None:
    """What every handler relies on: private files, all tools on the PATH, no signal that kills by accident."""
    keep_freed_memory()
    os.umask(0o077)
    os.chdir("/")
    # F_SETLEASE announces a broken lease by SIGIO, which would end us.
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    paths = [part for part in os.environ.get("PATH", "").split(":") if part]
    os.environ["PATH"] = ":".join([*paths, *(part for part in _MORE_PATH if part not in paths)])
    os.environ["LC_ALL"] = "C"  # messages of tools are parsed
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.suppress(PermissionError):  # it leads a session already
        os.setsid()


def serve(channel: StdioChannel, watch: HangUpWatch, host: HostState) -> None:
    """Answer requests until the connection ends (ConnectionGone or HungUp)."""
    hello = channel.receive()
    if not isinstance(hello, messages.Hello):
        channel.send(messages.failure_of(AgentError("the first message must be Hello")))
        return
    if hello.silence:
        watch.listen(channel, Pulse(hello.silence))
    acts = ActLog(host, os.environ, hello.caller)
    channel.send(introduce(host))
    while True:
        request = channel.receive()
        # What is left of a transfer whose request has failed.
        if isinstance(request, (bytes, messages.EndOfData, messages.Proceed)):
            continue
        with watch:
            _answer(request, channel, host, acts)


def introduce(host: HostState) -> messages.HelloReply:
    """Who this agent is."""
    from voltool.dumpfile.codec import find_lz4

    lz4 = find_lz4()
    return messages.HelloReply(
        version=voltool.__version__,
        python=sys.version.partition(" ")[0].rstrip("+"),
        hostname=host.hostname,
        machine_id=host.machine_id,
        boot_id=host.boot_id,
        uid=os.geteuid(),
        lz4=lz4.source if lz4 is not None else "",
    )


def _answer(request: Any, channel: StdioChannel, host: HostState, acts: ActLog) -> None:
    """One request, one reply or Failure. Raises ConnectionGone and HungUp, after the handler has cleaned up."""
    acts.begin(request)
    result = "the connection ended"
    try:
        reply = _find(request)(request, channel, host)
        result = "done"
    except ConnectionGone:
        raise
    except VoltoolError as error:
        reply = messages.failure_of(error)
        result = f"failed: {error}"
    except OSError as error:
        reply = messages.failure_of(_system_error(error))
        result = f"failed: {error}"
    except Exception as error:  # noqa: BLE001 - whatever it is, the user must hear of it
        reply = messages.failure_of(_unexpected(error))
        result = f"failed: {reply.why}"
    finally:
        acts.end(request, result)
    channel.send(reply)


def _find(request: object) -> Handler:
    try:
        return find_handler(request)
    except KeyError:
        raise AgentError("that is not a request", why=type(request).__name__) from None


def _system_error(error: OSError) -> VoltoolError:
    where = ""
    if isinstance(error.filename, (str, bytes)):
        where = shown(os.fsencode(error.filename))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpaceError(
            "there is no room on the host", where=where, why=f"{error.strerror}; {_trace(error)}",
            remedy="make some there; voltool needs a little beside the volume",
        )  # fmt: skip
    return HostError(
        "the host refused an operation", where=where, why=f"{error.strerror or error}; {_trace(error)}",
        remedy="look at the host's own log (dmesg) and at the rights of the account",
    )  # fmt: skip


def _unexpected(error: BaseException) -> AgentError:
    return AgentError(
        "the agent failed in a way it did not expect",
        why=f"{type(error).__name__}: {error}; {_trace(error)}",
        remedy="please report this with the text above",
    )


def _trace(error: BaseException) -> str:
    """Where it happened, innermost last: ``scan.py:120 read_entry``."""
    import traceback  # an agent that starts has no use for it

    frames = traceback.extract_tb(error.__traceback__)[-_TRACE_LINES:]
    return "at " + ", ".join(f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames)


if __name__ == "__main__":
    sys.exit(main())
