"""The entrance of `animora-train`, which names the extra where one is missing."""

import os
import signal
import sys

from animora_database.process_user import name_process_user
from animora_database.standard_streams import open_missing_streams


def main() -> None:
    """Runs the command line, or prints the version, which takes no extra."""
    open_missing_streams()
    if sys.argv[1:2] == ["--version"]:
        from importlib.metadata import version  # noqa: PLC0415  # the commands do without

        sys.stdout.write(f"animora-train {version('animora-ranking')}\n")
        return
    _end_at_signals()
    # Threads that wait by spinning make training several times slower where others use the machine too.
    # The setting is read when torch is loaded, so it comes before the import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    name_process_user(os.environ)
    try:
        from animora_training.commands.cli import app  # noqa: PLC0415

        app(prog_name="animora-train")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("animora_"):
            raise
        needed = "pip install 'animora-ranking[training]'"
        sys.exit(f"animora-train: {error.name} is not installed; this needs: {needed}")


def _end_at_signals() -> None:
    """Lets signals end the process while it imports: the first one of a container gets no other signals."""
    for name in ("SIGTERM", "SIGHUP"):
        if (number := getattr(signal, name, None)) and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda received, _: os._exit(128 + received))


if __name__ == "__main__":
    main()
