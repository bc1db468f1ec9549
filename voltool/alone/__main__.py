"""Starts the stand-alone reader, ``python3 voltool.pyz``: this file is its ``__main__``. Every python3 must understand it."""

import sys

if __name__ == "__main__":
    if sys.version_info < (3, 9):  # noqa: UP036 - an older one runs this, and nothing else of it
        sys.exit("voltool.pyz needs Python 3.9 or later; this is Python {}.{}".format(*sys.version_info[:2]))
    from voltool.alone.main import main

    sys.exit(main(sys.argv[1:]))
