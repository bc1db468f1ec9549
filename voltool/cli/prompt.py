"""Asks a person for a password, where there is one: only with a terminal on both stdin and stderr."""

from __future__ import annotations

import sys

from voltool.ssh.secrets import Ask


def asker() -> Ask | None:
    """``ask(prompt, echo=...)``, which gives None on end of input; or None where nobody can be asked (cron, pipes)."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    return _ask


def _ask(prompt: str, *, echo: bool) -> str | None:
    import getpass

    try:
        if echo:
            print(prompt, end="", file=sys.stderr, flush=True)
            return sys.stdin.readline().rstrip("\n") or None
        return getpass.getpass(prompt, sys.stderr)
    except EOFError:
        return None
