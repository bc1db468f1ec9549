"""How this process's C library keeps memory. Ships to servers.

What passes here comes in buffers of a MiB or so, several at a time. Left alone, glibc gives each back to the kernel when it is
freed and asks for the next: each page is then faulted in and zeroed anew, which costs ten times what copying it does. Source:
mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
#: Larger buffers go back to the kernel at once: most frames are far below their cap.
_LARGEST = 16 << 20
#: So much that nobody uses is kept at the end of the heap.
_KEPT = 32 << 20


def keep_freed_memory() -> None:
    """Let freed buffers be used again, here and in what is forked from here. Another C library goes on as it is."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST)
    mallopt(_M_TRIM_THRESHOLD, _KEPT)
