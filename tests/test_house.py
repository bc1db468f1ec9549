"""The rules of the house that no linter knows: what is shipped stands alone, --help answers at once, sizes stay small."""

from __future__ import annotations

import ast
import re
import resource
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import voltool
from tests.hosts import VOLTOOL
from voltool.remote.ship import SHIPPED_PACKAGES, shipped_files

PACKAGE = Path(voltool.__file__).parent
ROOT = PACKAGE.parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
#: Larger than a file should be, and why.
LARGE_FILES = {
    "dumpfile/format.py": "one module owns every byte of the format",
    "wire/messages.py": "one module has every message, with which reply belongs to which request",
}
HEAVY = {
    "paramiko",
    "cryptography",
    "pydantic",
    "sqlalchemy",
    "dateparser",
    "lz4",
    "tqdm",
    "rich",
    "tenacity",
    "tzlocal",
    "jinja2",
    "prometheus_client",
    "mfusepy",
    "sqlite3",
    "asyncio",
}


def shipped_modules() -> list[str]:
    paths = [path.relative_to(ROOT) for path in shipped_files(PACKAGE) if path.stem not in {"__init__", "__main__"}]
    return [".".join(path.with_suffix("").parts) for path in paths]


def import_all(python: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Import everything that is shipped, with nothing but the standard library at hand."""
    program = f"import sys, importlib; sys.path.insert(0, {str(ROOT)!r})\n"
    program += "".join(f"importlib.import_module({name!r})\n" for name in shipped_modules())
    program += "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    return subprocess.run(
        [python, "-I", "-S", *flags, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )


def test_what_is_shipped_imports_the_standard_library_alone() -> None:
    done = import_all(sys.executable)
    assert done.returncode == 0, done.stderr
    foreign = set(done.stdout.split()) - set(sys.stdlib_module_names) - {"voltool", "__main__"}
    assert foreign == set()


@pytest.mark.may_skip("Debian 12 has no Python 3.9; vermin checks it statically")
def test_what_is_shipped_imports_on_python_3_9() -> None:
    python = shutil.which("python3.9")
    if python is None or subprocess.run([python, "-V"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no python3.9 here")
    done = import_all(python, "-B")
    assert done.returncode == 0, done.stderr


def test_every_list_of_what_is_shipped_is_the_same() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    top = {f"voltool.{path.stem}" for path in PACKAGE.glob("*.py") if path.stem not in {"__init__", "__main__"}}
    shipped = top | {f"voltool.{package}" for package in SHIPPED_PACKAGES}
    contracts = {contract["id"]: contract for contract in config["tool"]["importlinter"]["contracts"]}
    assert set(contracts["shipped-stdlib"]["source_modules"]) == shipped
    assert set(contracts["shipped-alone"]["source_modules"]) == shipped
    targets = config["tool"]["ruff"]["per-file-target-version"]
    listed = {name for pattern in targets for name in re.findall(r"\w+", re.findall(r"{(.*)}", pattern)[0])}
    assert {f"voltool.{name}" for name in listed} == shipped
    makefile = re.search(r"^SHIPPED := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert makefile is not None
    assert set(re.findall(r"voltool/(\w+)", makefile[1])) == set(SHIPPED_PACKAGES)


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom voltool.cli.main import main\nmain(['--help'])\nprint('\\n', *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "Usage" in done.stdout
    assert {name.partition(".")[0] for name in done.stderr.split()} & HEAVY == set()


def test_help_costs_less_than_300_milliseconds() -> None:
    """Of a processor's time: what a quiet machine takes, also while this one is busy with other tests."""
    cheapest = 60.0
    for _ in range(20):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([VOLTOOL, "--help"], stdout=subprocess.DEVNULL, check=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cheapest = min(cheapest, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if cheapest < 0.3:
            break
    assert cheapest < 0.3


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    if str(path.relative_to(PACKAGE)) not in LARGE_FILES:
        assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0].end_lineno if ast.get_docstring(node) else node.lineno
            assert (node.end_lineno or 0) - (first or 0) <= 40, f"{node.name} is too long"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_say_what_they_are_for(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc"}
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_the_map_of_the_code_names_what_is_there() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"(?<![\w/.])((?:[a-z_]+/)+[a-z_]*(?:\.py\b|\.md|(?=`))|[a-z_]+\.py\b)", page))
    assert len(named) > 30
    assert [path for path in sorted(named) if not (PACKAGE / path).exists() and not (ROOT / path).exists()] == []
