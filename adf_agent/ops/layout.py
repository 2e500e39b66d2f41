"""How wide the operators' commands print their help."""

import argparse
import os
import sys
from functools import cache


class Layout(argparse.HelpFormatter):
    """argparse's own asks how wide the terminal is at each argument, by a module that imports three compressors."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


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
