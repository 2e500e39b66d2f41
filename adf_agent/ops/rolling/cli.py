"""The command `adf-roll`: what is meant, and how it ends. All that it does is in `ops.roll`."""

import sys

from adf_agent.ops.rolling import options

TYPE_CHECKING = False  # as in typing, which takes `--help` longer to import than much of what it does
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: "Sequence[str] | None" = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = options.parse(sys.argv[1:] if argv is None else argv)
    from adf_agent import console, log, status  # noqa: PLC0415

    status.tolerate(*filter(None, (sys.stdout, sys.stderr)))  # none where one is closed
    log.configure(sys.stderr)

    def run() -> int:
        from adf_agent.errors import SettingsError  # noqa: PLC0415
        from adf_agent.ops import roll  # noqa: PLC0415
        from adf_agent.ops.rolling.errors import Refused  # noqa: PLC0415

        try:
            return roll.COMMANDS[arguments.command](arguments)
        except SettingsError as error:  # no credentials, no region: of a roll there is no such code
            raise Refused(error.sentence, hint=error.hint) from error

    return console.ended("adf-roll", run, "ops")
