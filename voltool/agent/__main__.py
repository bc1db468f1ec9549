"""Starts the agent: ``python3 -m voltool.agent``, or the zip file that is shipped (this file is its ``__main__``)."""

from __future__ import annotations

import sys

from voltool.agent.main import main

if __name__ == "__main__":
    sys.exit(main())
