"""An agent for tests: the real one, whose CheckHost does what the first of its paths says. Nothing else is changed."""

from __future__ import annotations

import hashlib
import io
import zipfile

from voltool.remote.ship import ShippedAgent, build_agent

_HANDLER = '''
import os, signal, subprocess, sys, time
from voltool.errors import SpaceError
from voltool.events import Progressed
from voltool.wire.messages import Done, EndOfData, HostFact, HostReport


def check_host(request, conversation, host):
    verb, *rest = [os.fsdecode(path) for path in request.paths]
    return globals()[verb](conversation, *rest) or HostReport(())


def spin(conversation, marker):
    """Works for ever without looking at the connection, with a child that would outlive it."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)", marker + "-child"], start_new_session=True)
    if os.fork() == 0:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        time.sleep(1000)
        os._exit(0)
    try:
        conversation.send(HostReport((HostFact("spinning", True, str(os.getpid())),)))
        while True:
            sum(range(1000))
    finally:
        open(marker, "w").write("cleaned up")


def busy(conversation, seconds):
    """Says nothing, and hears nothing, for so long."""
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        sum(range(1000))


def value_error(conversation):
    raise ValueError("something odd")


def os_error(conversation):
    open("/no/such/\\x1bfile")


def no_space(conversation):
    conversation.receive()
    raise SpaceError("full", where="/srv", why="df", remedy="rm")


def pollute(conversation):
    print("printed")
    os.write(1, b"written")
    subprocess.run(["echo", "said by a child"])
    os.read(0, 10)


def die(conversation):
    os.write(2, b"first complaint\\nlast \\x1b[31mwords\\n")
    os.kill(os.getpid(), signal.SIGKILL)


def send(conversation, size):
    block = memoryview(bytes(1 << 20))
    for _ in range(int(size) >> 20):
        conversation.send_data(block)
    conversation.send(EndOfData())


def receive(conversation, noise="0"):
    total = 0
    while True:
        message = conversation.receive()
        if isinstance(message, EndOfData):
            return HostReport((HostFact("received", True, str(total)),))
        total += len(message)
        for count in range(int(noise)):
            conversation.send(Done())


def progress(conversation):
    for count in range(1, 5001):
        conversation.report(Progressed("vol1", "scan", 0, count))


def facts(conversation):
    values = {"path": os.environ["PATH"], "umask": oct(os.umask(0o077)), "user": str(os.geteuid()),
              "executable": sys.executable, "version": repr(sys.version_info[:2]), "argv": sys.argv[0]}
    return HostReport(tuple(HostFact(key, True, value) for key, value in values.items()))
'''


def agent_with_verbs() -> ShippedAgent:
    """The shipped agent with the handler above in the place of CheckHost's."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(build_agent().data)) as original,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as changed,
    ):
        for name in original.namelist():
            if name not in {"voltool/agent/check.py", "voltool/agent/check.pyc"}:
                changed.writestr(zipfile.ZipInfo(name), original.read(name))
        changed.writestr(zipfile.ZipInfo("voltool/agent/check.py"), _HANDLER)
    data = buffer.getvalue()
    return ShippedAgent(data, hashlib.sha256(data).hexdigest())
