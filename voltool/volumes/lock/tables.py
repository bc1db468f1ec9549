"""The machine's processes and their descriptor tables, each once. Ships to servers. Sources: proc(5), kcmp(2)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from typing import Iterator, List, Set, Tuple

_KCMP = {"x86_64": 312, "aarch64": 272}.get(platform.machine())
_KCMP_FILES = 2
_KCMP_FS = 3


def process_ids() -> List[int]:
    """All processes, ascending."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def tables(pid: int) -> Iterator[Tuple[str, List[str], List[str]]]:
    """Each descriptor table and each pair of directories of a process once, though threads mostly share them."""
    try:
        tasks = sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))
    except (FileNotFoundError, ProcessLookupError):
        return
    files_of: Set[int] = set()
    places_of: Set[int] = set()
    for task in tasks:
        directory = f"/proc/{pid}/task/{task}"
        files: List[str] = []
        places: List[str] = []
        if not any(_share(task, other, _KCMP_FILES) for other in files_of):
            files_of.add(task)
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                files = os.listdir(f"{directory}/fd")
        if not any(_share(task, other, _KCMP_FS) for other in places_of):
            places_of.add(task)
            places = ["cwd", "root"]
        yield directory, files, places


def _share(one: int, other: int, kind: int) -> bool:
    """Whether two threads share their descriptors (or directories), for certain."""
    if _KCMP is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    return bool(libc.syscall(_KCMP, ctypes.c_int(one), ctypes.c_int(other), ctypes.c_int(kind), zero, zero) == 0)
