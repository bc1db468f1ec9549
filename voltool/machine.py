"""Which machine this is: what tells two hosts apart that are both called `local`. Ships to servers.

Source: machine-id(5). Clones of a virtual machine whose machine-id was not made anew cannot be told apart.
"""

from __future__ import annotations

import socket

from voltool.frozen import dataclass


@dataclass(frozen=True)
class Machine:
    """A machine by its host name and its machine-id; either may be empty, for unknown."""

    hostname: str = ""
    machine_id: str = ""

    def is_other_than(self, machine: Machine) -> bool:
        """Whether the two are known to be different: by their ids, else by their names."""
        if self.machine_id and machine.machine_id:
            return self.machine_id != machine.machine_id
        return bool(self.hostname and machine.hostname) and self.hostname != machine.hostname


def this_machine() -> Machine:
    """The machine that we run on."""
    return Machine(socket.gethostname(), first_line("/etc/machine-id"))


def process_mark(pid: int) -> str:
    """What tells the process from every other that this machine ever runs: boot, number, time of start; empty where there is no
    such process. See proc(5), /proc/pid/stat, field 22."""
    fields = first_line(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 20:
        return ""
    return f"{first_line('/proc/sys/kernel/random/boot_id')}:{pid}:{fields[19]}"


def is_alive(mark: str) -> bool:
    """Whether the process of a `process_mark` runs, here and now."""
    pid = mark.split(":")[1] if mark.count(":") == 2 else ""
    return pid.isdigit() and process_mark(int(pid)) == mark


def first_line(path: str) -> str:
    """The first line of a small file of the system; empty where it cannot be read."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""
