"""``python -m tools.generate [--check]``: write every generated file, or say which ones are stale (exit code 1)."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.generate import command_page, completions, config_page, man_pages
from tools.generate.commands import all_commands

ROOT = Path(__file__).parent.parent.parent
#: Directories in which nothing else may lie.
OWNED = ("man", "completions")


def generated() -> dict[Path, str]:
    """Each file and what must be in it."""
    commands = all_commands()
    files = {
        **man_pages.pages(commands),
        **completions.scripts(),
        "docs/commands.md": command_page.page(commands),
        "docs/config.md": config_page.page((ROOT / "docs/config.md").read_text(encoding="utf-8")),
    }
    return {ROOT / name: text for name, text in files.items()}


def main() -> int:
    """0: all files are as they should be (now)."""
    files = generated()
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    strange = [path for directory in OWNED for path in (ROOT / directory).iterdir() if path not in files]
    if "--check" in sys.argv[1:]:
        for path in stale + strange:
            print(f"{path.relative_to(ROOT)} is {'stale' if path in files else 'not generated'}: make generate")
        return 1 if stale or strange else 0
    for path in strange:
        path.unlink()
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
