"""The guardian: whoever dies, in whatever order, the lock ends, and nothing is committed on a lease that is over."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.volumes.lock.places import UUID, Place, step
from tests.volumes.lock.test_hold import writable
from voltool.agent.guardian import LockLease, start_guardian
from voltool.errors import RefusedError
from voltool.volumes.hooks import Hook
from voltool.volumes.lock.book import LockRecord
from voltool.volumes.lock.hold import LockWish, end_lock, exchange_held, is_in_force, lock_tree, new_token


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def locked(place: Place, mark: Path, silence: float = 60.0, seconds: int = 60) -> LockLease:
    token = new_token()
    hook = Hook(("sh", "-c", f'echo "$VOLTOOL_VOLUME $VOLTOOL_PHASE $VOLTOOL_PATH" >> {mark}'))
    lease = start_guardian(place.book, token, silence)
    lock_tree(
        place.book,
        LockWish(UUID, "vol", os.fsencode(place.volume), "the test", seconds, 15.0, after_unlock=hook, token=token),
    )
    return lease


def agent(place: Place, mark: Path, then: str = "pass") -> subprocess.Popen[bytes]:
    """A process that locks as an agent does, and lives on."""
    state = os.fsdecode(os.path.dirname(place.book._directory))
    code = (
        "from voltool.agent.guardian import *; from voltool.volumes.lock.hold import *\n"
        "from voltool.volumes.hooks import Hook; from voltool.volumes.lock.book import LockBook\n"
        f"book = LockBook(os.fsencode({state!r}), {UUID!r}); token = new_token()\n"
        "lease = start_guardian(book, token)\n"
        f"hook = Hook(('touch', {str(mark)!r}))\n"
        f"lock_tree(book, LockWish({UUID!r}, 'vol', os.fsencode(volume), 'an agent', 60, 15.0,"
        " after_unlock=hook, token=token))\n"
        f"{then}"
    )
    return place.holder(code)


def gone(lease: LockLease) -> bool:
    return not lease.guardian_lives()


def guardian_of(child: int) -> int:
    """The guardian's pid: the process that has the other end; it was started by ``child`` and belongs to nobody now."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and int(name) != child:
                same = Path(f"/proc/{name}/cmdline").read_bytes() == Path(f"/proc/{child}/cmdline").read_bytes()
                found += [int(name)] if same and os.getsid(int(name)) != os.getsid(child) else []
    (pid,) = found
    return pid


def test_the_agent_dies_and_the_lock_ends(place: Place, tmp_path: Path) -> None:
    child = agent(place, tmp_path / "mark")
    assert not writable(place.volume)
    os.kill(child.pid, signal.SIGKILL)
    wait_until(lambda: place.book.read() is None)
    assert writable(place.volume)
    wait_until((tmp_path / "mark").exists)


def test_a_silent_agent_loses_its_lease(place: Place, tmp_path: Path) -> None:
    lease = locked(place, tmp_path / "mark", silence=1.5)
    until = time.monotonic() + 3
    while time.monotonic() < until:
        lease.beat()
        lease.assert_held()
        time.sleep(0.1)
    wait_until(lambda: place.book.read() is None)
    with pytest.raises(RefusedError, match="not held any more"), lease.hold():
        pass
    assert writable(place.volume)
    wait_until((tmp_path / "mark").exists)
    assert (tmp_path / "mark").read_text() == f"vol after_unlock {place.volume}\n"
    lease.close()


def test_without_its_guardian_a_lock_is_worth_nothing(place: Place, tmp_path: Path) -> None:
    child = agent(place, tmp_path / "mark")
    assert step(child, "lease.assert_held()") == "done"
    os.kill(guardian_of(child.pid), signal.SIGKILL)
    time.sleep(0.1)
    check = "try: lease.assert_held()\nexcept Exception as e: raise OSError(1, e.why)"
    assert step(child, f"exec({check!r})").startswith("its guardian has ended")


def test_a_terminated_guardian_undoes_the_lock_first(place: Place, tmp_path: Path) -> None:
    child = agent(place, tmp_path / "mark")
    os.kill(guardian_of(child.pid), signal.SIGTERM)
    wait_until(lambda: place.book.read() is None)
    assert writable(place.volume)


def test_a_lock_that_is_kept_outlives_the_agent_until_its_time_is_over(place: Place, tmp_path: Path) -> None:
    lease = locked(place, tmp_path / "mark", seconds=3)
    lease.keep()
    lease.close()
    record = place.book.read()
    assert record is not None
    assert is_in_force(record)
    assert not writable(place.volume)
    wait_until(lambda: place.book.read() is None)
    assert writable(place.volume)
    wait_until((tmp_path / "mark").exists)


def test_unlocking_ends_a_kept_lock_and_its_guardian(place: Place, tmp_path: Path) -> None:
    child = agent(place, tmp_path / "mark", "lease.keep()")
    guardian = guardian_of(child.pid)
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
    time.sleep(1.2)  # it would have noticed by now
    record = place.book.read()
    assert record is not None
    assert is_in_force(record)
    assert end_lock(place.book) == record
    assert (tmp_path / "mark").exists()
    wait_until(lambda: not Path(f"/proc/{guardian}").exists())
    assert writable(place.volume)


def test_a_commit_and_the_guardian_exclude_each_other(place: Place, tmp_path: Path) -> None:
    """The agent falls silent in the middle of its commit: the commit is finished under the lock, the next is refused."""
    lease = locked(place, tmp_path / "mark", silence=0.6)
    spare = place.spare()
    with lease.hold() as record:
        time.sleep(2)
        exchange_held(place.book, record, os.fsencode(spare))
        current = place.book.read()
        assert current is not None
        assert current.phase == "locked"
        assert not writable(spare)
    wait_until(lambda: place.book.read() is None)
    with pytest.raises(RefusedError), lease.hold():
        pass
    lease.close()


def test_the_broken_lease_is_durable_before_anything_is_undone(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from voltool.volumes.lock import hold

    record = place.lock()
    seen: list[tuple[str, bool]] = []

    def undo(_one: LockRecord, _note: object) -> None:
        current = place.book.read()
        assert current is not None
        seen.append((current.phase, writable(place.volume)))

    with monkeypatch.context() as patch:
        patch.setattr(hold, "undo", undo)
        hold.break_lease(place.book, record.token)
    assert seen == [("broken", False)]


def test_the_guardian_holds_none_of_the_agents_files(place: Place, tmp_path: Path) -> None:
    source, sink = os.pipe()
    lease = locked(place, tmp_path / "mark")
    os.close(sink)
    reader = threading.Thread(target=os.read, args=(source, 1), daemon=True)
    reader.start()
    reader.join(5)
    assert not reader.is_alive()  # the end of the pipe was seen: nobody else has it open
    os.close(source)
    end_lock(place.book, lease.token)
    lease.close()
