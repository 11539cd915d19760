"""The `animora-server` command. The only module of the server that sees the environment."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from animora_server.errors import AnimoraError
from animora_server.logs import configure_logs
from animora_server.settings import Settings

try:
    from uvloop import run as run_loop
except ImportError:  # not on Windows
    from asyncio import run as run_loop

cli = typer.Typer(
    help="Ranks the posts of a photo-sharing feed for each user.", no_args_is_help=True, add_completion=False
)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

ConfigOption = Annotated[
    Path | None,
    typer.Option(help="TOML file with options; ANIMORA_* variables win over it.", envvar="ANIMORA_CONFIG"),
]


@cli.command()
def serve(config: ConfigOption = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    settings = _settings(config)
    if not settings.database.url.get_secret_value():
        _fail("database.url (ANIMORA_DATABASE_URL) is required: the DSN of a role that may read the views")
    configure_logs(settings.log)
    from animora_server import app  # noqa: PLC0415  # torch takes a second; other commands do without

    _leave(run_loop(app.serve(settings)))


@cli.command()
def demo(
    directory: Annotated[Path, typer.Option(help="Keeps data and model between runs.")] = Path(".demo"),
    config: ConfigOption = None,
) -> None:
    """Run everything on sample data until Ctrl-C: PostgreSQL, Redis, training, server, ranked feeds."""
    settings = _settings(config)
    configure_logs(settings.log.model_copy(update={"level": "warning", "format": "console"}))
    from animora_server.demo import Demo  # noqa: PLC0415  # see serve

    _leave(run_loop(Demo(directory, settings, out).run()))


@cli.command("check-config")
def check_config(config: ConfigOption = None) -> None:
    """Print the options in force, secrets hidden."""
    from animora_server.configuration import describe  # noqa: PLC0415  # see serve

    out.print(describe(_settings(config)), markup=False)


def main() -> None:
    """Runs the command line; an expected error is one line, not a traceback."""
    try:
        cli()
    except AnimoraError as error:
        _fail(str(error))


def _settings(config: Path | None) -> Settings:
    from animora_server.configuration import load_settings  # noqa: PLC0415  # see serve

    return load_settings(os.environ, config)


def _fail(message: str) -> None:
    err.print(f"animora-server: {message}", markup=False)
    raise SystemExit(2)


def _leave(status: int) -> None:
    """Ends the process now: a device thread that hangs must not hold it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
