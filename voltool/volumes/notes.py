"""What a home remembers beside its record, each in a JSON file of the volume's area. Ships to servers."""

from __future__ import annotations

import json
import os
from typing import Optional, Type, TypeVar

from voltool import durable
from voltool.errors import AgentError
from voltool.showing import shown
from voltool.wire.codec import from_plain, to_plain

_Note = TypeVar("_Note")


def read_note(area: bytes, name: bytes, kind: Type[_Note], what: str) -> Optional[_Note]:
    """What the file ``name`` holds, None where there is none; AgentError, which calls it ``what``, if it cannot be understood."""
    try:
        with open(os.path.join(area, name), "rb") as file:
            note: _Note = from_plain(kind, json.load(file))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise AgentError(f"{what} cannot be read", where=shown(area), why=str(error)) from None
    return note


def save_note(area: bytes, name: bytes, note: object) -> None:
    """Durably."""
    durable.write_file(os.path.join(area, name), json.dumps(to_plain(note), indent=1).encode() + b"\n")
