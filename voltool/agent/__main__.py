"""Starts the agent: ``python3 -m voltool.agent``, or the zip file that is shipped (this file is its ``__main__``).

With arguments, ``KIND ID``, it becomes that long-running process of the host instead (see `agent.daemon_life`).
"""

from __future__ import annotations

import gc
import sys

if __name__ == "__main__":
    # Starting makes many objects and no cycles: to look for some each 700 objects is a tenth of the time a start takes.
    gc.set_threshold(50_000)
    if sys.argv[1:]:
        from voltool.agent.daemon_life import run

        sys.exit(run(sys.argv[1:]))
    from voltool.agent.main import main

    sys.exit(main())
