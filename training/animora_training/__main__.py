"""The entry point of `animora-train`."""

import os

from animora_process.entry_point import run_command
from animora_process.signals import end_at_once
from animora_process.user import name_process_user


def main() -> None:
    """Runs the command line, prints the version, or names the extra that is missing."""
    end_at_once()  # before the command line is imported: that takes a second, in which a signal may come
    run_command("animora-train", "training", _command_line)


def _command_line() -> None:
    # Threads that wait by spinning make training several times slower where others use the machine too.
    # The setting is read when torch is loaded, so it comes before the import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    name_process_user(os.environ)
    from animora_training.commands.cli import app  # noqa: PLC0415  # so that a missing extra can be named

    app(prog_name="animora-train")


if __name__ == "__main__":
    main()
