"""The command `adf-agent`."""

import sys


def main() -> int:
    """Runs one command and returns its exit code."""
    # It must answer at once, and the other commands' imports take longer than all it does; its help has the time.
    if sys.argv[1:2] == ["status"] and not {"-h", "--help"} & {*sys.argv}:
        from adf_agent import status  # noqa: PLC0415

        return status.main(sys.argv[2:])
    from adf_agent import cli  # noqa: PLC0415

    return cli.main()


if __name__ == "__main__":
    raise SystemExit(main())
