"""The lease test: does anybody have this file open for writing? Ships to servers.

fcntl(F_SETLEASE, F_RDLCK) succeeds only when nobody has: descriptors in flight, other mount namespaces, loop devices,
overlays and nfsd included, which no search of /proc would find. Knows nothing of trees or volumes.
Source: fcntl(2), "Leases"; fs/locks.c.
"""

from __future__ import annotations

import fcntl
import signal
from typing import Optional


def ignore_lease_breaks() -> None:
    """Ignore the signal by which the kernel says that somebody waits for our lease: it is given up at once anyway."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)


def lease_test(descriptor: int) -> Optional[bool]:
    """True: nobody has the file open for writing, for certain. False: somebody has. None: leases do not work here (not
    the owner, or a file system without them). ``descriptor`` must be open read-only.

    The lease is given up at once; an open for writing that falls into these microseconds waits for it. The signal that
    such an open sends us is SIGIO: a process that tests leases ignores it (`ignore_lease_breaks`), for it would end it.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def nobody_writes(descriptor: int) -> bool:
    """Whether nobody has the file open for writing, for certain: `lease_test` without the finer points."""
    return lease_test(descriptor) is True
