"""The entrance of `animora-train`: reads the environment, prints, and sets the exit code."""

from animora_training.cli import app


def main() -> None:
    """Runs the command line."""
    app(prog_name="animora-train")


if __name__ == "__main__":
    main()
