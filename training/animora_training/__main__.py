"""The entrance of `animora-train`."""

import os


def main() -> None:
    """Runs the command line."""
    # Threads that wait by spinning make training several times slower where others use the machine too.
    # The setting is read when torch is loaded, so it comes before the import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from animora_training.commands.cli import app  # noqa: PLC0415

    app(prog_name="animora-train")


if __name__ == "__main__":
    main()
