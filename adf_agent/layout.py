"""How the commands print their help."""

import argparse
import os
import sys
from functools import cache

LISTED = "\n  "  # in a paragraph that stays a line each, to be copied or looked up


class Layout(argparse.HelpFormatter):
    """argparse's own asks how wide the terminal is at each argument, by a module that imports three compressors."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Filled paragraph by paragraph, but for lists."""
        fill = super()._fill_text
        return "\n\n".join(part if LISTED in part else fill(part, width, indent) for part in text.split("\n\n"))


def exemplify(parser: argparse.ArgumentParser, *lines: str) -> None:
    """Ends the help of *parser* with *lines* to copy."""
    shown = LISTED.join(["examples:", *lines])
    parser.epilog = f"{parser.epilog}\n\n{shown}" if parser.epilog else shown


@cache
def _columns() -> int:
    """As shutil.get_terminal_size."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):  # no terminal, or closed
        return 80
