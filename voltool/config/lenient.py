"""Reads a configuration that has faults: what is wrong is left out and named, so that one bad line does not keep all other
volumes from being dumped.

Never guesses where dumps go or what may be dropped: a fault there is fatal, or takes its volume out of the run.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from voltool.config.lines import KeyPath, header_keys
from voltool.config.load import Fault, error_line, faults_in, read_text, settings_path, syntax_error
from voltool.config.settings import Settings
from voltool.errors import UsageError

#: General keys for which the default does as well in an emergency. ``store`` is none of them: dumps would go elsewhere.
_DISPENSABLE = frozenset(
    {
        "bandwidth", "codec", "fetch_timeout", "idle_io", "keep", "max_lag", "min_free", "nice", "notify", "overdue_after",
        "parallel", "parallel_per_host", "path", "replica_base_age", "retries", "retry_wait", "stagger", "stall_timeout",
        "suspicious_factor", "synthetic_full", "timezone", "workers",
    }
)  # fmt: skip
_SECTIONS = ("volumes", "hosts")
_HEADER = re.compile(r"\s*\[")


@dataclass(frozen=True)
class LenientSettings:
    """What could be read, and what could not: faults of single volumes and hosts by their names, and the others."""

    settings: Settings
    volumes: Mapping[str, UsageError] = field(default_factory=dict)
    hosts: Mapping[str, UsageError] = field(default_factory=dict)
    general: tuple[UsageError, ...] = ()


def load_leniently(environment: Mapping[str, str], explicit: str | None = None) -> LenientSettings:
    """As `load.load_settings`, but faults that concern one volume, one host or something dispensable are only noted.

    UsageError where the rest cannot be relied on.
    """
    path = settings_path(environment, explicit)
    return LenientSettings(Settings()) if path is None else _Reading(path).read()


class _Reading:
    """One file, and what was wrong with it so far."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._text = read_text(path)
        self._by_section: dict[str, dict[str, UsageError]] = {name: {} for name in _SECTIONS}
        self._general: list[UsageError] = []

    def read(self) -> LenientSettings:
        values = self._parse()
        for section, faults in self._by_section.items():
            for name in faults:  # the rest of a section with a fault is not to be relied on
                _table(values, section).pop(name, None)
        while True:
            try:
                settings = Settings.model_validate(values)
            except ValidationError as error:
                for fault in sorted(faults_in(self._path, self._text, error), key=lambda fault: fault.line):
                    self._drop(values, fault)
            else:
                by_section = self._by_section
                return LenientSettings(settings, by_section["volumes"], by_section["hosts"], tuple(self._general))

    def _parse(self) -> dict[str, Any]:
        """The values; tables of single volumes and hosts that are no TOML are cut out."""
        text = self._text
        while True:
            try:
                return tomllib.loads(text)
            except tomllib.TOMLDecodeError as error:
                lines = text.splitlines(keepends=True)
                first, last = _table_around(lines, error_line(text, error))
                keys = header_keys(lines[first]) if first < last else ()
                fault = syntax_error(self._path, text, error)
                if len(keys) < 2 or keys[0] not in _SECTIONS:
                    raise fault from None
                self._by_section[keys[0]].setdefault(keys[1], fault)
                text = "".join(["\n" if first <= number < last else line for number, line in enumerate(lines)])

    def _drop(self, values: dict[str, Any], fault: Fault) -> None:
        """Take out of ``values`` what the fault spoils. Several faults may spoil one thing."""
        section, name = fault.keys[0], fault.keys[1] if len(fault.keys) > 1 else ""
        if section in _SECTIONS and name:
            _table(values, section).pop(name, None)
            self._by_section[section].setdefault(name, fault.error)
        elif section in _DISPENSABLE or (fault.is_unknown_key and not _may_mean_store(fault.keys)):
            values.pop(section, None)
            self._general.append(fault.error)
        else:
            raise fault.error


def _table(values: dict[str, Any], section: str) -> dict[str, Any]:
    table = values.get(section, {})
    return table if isinstance(table, dict) else {}


def _may_mean_store(keys: KeyPath) -> bool:
    return bool(difflib.get_close_matches(keys[-1], ["store", "schedule"], n=1))


def _table_around(lines: list[str], number: int) -> tuple[int, int]:
    """The lines (from, to; counted from 0) of the table that line ``number`` (from 1) stands in; equal where in none."""
    first = next((at for at in range(min(number, len(lines)) - 1, -1, -1) if _HEADER.match(lines[at])), None)
    if first is None:
        return 0, 0
    last = next((at for at in range(first + 1, len(lines)) if _HEADER.match(lines[at])), len(lines))
    return first, last
