"""What the commands share: connection options, parsers of ids, and options grouped in dataclasses."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from typer import BadParameter, Option

from animora_client.connection import DEFAULT_TARGET, LONGEST_TIMEOUT, Connection
from animora_client.models import ADMIN_TIMEOUT, DEFAULT_ADMIN_TARGET
from animora_client.request import Priority
from animora_client.sync import RankingClient
from animora_client.sync_models import ModelClient
from animora_client.tls import Tls
from animora_client.token import BearerToken

_FILE = {"exists": True, "dir_okay": False, "metavar": "PEM", "rich_help_panel": "Connection"}


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """The options of the connection."""

    target: Annotated[
        str,
        Option(envvar="ANIMORA_TARGET", help="host:port of the server.", rich_help_panel="Connection"),
    ] = DEFAULT_TARGET
    timeout: Annotated[
        float,
        Option(
            help="Seconds a call may take, including retries.",
            min=0.001,
            max=LONGEST_TIMEOUT,
            rich_help_panel="Connection",
        ),
    ] = 1.0
    tls: Annotated[
        bool,
        Option("--tls", help="Use TLS; implied by the options below.", rich_help_panel="Connection"),
    ] = False
    tls_root: Annotated[
        Path | None,
        Option(
            envvar="ANIMORA_TLS_ROOT",
            help="Trusted authorities; gRPC's default roots if not given.",
            **_FILE,
        ),
    ] = None
    tls_certificate: Annotated[
        Path | None, Option(envvar="ANIMORA_TLS_CERTIFICATE", help="The client's certificate.", **_FILE)
    ] = None
    tls_key: Annotated[
        Path | None, Option(envvar="ANIMORA_TLS_KEY", help="The private key of that certificate.", **_FILE)
    ] = None
    tls_server_name: Annotated[
        str,
        Option(
            envvar="ANIMORA_TLS_SERVER_NAME",
            help="Expected name in the server's certificate.",
            rich_help_panel="Connection",
        ),
    ] = ""
    token: Annotated[
        str,
        Option(
            envvar="ANIMORA_TOKEN",
            help="Bearer token; the variable or --token-file keeps it out of the list of processes.",
            rich_help_panel="Connection",
        ),
    ] = ""
    token_file: Annotated[
        Path | None,
        Option(
            envvar="ANIMORA_TOKEN_FILE",
            help="File with the bearer token.",
            **(_FILE | {"metavar": "FILE"}),
        ),
    ] = None

    priority: Annotated[
        Priority,
        Option(help="An overloaded server refuses batch calls first.", rich_help_panel="Connection"),
    ] = Priority.INTERACTIVE

    def client(self) -> RankingClient:
        """A client with these options."""
        return RankingClient(
            self.target,
            timeout=self.timeout,
            tls=self._tls(),
            token=self._token(),
            priority=self.priority,
        )

    def connection(self) -> Connection:
        """The connection of the load generator."""
        return Connection(self.target, self.timeout, self._tls(), token=self._token(), priority=self.priority)

    def _token(self) -> str | Path | None:
        if self.token and self.token_file is not None:
            raise BadParameter("--token and --token-file (or their variables) exclude each other.")
        source = self.token_file or self.token or None
        try:
            if source is not None:
                BearerToken(source)
        except ValueError as error:
            raise BadParameter(f"{error}.") from None
        return source

    def _tls(self) -> Tls | None:
        if not (self.tls or self.tls_root or self.tls_certificate or self.tls_key or self.tls_server_name):
            return None
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise BadParameter("--tls-certificate needs --tls-key: give both or neither.")
        return Tls.from_files(self.tls_root, self.tls_certificate, self.tls_key, self.tls_server_name)


@dataclass(frozen=True, slots=True)
class AdminOptions(ServerOptions):
    """The options of the connection to an admin port."""

    target: Annotated[
        str,
        Option(
            envvar="ANIMORA_ADMIN_TARGET", help="host:port of the admin port.", rich_help_panel="Connection"
        ),
    ] = DEFAULT_ADMIN_TARGET
    timeout: Annotated[
        float,
        Option(help="Seconds a call may take.", min=0.001, max=LONGEST_TIMEOUT, rich_help_panel="Connection"),
    ] = ADMIN_TIMEOUT

    def admin_client(self) -> ModelClient:
        """A client of the admin port with these options."""
        return ModelClient(self.target, timeout=self.timeout, tls=self._tls(), token=self._token())


def read_ids(text: str, option: str) -> tuple[int, ...]:
    """Reads ids separated by commas or white space.

    Raises:
        BadParameter: A word is not an id; the error names `option`.
    """
    return tuple(read_id(word, option) for word in text.replace(",", " ").split())


def read_id(word: str, option: str) -> int:
    """Reads a signed 64-bit id; raises as `read_ids`."""
    try:
        number = int(word)
    except ValueError:
        raise BadParameter(f"{word[:40]!r} is not an integer.", param_hint=option) from None
    if not -(2**63) <= number < 2**63:
        raise BadParameter(f"{word[:40]} does not fit 64 bits.", param_hint=option)
    return number


def read_user(word: str) -> int:
    """Reads the id of `--user`; raises as `read_ids`."""
    return read_id(word, "--user")


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Converts a command for typer: each dataclass parameter is expanded to one parameter per field."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            parameters.extend(_parameters(groups[parameter.name]))
        else:
            parameters.append(
                parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
            )

    def flat(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    functools.update_wrapper(flat, command)
    del flat.__wrapped__  # type: ignore[attr-defined]  # typer would unwrap it and see the dataclasses
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat


def _parameters(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]
