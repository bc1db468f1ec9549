"""zfs-fuse for tests: one daemon for all test processes of this machine, and pools on sparse files. Knows nothing of voltool.

A daemon mounts in its own mount namespace, and each process of a test run has one of its own (tests/conftest.py): so there is a
daemon for each namespace, its socket and its lock, whose places are fixed, on file systems of their own. The first process of
a namespace that needs the daemon starts it, every one that uses it holds a shared lock, and who lets go last stops it. What a
killed run left, pools or a daemon, goes with the next use.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_HOMES = Path("/run/voltool-test-zfs")
#: Where the daemon has its socket, and the lock that there is only one of it.
_PLACES = (Path("/var/run/zfs"), Path("/var/lock/zfs"))
_DAEMON = "zfs-fuse"
_POOL_PREFIX = "vt-"
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
_SECONDS = 60.0
#: Where systemd mounts FUSE's control file system.
_CONNECTIONS = Path("/sys/fs/fuse/connections")


def skip_without_zfs() -> None:
    """Skip the test unless pools can be made here."""
    if shutil.which(_DAEMON, path=_PATH) is None:
        pytest.skip("needs zfs-fuse")
    if not Path("/dev/fuse").exists():
        pytest.skip("needs FUSE")


@functools.cache
def hold_daemon() -> None:
    """Let the daemon run until this process ends."""
    home = _home()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    _sweep_daemons(home)
    users = os.open(home / "users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with _gate():
        fcntl.flock(users, fcntl.LOCK_SH)
        if not _CONNECTIONS.is_mount():
            run("mount", "-t", "fusectl", "fusectl", str(_CONNECTIONS))
        for place in _PLACES:
            place.mkdir(mode=0o700, exist_ok=True)
            if not place.is_mount():
                run("mount", "-t", "tmpfs", "voltool-test", str(place))
        if not _answers():
            _stop()
            _start()
        sweep_pools()
    atexit.register(_let_go, users, os.getpid())


def pool_name(home: Path) -> str:
    """The name of the pool whose image lies in ``home`` (``<anything>-<pid>-<random>``)."""
    return _POOL_PREFIX + "-".join(home.name.split("-")[-2:])


def create_pool(home: Path, image: Path, mountpoint: Path) -> None:
    """A pool on the file ``image``, its root dataset mounted at ``mountpoint``; not remembered by the daemon."""
    command = [
        "zpool",
        "create",
        "-f",
        "-o",
        "cachefile=none",
        "-O",
        f"mountpoint={mountpoint}",
        pool_name(home),
        str(image),
    ]
    run(*command)


def import_pool(home: Path) -> None:
    """Take the pool in ``home`` in again after `export_pool`: as a reboot does."""
    run("zpool", "import", "-d", str(home), "-o", "cachefile=none", pool_name(home))


def export_pool(home: Path) -> None:
    """Unmount all of the pool and let go of its image."""
    patiently("zpool", "export", pool_name(home), released=pool_name(home))


def destroy_pool(home: Path) -> None:
    """Destroy the pool, whatever is in it; also after its daemon has died. Idempotent."""
    name = pool_name(home)
    if name in _pools():
        patiently("zpool", "destroy", "-f", name, released=name)
    _sweep_mount_points(name)


def sweep_pools() -> None:
    """Destroy the pools of test processes that are no longer alive."""
    for name in _pools():
        pid = name[len(_POOL_PREFIX) :].split("-")[0]
        if name.startswith(_POOL_PREFIX) and pid.isdigit() and not Path("/proc", pid).exists():
            with contextlib.suppress(RuntimeError):
                patiently("zpool", "destroy", "-f", name, released=name)
            _sweep_mount_points(name)


def _sweep_mount_points(pool: str) -> None:
    """Where voltool showed snapshots of a pool that is gone."""
    for left in Path("/run/voltool/zfs").glob(f"{pool}[%@]*"):
        with contextlib.suppress(OSError):
            left.rmdir()


def run(*command: str) -> str:
    """Run zfs or zpool; RuntimeError with what it says when it fails."""
    done = _run(*command)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def patiently(*command: str, released: str = "") -> str:
    """`run`, again while something is busy: zfs-fuse takes a moment to let go of what was unmounted.

    ``released``: after a while, cut off what is mounted of that dataset or pool, which is to be unmounted.
    """
    for attempt in range(40):
        with contextlib.suppress(RuntimeError):
            return run(*command)
        if released and attempt >= 10:
            _release(released)
        time.sleep(0.1)
    return run(*command)


def _release(name: str) -> None:
    """Cut a dataset and all below it off the daemon: mount namespaces of others have copies of its mounts and keep it busy."""
    for minor in _fuse_devices(name):
        with contextlib.suppress(OSError):
            (_CONNECTIONS / minor / "abort").write_text("1")


def _fuse_devices(name: str) -> set[str]:
    """The minor numbers of all that is mounted of a dataset and below it, in any mount namespace."""
    found = set()
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            for line in (process / "mountinfo").read_bytes().splitlines():
                fields = line.split(b" ")
                source = os.fsdecode(fields[fields.index(b"-") + 2])
                if source == name or source.startswith(f"{name}/"):
                    found.add(os.fsdecode(fields[2].partition(b":")[2]))
    return found


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": _PATH, "LC_ALL": "C"}
    return subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )


def _pools() -> list[str]:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return _run("zpool", "list", "-H", "-o", "name").stdout.split()
    return []


# --------------------------------------------------------------------------------------------------------- the daemon


@contextlib.contextmanager
def _gate() -> Iterator[None]:
    """Inside, nobody else starts or stops the daemon."""
    descriptor = os.open(_home() / "gate", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _answers() -> bool:
    try:
        return _run("zpool", "list", "-H", "-o", "name").returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _start() -> None:
    home = _home()
    script = f"echo $$ > {home}/pid; exec {_DAEMON} --no-daemon --no-kstat-mount --enable-xattr > {home}/log 2>&1"
    _run("setsid", "--fork", "sh", "-c", f"cd /; {script}")
    _wait(_answers, "zfs-fuse does not answer")


def _let_go(users: int, pid: int) -> None:
    if os.getpid() != pid:
        return  # a child that was forked from the one that holds it
    with _gate():
        fcntl.flock(users, fcntl.LOCK_UN)
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        sweep_pools()
        _stop()
    os.close(users)


def _home() -> Path:
    """Where this namespace's daemon has its files."""
    return _HOMES / os.readlink("/proc/self/ns/mnt").strip("mnt:[]")


def _sweep_daemons(own: Path) -> None:
    """End the daemons of namespaces that no test process uses any more: killed runs left them."""
    for home in _HOMES.iterdir():
        if home == own or not (home / "users").exists():
            continue
        users = os.open(home / "users", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _stop(home)
            shutil.rmtree(home)
        except BlockingIOError:
            continue
        finally:
            os.close(users)


def _stop(home: Path | None = None) -> None:
    """End the daemon that we started, if it is there."""
    home = home or _home()
    try:
        pid = int((home / "pid").read_text())
    except (OSError, ValueError):
        return
    if _is_daemon(pid):
        os.kill(pid, signal.SIGKILL)  # it has no pool any more; asked to end it would take seconds
        _wait(lambda: not _is_daemon(pid), "zfs-fuse cannot be killed")
    (home / "pid").unlink()


def _is_daemon(pid: int) -> bool:
    try:
        return Path("/proc", str(pid), "comm").read_text().strip() == _DAEMON
    except OSError:
        return False


def _wait(condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(complaint)
        time.sleep(0.05)
