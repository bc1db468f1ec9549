"""The first Python that runs on a host: finds the agent in its cache, or takes it off stdin; checks it; becomes it.

Sent as text by bootstrap.py and run by ``python3 -c``; it stands alone, on any Python from 3.9, and this package does not
import it. Arguments: SHA-256 of the agent, its size. It says ``NEED`` on stdout when the agent must be sent, and
``voltool-bootstrap: WORD DETAIL`` when it gives up. A file is used only when it is ours and has the hash in its name.
It imports little, since each connection waits for it.
"""

import hashlib
import os
import stat
import sys
import time

NEED = b"\0voltool-stage\0need\n"
MONTH = 30 * 86400


def state_directory() -> str:
    """As agent.host.state_directory, which is not there yet; a test compares them."""
    if os.environ.get("VOLTOOL_STATE_DIR"):
        return os.path.abspath(os.environ["VOLTOOL_STATE_DIR"])
    if os.geteuid() == 0:
        return "/var/lib/voltool"
    home = os.environ.get("XDG_STATE_HOME") or os.path.join(os.environ.get("HOME", "/"), ".local/state")
    return os.path.join(home, "voltool")


def give_up(word: str, detail: str) -> None:
    """Say why there will be no agent, and end."""
    os.write(1, f"\nvoltool-bootstrap: {word} {detail}\n".encode(errors="surrogateescape"))
    sys.exit(72)


def make_directory(path: str) -> None:
    """Make it, if nobody else just did."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return


def own_directory(path: str) -> None:
    """Make it, or see that nobody else can change what is in it."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    if not os.path.lexists(path):
        make_directory(path)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        give_up("insecure", path)
    if found.st_mode & 0o022:
        os.chmod(path, 0o700)


def cached(path: str, digest: str) -> bool:
    """Whether the agent is there, ours, and unchanged."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            return False
        return hashlib.sha256(file.read()).hexdigest() == digest


def receive(size: int) -> bytes:
    """Exactly ``size`` bytes of stdin: what follows belongs to the agent."""
    os.write(1, NEED)
    data = b""
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            sys.exit(72)
        data += piece
    return data


def store(path: str, data: bytes) -> None:
    """Atomically; versions that nobody has used for a month go."""
    temporary = f"{path}.{os.getpid()}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    directory = os.path.dirname(path)
    for name in os.listdir(directory):
        other = os.path.join(directory, name)
        if other != path and name.startswith("voltool-"):
            forget_old(other)


def forget_old(path: str) -> None:
    """Unlink what nobody has used for a month; another one may be faster."""
    try:
        if os.lstat(path).st_mtime < time.time() - MONTH:
            os.unlink(path)
    except OSError:
        return


def main(digest: str, size: int) -> None:
    """Become the agent."""
    os.umask(0o077)
    state = state_directory()
    path = os.path.join(state, "agent", f"voltool-{digest[:24]}.pyz")
    try:
        own_directory(state)
        own_directory(os.path.dirname(path))
        if not cached(path, digest):
            data = receive(size)
            if hashlib.sha256(data).hexdigest() != digest:
                give_up("damaged", "the agent arrived with another hash")
            store(path, data)
        os.utime(path)
    except OSError as error:
        give_up("cannot-store", f"{error.filename or path}: {error.strerror}")
    os.execv(sys.executable, [sys.executable, "-I", path])  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main(sys.argv[2], int(sys.argv[3]))
