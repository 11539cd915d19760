"""The entrance of `animora-server`, which names the extra where one is missing."""

from animora_server import signals

signals.end_at_once()  # before all other imports: they take a second, in which a signal may come

import sys

from animora_database.standard_streams import open_missing_streams


def main() -> None:
    """Runs the command line, or prints the version, which takes no extra."""
    open_missing_streams()
    if sys.argv[1:2] == ["--version"]:
        from importlib.metadata import version  # noqa: PLC0415  # the commands do without

        sys.stdout.write(f"animora-server {version('animora-ranking')}\n")
        return
    try:
        from animora_server import command_line  # noqa: PLC0415  # so that a missing extra can be named

        command_line.main()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("animora_"):
            raise
        extras = "cli,embedded,server,training" if sys.argv[1:2] == ["demo"] else "server"
        needed = f"pip install 'animora-ranking[{extras}]'"
        sys.exit(f"animora-server: {error.name} is not installed; this needs: {needed}")


if __name__ == "__main__":
    main()
