"""The entry point of `animora-server`."""

import sys

from animora_process.entry_point import run_command
from animora_process.signals import end_at_once


def main() -> None:
    """Runs the command line, prints the version, or reports a missing extra."""
    end_at_once()  # before the slow import of the command line, so that a signal ends the process
    extras = "cli,embedded,server,training" if sys.argv[1:2] == ["demo"] else "server"
    run_command("animora-server", extras, _command_line)


def _command_line() -> None:
    from animora_server import command_line  # noqa: PLC0415  # a missing extra is reported by run_command

    command_line.main()


if __name__ == "__main__":
    main()
