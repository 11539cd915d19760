"""The command `animora-client`. Needs the extra `cli`."""

import sys


def main() -> None:
    """The console script."""
    try:
        from animora_client.cli.app import app  # noqa: PLC0415 - so that a missing extra can be named
    except ModuleNotFoundError as error:
        sys.exit(
            f"animora-client: {error.name} is not installed; "
            "the command line needs: pip install 'animora-ranking[cli]'"
        )
    app(prog_name="animora-client")
