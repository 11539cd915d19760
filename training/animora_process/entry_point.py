"""The entry point of all commands, with or without their extra installed."""

import sys
from collections.abc import Callable

from animora_process.standard_streams import exit_on_failed_output, open_missing_streams


def run_command(name: str, extras: str, command_line: Callable[[], object]) -> None:
    """Runs a command line, or prints the version, which needs no extra.

    Args:
        name: The name of the command.
        extras: The extras of the distribution that the command line needs, separated by commas.
        command_line: Imports the command line and runs it.

    Raises:
        SystemExit: A module of an extra is missing (the message names the extra), or standard output fails.
        ModuleNotFoundError: A module of Animora is missing.
    """
    open_missing_streams()
    with exit_on_failed_output(name):
        _run(name, extras, command_line)


def _run(name: str, extras: str, command_line: Callable[[], object]) -> None:
    if sys.argv[1:2] == ["--version"]:
        from importlib.metadata import version  # noqa: PLC0415  # not needed otherwise

        sys.stdout.write(f"{name} {version('animora-ranking')}\n")
        return
    try:
        command_line()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("animora_"):
            raise
        needed = f"pip install 'animora-ranking[{extras}]'"
        sys.exit(f"{name}: {error.name} is not installed; this needs: {needed}")
