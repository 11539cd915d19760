"""The command `animora-client`. Requires the extra `cli`."""

from animora_process.entry_point import run_command


def main() -> None:
    """Runs the command line, prints the version, or names the extra that is missing."""
    run_command("animora-client", "cli", _command_line)


def _command_line() -> None:
    from animora_client.cli.app import app  # noqa: PLC0415  # a missing extra is reported by run_command

    app(prog_name="animora-client")
