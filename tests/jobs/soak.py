"""Moves there and back with a writer, in which whoever takes part is killed or stopped at random moments: `make soak`, and with a
few fixed seeds a test (test_soak.py).

After each blow what ``voltool move --status`` tells to do is done, until the volume is at its new home; then every write that
was ever acknowledged is there, it is writable there alone, and nothing is left of locks, mounts, processes, staging. What is done
depends on the seed and the number of the round alone, so the same seed does it again (but for the machine's own timing).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path

from tests.jobs.apart import Apart, Running
from tests.writer import Writer

#: Who is hit: whose, and how.
BLOWS = (
    "command",
    "source agent",
    "target agent",
    "guardian",
    "session",
    "source stopped",
    "target stopped",
    "everybody",
)
#: After what has begun, most often where most can go wrong; empty: the whole run.
PHASES = ("", "catch up 1", "lock", "lock", "lock")
_OTHER = {"hosta": "hostb", "hostb": "hosta"}


class Soak:
    """Rounds of moves between the two hosts of ``apart``, each with ``most_blows`` at the most."""

    def __init__(self, apart: Apart, most_blows: int = 4) -> None:
        self._apart = apart
        self._most = most_blows
        self._home = "hosta"
        self._writers: list[Writer] = []
        self._usual = 3.0
        self.story: list[str] = []

    def round(self, seed: int, number: int) -> None:
        """One move to the other host, with what the two numbers decide. AssertionError where something is not as it must be;
        `story` tells what was done."""
        chance = random.Random(f"{seed} {number}")
        self.story = [f"seed {seed} round {number}: {self._home} to {_OTHER[self._home]}"]
        target = _OTHER[self._home]
        writer = self._apart.writer(self._home, word=f"round{number}")
        self._writers.append(writer)
        blows = chance.randint(1, self._most)
        words: tuple[str, ...] = ("move", "vol", target, "--yes", "--max-lock", str(chance.choice((2, 60))))
        while words:
            words = self._go_on(chance, words, blow=blows > 0)
            blows -= 1
        writer.stop()
        self._apart.assert_settled(target, *self._writers)
        for name in _OTHER:
            assert not list(self._apart.host(name).machine.outside("/srv/.voltool").glob("staging-*")), (
                "staging is left"
            )
        doctor = self._apart.site.voltool("doctor", check=False)
        assert doctor.returncode == 0, doctor.stdout
        self._home = target

    def _go_on(self, chance: random.Random, words: tuple[str, ...], *, blow: bool) -> tuple[str, ...]:
        """Run it, with a blow or without; what to do next, nothing where the volume has moved."""
        began = time.monotonic()
        running = self._apart.start(*words)
        if blow:
            phase = chance.choice(PHASES)
            after = chance.uniform(0.0, 0.3 if phase else 1.0) * self._usual
            if not phase or running.reaches(phase):
                self.story.append(f"  {phase or 'start'} and {after:.2f} s")
                time.sleep(after)
                self._strike(chance, running, chance.choice(BLOWS))
        status = running.end(120)
        assert "Traceback" not in running.output, running.output
        assert status in (0, 1, 4, 6, -signal.SIGKILL), running.output
        self.story.append(f"{' '.join(words)}: {status} after {time.monotonic() - began:.1f} s: {_last(running)}")
        if status == 0 and "--abort" not in words:
            self._usual = time.monotonic() - began
        return self._advised(chance)

    def _advised(self, chance: random.Random) -> tuple[str, ...]:
        deadline = time.monotonic() + 60
        while (told := self._apart.site.voltool("--json", "move", "--status", "vol", check=False)).returncode:
            assert time.monotonic() < deadline, told.stdout
            time.sleep(0.2)
        (now,) = json.loads(told.stdout.splitlines()[-1])["moves"]
        self.story.append(f"status: {now['what']}")
        if now["command"] is None:
            target = _OTHER[self._home]
            return () if f"it lives at {target}" in now["what"] else ("move", "vol", target, "--yes")
        commands = [command.split()[1:] for command in now["command"].split(", or ")]
        return (*chance.choice(commands), "--yes")

    def _strike(self, chance: random.Random, running: Running, blow: str) -> None:
        self.story.append(f"  {blow}")
        source, target = self._home, _OTHER[self._home]
        if blow == "command":
            running.kill()
        elif blow == "guardian":
            signal_all(guardians_of(self._apart, source), signal.SIGKILL)
        elif blow == "session":
            self._apart.host(chance.choice((source, target))).sshd.kill_sessions()
        elif blow == "everybody":
            running.kill()
            for name in _OTHER:
                signal_all(self._apart.agents(name), signal.SIGKILL)
        elif blow.endswith("stopped"):
            victims = agents_of(self._apart, source if blow.startswith("source") else target)
            signal_all(victims, signal.SIGSTOP)
            time.sleep(chance.choice((0.5, 3.0, 6.0)))
            signal_all(victims, signal.SIGCONT)
        else:
            signal_all(agents_of(self._apart, source if blow.startswith("source") else target), signal.SIGKILL)


def agents_of(apart: Apart, name: str) -> list[int]:
    """A host's agents without their workers, which have to notice for themselves."""
    running = apart.agents(name)
    return [pid for pid in running if _parent(pid) != 1 and _parent(pid) not in running]


def guardians_of(apart: Apart, name: str) -> list[int]:
    """A host's guardians. They belong to nobody: they have forked twice."""
    return [pid for pid in apart.agents(name) if _parent(pid) == 1]


def signal_all(victims: list[int], number: int) -> None:
    """A signal to each that still lives."""
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _last(running: Running) -> str:
    return running.output.splitlines()[-1][:600] if running.output else ""


def describe(apart: Apart) -> str:
    """The state of both hosts, for somebody who has to find out."""
    lines = []
    for name in _OTHER:
        lines.append(f"{name}: source {apart.record(name, 'source')}, target {apart.record(name, 'target')}")
        lines.append(f"{name}: mounts {apart.lock_mounts(name)}, processes {apart.agents(name)}")
        disk = apart.host(name).machine.outside("/srv")
        lines += [
            f"{name}: {path.relative_to(disk)}" for path in sorted(disk.glob("*")) + sorted(disk.glob(".voltool/*/*"))
        ]
    return "\n".join(lines)
