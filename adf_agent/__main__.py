"""The command `adf-agent`."""

import gc
import sys

GARBAGE = 20_000  # objects made between two looks for garbage: most are modules', and stay


def main() -> int:
    """Runs one command and returns its exit code."""
    # It must answer at once, and the other commands' imports take longer than all it does; its help has the time.
    if sys.argv[1:2] == ["status"] and not {"-h", "--help"} & {*sys.argv}:
        from adf_agent import status  # noqa: PLC0415

        return status.main(sys.argv[2:])
    gc.set_threshold(GARBAGE)
    from adf_agent import cli  # noqa: PLC0415

    return cli.main()


if __name__ == "__main__":
    raise SystemExit(main())
