"""docs/config.md: its tables of keys, out of the configuration's model; the text around them is kept."""

from __future__ import annotations

import ast
import inspect
import re
import typing
from typing import Any

from pydantic import BaseModel

from voltool.config import settings
from voltool.config.settings import HostSection, KeepSection, NotifySection, Settings, VolumeSection

_BEGIN, _END = "<!-- generated -->", "<!-- end of what is generated -->"
_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("", Settings),
    ("[hosts.NAME]", HostSection),
    ("[volumes.NAME]", VolumeSection),
    ("[keep] and [volumes.NAME.keep]", KeepSection),
    ("[notify]", NotifySection),
)
#: What a person writes for the types that the model gives names to.
_KINDS = {
    "Ports": '`"FROM-TO"`',
    "StoreUrl": "absolute path, `file:///path` or `sftp://host/path`",
    "HttpUrl": "URL",
    "Bandwidth": 'bytes a second: `1048576`, `"10M"`',
    "Duration": 'seconds, `"90s"`, `"30m"`, `"2h"`, `"7d"`',
    "Command": "array: a program and its arguments",
    "list[Glob]": "array of globs",
    "bool": "true or false",
    "int": "number",
    "float": "number",
    "str": "text",
}


def page(old: str) -> str:
    """The page with fresh tables between its marks."""
    before, _, rest = old.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{_tables()}{_END}{after}"


def _tables() -> str:
    lines: list[str] = []
    for title, model in _SECTIONS:
        lines += (
            [f"\n### `{title}`\n".replace(" and ", "` and `"), _text(inspect.getdoc(model) or ""), ""] if title else []
        )
        lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
        written, texts = _source(model)
        for key, field in model.model_fields.items():
            lines.append(
                f"| `{key}` | {_kind(written[key], field)} | {_default(field.default)} | {_text(texts[key])} |"
            )
    return "\n".join(lines) + "\n"


def _source(model: type[BaseModel]) -> tuple[dict[str, str], dict[str, str]]:
    """The annotation of each key as it is written, and the text below it."""
    (body,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(body, ast.ClassDef)
    written: dict[str, str] = {}
    texts: dict[str, str] = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            key = statement.target.id
            written[key] = ast.unparse(statement.annotation)
            assert isinstance(following, ast.Expr), f"{model.__name__}.{key} has no text below it"
            assert isinstance(following.value, ast.Constant)
            texts[key] = inspect.cleandoc(str(following.value.value))
    return written, texts


def _kind(annotation: str, field: Any) -> str:
    annotation = annotation.removesuffix(" | None")
    named = getattr(settings, annotation, None)
    if typing.get_origin(named) is typing.Literal or annotation.startswith("Literal["):
        values = typing.get_args(named) or ast.literal_eval(annotation.removeprefix("Literal"))
        return " or ".join(f'`"{value}"`' for value in values)
    if annotation.startswith("dict[") or annotation.endswith("Section"):
        return "tables" if annotation.startswith("dict[") else "a table"
    return _KINDS[annotation] + _limits(field)


def _limits(field: Any) -> str:
    limits: dict[str, float] = {}
    for item in field.metadata:
        limits |= {name: getattr(item, name) for name in ("gt", "ge", "le") if getattr(item, name, None) is not None}
    if "le" in limits:
        return f", {limits['ge']:g} to {limits['le']:g}"
    return f", more than {limits['gt']:g}" if "gt" in limits else ""


def _default(value: Any) -> str:
    if value is None or value in ([], {}, "") or isinstance(value, BaseModel):
        return "none" if not isinstance(value, BaseModel) else ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _text(text: str) -> str:
    return re.sub(r"``", "`", " ".join(text.split())).replace("|", "\\|")
