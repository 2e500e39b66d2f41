"""The command `adf-agent`."""

from adf_agent.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
