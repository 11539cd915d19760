"""The command `animora-client`. Needs the extra `cli`."""

import sys


def main() -> None:
    """Runs the command line, or prints the version, which takes no extra."""
    if sys.argv[1:2] == ["--version"]:
        from importlib.metadata import version  # noqa: PLC0415 - the commands do without

        sys.stdout.write(f"animora-client {version('animora-ranking')}\n")
        return
    try:
        from animora_client.cli.app import app  # noqa: PLC0415 - so that a missing extra can be named

        app(prog_name="animora-client")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("animora_"):
            raise
        sys.exit(
            f"animora-client: {error.name} is not installed; "
            "the command line needs: pip install 'animora-ranking[cli]'"
        )
