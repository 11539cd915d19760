"""The entry point of `animora-train`."""

import os

from animora_process.entry_point import run_command
from animora_process.signals import end_at_once
from animora_process.temporary_folder import choose_temporary_folder
from animora_process.user import name_process_user


def main() -> None:
    """Runs the command line, prints the version, or names a missing extra."""
    end_at_once()  # before the slow import of the command line, during which a signal may arrive
    run_command("animora-train", "training", _command_line)


def _command_line() -> None:
    # Spinning OpenMP threads make training several times slower on a shared machine. Read when torch is
    # loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    name_process_user(os.environ)
    choose_temporary_folder(os.environ)
    from animora_training.commands.cli import app  # noqa: PLC0415  # may fail for a missing extra, which run_command names

    app(prog_name="animora-train")


if __name__ == "__main__":
    main()
