"""Passwords and passphrases: who is asked, and what was answered. Only in memory; makes no connection."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Protocol


class Ask(Protocol):
    """Asks a person at the terminal."""

    def __call__(self, prompt: str, *, echo: bool) -> str | None:
        """The answer; None when nobody can be asked. ``echo``: what is typed may be seen."""


@dataclass
class Secrets:
    """What a person told us, so that a second connection does not ask again.

    ``passphrases`` by key file, ``passwords`` by ``user@address:port``, ``become`` (for sudo) by host. ``asking`` is held while
    somebody is asked: connections that are made at once ask one after the other.
    """

    ask: Ask | None = None
    passphrases: dict[str, str] = field(default_factory=dict, repr=False)
    passwords: dict[str, str] = field(default_factory=dict, repr=False)
    become: dict[str, str] = field(default_factory=dict, repr=False)
    asking: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def question(self, prompt: str, *, echo: bool) -> str | None:
        """Ask, where somebody can be asked."""
        if self.ask is None:
            return None
        with self.asking:
            return self.ask(prompt, echo=echo)
