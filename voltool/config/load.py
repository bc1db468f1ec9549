"""Reads a configuration file. Every fault names file, key, line and remedy and is a UsageError (exit code 2)."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from voltool.config.lines import KeyPath, find_line
from voltool.config.paths import config_candidates
from voltool.config.settings import HostSection, Settings, VolumeSection
from voltool.errors import UsageError

_SECTIONS: dict[str, type[BaseModel]] = {"hosts": HostSection, "volumes": VolumeSection}
_AT_LINE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)")


def load_settings(environment: Mapping[str, str], explicit: str | None = None) -> Settings:
    """The settings of ``explicit`` (``--config``), else of the first file of `config_candidates`, else the defaults."""
    path = settings_path(environment, explicit)
    return Settings() if path is None else read_settings(path)


def settings_path(environment: Mapping[str, str], explicit: str | None = None) -> str | None:
    """The file that `load_settings` reads; None where there is none."""
    if explicit is not None:
        return os.path.abspath(explicit)
    for path in config_candidates(environment):
        if environment.get("VOLTOOL_CONFIG") or os.path.lexists(path):
            return path
    return None


def read_settings(path: str) -> Settings:
    """The settings in the file at ``path``; raises UsageError."""
    text = read_text(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise syntax_error(path, text, error) from None
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise _first_fault(path, text, error) from None


def read_text(path: str) -> str:
    """The text of the file at ``path``; UsageError."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise UsageError(
            "the configuration is not UTF-8", where=path, why=f"byte {error.start} is not", remedy="save it as UTF-8"
        ) from None
    except OSError as error:
        raise UsageError(
            "the configuration cannot be read",
            where=path,
            why=error.strerror or str(error),
            remedy="another file with --config or $VOLTOOL_CONFIG, or none: everything in it is optional",
        ) from None


def syntax_error(path: str, text: str, error: tomllib.TOMLDecodeError) -> UsageError:
    """The error of a text that is not TOML."""
    message = str(error)
    line = error_line(text, error)
    why = _AT_LINE.sub("", message)
    return UsageError(
        "the configuration is not valid TOML",
        where=f"{path}, line {line}",
        why=why,
        remedy="correct that line; see https://toml.io",
    )


def error_line(text: str, error: tomllib.TOMLDecodeError) -> int:
    """The line (from 1) at which the text stops being TOML."""
    match = _AT_LINE.search(str(error))
    return int(match[1]) if match and match[1] else max(1, len(text.splitlines()))


def _first_fault(path: str, text: str, error: ValidationError) -> UsageError:
    """The fault that stands first in the file."""
    return min(faults_in(path, text, error), key=lambda fault: fault.line).error


@dataclass(frozen=True)
class Fault:
    """What is wrong with the value of a key: the key's path, the line it stands on, the error that says so."""

    keys: KeyPath
    line: int
    error: UsageError
    is_unknown_key: bool = False


def faults_in(path: str, text: str, error: ValidationError) -> list[Fault]:
    """All faults that a validation found in the file at ``path``."""
    return [_fault(path, text, detail) for detail in error.errors(include_url=False)]


def _fault(path: str, text: str, detail: ErrorDetails) -> Fault:
    keys = tuple(str(part) for part in detail["loc"])
    line = find_line(text, keys) or 1
    where = f"{path}, line {line}"
    if detail["type"] == "extra_forbidden":
        what = f"the configuration has an unknown key {dotted(keys)}"
        return Fault(keys, line, UsageError(what, where=where, remedy=_known_key(keys)), is_unknown_key=True)
    why = detail["msg"].removeprefix("Value error, ")
    error = UsageError(
        f"the configuration has a wrong value for {dotted(keys)}",
        where=where,
        why=f"{why}, not {_shown(detail['input'])}",
        remedy=f"correct {dotted(keys)} or remove it for the default",
    )
    return Fault(keys, line, error)


def dotted(keys: KeyPath) -> str:
    """A key path as it would be written in TOML."""
    return ".".join(key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"' for key in keys)


def _known_key(keys: KeyPath) -> str:
    model = _SECTIONS.get(keys[0], Settings) if len(keys) > 1 else Settings
    known = list(model.model_fields)
    close = difflib.get_close_matches(keys[-1], known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return "one of " + ", ".join(known)


def _shown(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
