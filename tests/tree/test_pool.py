from __future__ import annotations

import os
import signal
import time

import pytest

from voltool.errors import AgentError, RefusedError, VoltoolError
from voltool.tree.pool import OrderedPool, Shared


def slow_when_even(task: bytes, _shared: Shared) -> bytes:
    if int(task) % 2 == 0:
        time.sleep(0.002)
    return task * 3


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_the_order_of_tasks(workers: int) -> None:
    found: list[bytes] = []
    with OrderedPool(slow_when_even, workers) as pool:
        for number in range(300):
            pool.submit(b"%d" % number)
            found += pool.results()
        found += pool.drain()
        assert pool.in_flight == 0
    assert found == [b"%d" % number * 3 for number in range(300)]


@pytest.mark.parametrize("workers", [0, 2])
def test_large_tasks_and_results_do_not_deadlock(workers: int) -> None:
    found: list[bytes] = []
    with OrderedPool(lambda task, _shared: task, workers) as pool:
        for number in range(40):
            pool.submit(bytes([number]) * (5 << 20))
            found += pool.results()
        found += pool.drain()
    assert [(data[0], len(data)) for data in found] == [(number, 5 << 20) for number in range(40)]


def swap(task: bytes, shared: Shared) -> bytes:
    """What was given comes back in the shared memory where there is any, turned round."""
    turned = bytes(shared.given)[::-1]
    if len(turned) > len(shared.room):
        return b"here" + turned
    shared.room[: len(turned)] = turned
    return b"there" + task


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_what_is_large_goes_through_shared_memory_or_the_pipe_where_there_is_no_room(workers: int) -> None:
    found: list[bytes] = []

    def take(result: bytes) -> None:
        kind, length = result[:5], int(result[5:]) if result.startswith(b"there") else 0
        found.append(bytes(pool.shared[:length]) if kind == b"there" else result[4:])

    # Sizes on both sides of the room; more tasks than there are places.
    given = [os.urandom(1 + number * 997 % 9000) for number in range(100)]
    with OrderedPool(swap, workers, room=5000) as pool:
        for data in given:
            pool.submit(b"%d" % len(data), data)
            for result in pool.results():
                take(result)
        for result in pool.drain():
            take(result)
    assert found == [data[::-1] for data in given]


def fail(task: bytes, _shared: Shared) -> bytes:
    if task == b"ours":
        raise RefusedError("no", where="there", why="because", remedy="else")
    raise ValueError("foreign")


@pytest.mark.parametrize(("task", "kind"), [(b"ours", RefusedError), (b"foreign", AgentError)])
def test_an_error_of_a_worker_is_raised_here(task: bytes, kind: type[VoltoolError]) -> None:
    with OrderedPool(fail, 1) as pool:
        pool.submit(task)
        with pytest.raises(kind) as raised:
            list(pool.drain())
    if kind is RefusedError:
        assert (raised.value.where, raised.value.why, raised.value.remedy) == ("there", "because", "else")


def die(_task: bytes, _shared: Shared) -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    return b""


def test_a_worker_that_is_killed_is_an_error_not_a_wait_for_ever() -> None:
    with OrderedPool(die, 2) as pool:
        pool.submit(b"task")
        with pytest.raises(AgentError):
            list(pool.drain())
    with OrderedPool(die, 1) as pool:
        pool.submit(b"task")
        with pytest.raises(AgentError):
            pool.submit(bytes(10 << 20))


def test_no_worker_outlives_the_pool() -> None:
    with OrderedPool(lambda _task, _shared: b"%d" % os.getpid(), 3) as pool:
        for _ in range(30):
            pool.submit(b"")
        pids = {int(pid) for pid in pool.drain()}
    assert pids
    assert os.getpid() not in pids
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(os.path.exists(f"/proc/{pid}") for pid in pids):
        time.sleep(0.01)
    assert [pid for pid in pids if os.path.exists(f"/proc/{pid}")] == []
