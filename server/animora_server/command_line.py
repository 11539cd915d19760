"""The commands of `animora-server`. No other module of the server reads the environment."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr
from rich.console import Console

from animora_process.temporary_folder import choose_temporary_folder
from animora_process.user import name_process_user
from animora_server import stderr_capture
from animora_server.auth import Role, describe_token, new_token, watch_access_list
from animora_server.errors import AnimoraError
from animora_server.logs import configure_logs
from animora_server.program import run
from animora_server.settings import MAX_WORKERS, Settings
from animora_server.tls import load_identity

# The server never forks after it starts gRPC; with fork support, gRPC logs a warning for each child process.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
# Ray sends no usage statistics unless the user enables them.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback with local variables could show a password
)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

ConfigOption = Annotated[
    Path | None,
    typer.Option(help="TOML file with options; ANIMORA_* variables override it.", envvar="ANIMORA_CONFIG"),
]


@cli.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,  # handled by animora_process.entry_point, even without the extra
) -> None:
    """Ranks the posts of a photo-sharing feed for each user."""


def _require_finite(value: float | None) -> float | None:
    """Rejects nan and infinity, which pass typer's bounds."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("must be a finite number")
    return value


@cli.command()
def serve(
    workers: Annotated[
        int | None,
        typer.Option(help="Number of worker processes; overrides grpc.workers.", min=1, max=MAX_WORKERS),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then drain."""
    settings = _settings(config)
    _require(settings.database.url, "database.url", "the DSN of a role that may read the views")
    configure_logs(settings.log.level, settings.log.format)
    workers = workers or settings.grpc.workers
    if workers > 1:
        from animora_server.workers import supervise  # noqa: PLC0415  # not needed for one process

        run(supervise(settings, workers))
        return
    stderr_capture.start()
    from animora_server import app  # noqa: PLC0415  # importing torch takes a second

    run(app.serve(settings))


@cli.command()
def demo(
    directory: Annotated[Path, typer.Option(help="Folder for data and model, kept between runs.")] = Path(
        ".demo"
    ),
    config: ConfigOption = None,
) -> None:
    """Run everything on sample data until Ctrl-C: PostgreSQL, Redis, training, server, ranked feeds."""
    settings = _settings(config)
    configure_logs("warning", "console")
    from animora_demo import Demo  # noqa: PLC0415  # see serve

    run(Demo(directory, settings, out).run())


@cli.command()
def precompute(  # noqa: PLR0913, PLR0917  # a command's options are its parameters
    shard: Annotated[
        str | None, typer.Option(help="Only shard I, from 0, of N shards of the users.", metavar="I/N")
    ] = None,
    active_days: Annotated[
        float | None,
        typer.Option(
            help="Only users with an interaction within this many days.",
            min=0.001,
            max=36500,
            callback=_require_finite,
        ),
    ] = None,
    rate: Annotated[
        float,
        typer.Option(
            help="User-post pairs per second and shard; 0 for no limit.",
            min=0,
            callback=_require_finite,
        ),
    ] = 0,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard an unfinished generation and begin a new one.")
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(help='Run all shards on a Ray cluster; "local" starts one.', metavar="ADDRESS"),
    ] = None,
    shards: Annotated[int | None, typer.Option(help="With --ray: the number of shards.", min=1)] = None,
    config: ConfigOption = None,
) -> None:
    """Precompute the timelines of all users, and make them current once all are stored."""
    if ray is None and shards is not None:
        _fail("--shards requires --ray; without --ray, use --shard I/N")
    if ray is not None and shard is not None:
        _fail("--shard cannot be combined with --ray, which runs all shards; use --shards")
    settings = _settings(config)
    _require(settings.database.url, "database.url", "the DSN of a role that may read the views")
    _require(settings.cache.url, "cache.url", "the Redis to store timelines in")
    configure_logs(settings.log.level, settings.log.format)
    from animora_server.precompute.command import precompute  # noqa: PLC0415  # see serve
    from animora_server.precompute.job import RunOptions  # noqa: PLC0415
    from animora_server.precompute.shard import Shard  # noqa: PLC0415

    run_options = RunOptions(Shard() if shard is None else Shard.parse(shard), active_days, rate, restart)
    if ray is None:
        run(precompute(settings, run_options, out, err))
        return
    from animora_server.precompute.ray_cluster import precompute_on_ray  # noqa: PLC0415

    run_options = replace(run_options, shard=Shard(0, shards or 1))
    raise SystemExit(precompute_on_ray(settings, run_options, ray, out, err))


@cli.command("check-config")
def check_config(config: ConfigOption = None) -> None:
    """Check the configuration and the files that it names; print all options, with secrets hidden."""
    from animora_server.configuration import describe  # noqa: PLC0415  # see serve

    settings = _settings(config)
    if settings.grpc.tls_certificate is not None:
        from animora_server.service.credentials import is_usable  # noqa: PLC0415  # imports gRPC

        load_identity(settings.grpc, is_usable)
    watch_access_list(settings.auth)
    if settings.models.store or settings.models.ready_requires_model:
        from animora_server.models import open_models, open_writable_models  # noqa: PLC0415  # imports PyTorch

        open_models(settings.models)  # reads the keys, not the store
        if settings.admin.enabled:
            open_writable_models(settings.models, settings.admin.sign_key)
    if settings.cache.url.get_secret_value():
        from animora_server.cache.connection import open_redis  # noqa: PLC0415

        open_redis(settings.cache)  # validates the URL; does not connect
    out.print(describe(settings), markup=False)


@cli.command()
def token(
    name: Annotated[str, typer.Option(help="Name of the token, for the log.")],
    role: Annotated[list[Role], typer.Option(help="Role of the token; give the option once for each role.")],
) -> None:
    """Print a new random token, and its entry for the file of auth.tokens."""
    secret = new_token()
    entry = describe_token(secret, name, role)
    out.print(f"# For the caller; it cannot be shown again.\n{secret}\n", markup=False)
    out.print(f"# For the file of auth.tokens.\n{entry}", markup=False, end="")


def main() -> None:
    """Runs the command line. Prints an expected error as one line, without a traceback."""
    name_process_user(os.environ)
    choose_temporary_folder(os.environ)
    try:
        cli()
    except AnimoraError as error:
        stderr_capture.release()
        _fail(str(error))


def _settings(config: Path | None) -> Settings:
    from animora_server.configuration import load_settings  # noqa: PLC0415  # see serve

    return load_settings(os.environ, config)


def _require(value: SecretStr, option: str, meaning: str) -> None:
    if not value.get_secret_value():
        _fail(f"{option} (ANIMORA_{option.replace('.', '_').upper()}) is required: {meaning}")


def _fail(message: str) -> None:
    err.print(f"animora-server: {message}", markup=False)
    raise SystemExit(2)
