"""What each of our commands does at its entry point, with or without its extra."""

import sys
from collections.abc import Callable

from animora_process.standard_streams import open_missing_streams, told_of_failed_output


def run_command(name: str, extras: str, command_line: Callable[[], object]) -> None:
    """Runs a command line, or prints the version, which takes no extra.

    Args:
        name: The name of the command.
        extras: What the command line needs of the distribution's extras, separated by commas.
        command_line: Imports the command line and runs it.

    Raises:
        SystemExit: A module of an extra is missing, which the message names, or standard output fails.
        ModuleNotFoundError: A module of ours is missing.
    """
    open_missing_streams()
    with told_of_failed_output(name):
        _run(name, extras, command_line)


def _run(name: str, extras: str, command_line: Callable[[], object]) -> None:
    if sys.argv[1:2] == ["--version"]:
        from importlib.metadata import version  # noqa: PLC0415  # the commands do without

        sys.stdout.write(f"{name} {version('animora-ranking')}\n")
        return
    try:
        command_line()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("animora_"):
            raise
        needed = f"pip install 'animora-ranking[{extras}]'"
        sys.exit(f"{name}: {error.name} is not installed; this needs: {needed}")
