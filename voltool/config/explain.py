"""Which values are in effect, and where each comes from. Pure: knows no files but by their names.

Imports pydantic, so it is imported late.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from voltool.config.lines import KeyPath, key_lines
from voltool.config.settings import HostSection, Settings, VolumeSection

#: Tables of sections: each has a name of the user's, and the keys of its model.
_TABLES: Mapping[str, type[BaseModel]] = {"hosts": HostSection, "volumes": VolumeSection}


@dataclass(frozen=True)
class Setting:
    """One key and the value in effect; ``line`` in the configuration, None: the default."""

    key: KeyPath
    value: Any
    line: int | None = None

    @property
    def text(self) -> str:
        """The value as TOML writes it; ``-`` where nothing is set."""
        return "-" if self.value is None else json.dumps(self.value, ensure_ascii=False)


def explain(settings: Settings, text: str, default_store: str) -> list[Setting]:
    """All keys with the values in effect, in the model's order; ``text`` is the configuration's."""
    lines = key_lines(text)
    found = []
    for name in type(settings).model_fields:
        if name in _TABLES:
            for section, values in sorted(getattr(settings, name).items()):
                # What a volume's section does not say is said by the general keys; a host's has its own defaults.
                found += [
                    setting
                    for setting in _of_model(values, (name, section), lines)
                    if setting.line is not None or name == "hosts"
                ]
        else:
            found += _of_value(getattr(settings, name), (name,), lines)
    return [_with_store(setting, default_store) for setting in found]


def explain_volume(settings: Settings, text: str, name: str, default_store: str) -> list[Setting]:
    """What is in effect for the volume ``name``: by its own section, else by the general keys. The keys stand as they are in the
    configuration."""
    lines = key_lines(text)
    section = settings.volume(name)
    found: list[Setting] = []
    for key in VolumeSection.model_fields:
        own = ("volumes", name, key)
        if own in lines or not hasattr(settings, key):
            found += _of_value(getattr(section, key), own, lines)
        else:
            found += _of_value(getattr(settings, key), (key,), lines)
    return [_with_store(setting, default_store) for setting in found]


def _of_model(model: BaseModel, path: KeyPath, lines: Mapping[KeyPath, int]) -> Iterator[Setting]:
    for key in type(model).model_fields:
        yield from _of_value(getattr(model, key), (*path, key), lines)


def _of_value(value: Any, path: KeyPath, lines: Mapping[KeyPath, int]) -> Iterator[Setting]:
    if isinstance(value, BaseModel):
        yield from _of_model(value, path, lines)
    else:
        yield Setting(path, value, lines.get(path))


def _with_store(setting: Setting, default_store: str) -> Setting:
    if setting.key == ("store",) and setting.value is None:
        return Setting(setting.key, default_store)
    return setting
