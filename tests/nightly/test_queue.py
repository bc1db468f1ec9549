"""Many threads take turns: each turn once, never too many on one host, low levels first."""

from __future__ import annotations

import threading
import time
from collections import Counter

from tests.catalog.samples import make_volume
from voltool.nightly.plan import Turn
from voltool.nightly.queue import TurnQueue
from voltool.policy.due import Due

HOSTS = ("a", "b", "c")


def make_turns(number: int) -> list[Turn]:
    return [
        Turn(make_volume(f"vol{count}", host=HOSTS[count % len(HOSTS)]), Due(0, 0, ""), "") for count in range(number)
    ]


def test_limits_hold_whatever_the_threads_do() -> None:
    queue = TurnQueue(make_turns(60), per_host=2)
    lock, now, most, done = threading.Lock(), Counter[str](), Counter[str](), Counter[str]()

    def work() -> None:
        while (turn := queue.take()) is not None:
            host = turn.volume.host
            with lock:
                now[host] += 1
                most[host] = max(most[host], now[host])
                done[turn.volume.name] += 1
            time.sleep(0.001)
            with lock:
                now[host] -= 1
            queue.give_back(turn)

    threads = [threading.Thread(target=work) for _ in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert set(done.values()) == {1}
    assert len(done) == 60
    assert dict(most) == dict.fromkeys(HOSTS, 2)


def test_a_host_that_is_full_lets_others_go_ahead_in_their_order() -> None:
    turns = make_turns(6)
    queue = TurnQueue(turns, per_host=1)
    assert [queue.take(), queue.take(), queue.take()] == turns[:3]
    queue.give_back(turns[1])
    assert queue.take() == turns[4]


def test_who_waits_is_sent_home_when_nothing_begins_any_more() -> None:
    turns = make_turns(4)
    queue = TurnQueue([turns[0], turns[3]], per_host=1)
    assert queue.take() == turns[0]
    got: list[Turn | None] = []
    waiting = threading.Thread(target=lambda: got.append(queue.take()))
    waiting.start()
    queue.close()
    waiting.join(20)
    assert got == [None]
