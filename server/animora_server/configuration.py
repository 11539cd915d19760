"""Loads settings from `ANIMORA_*` variables over a TOML file over defaults, and formats them as TOML."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from animora_database import InvalidDsn, parse_dsn
from animora_process.password_file import PasswordFileError
from animora_server.errors import ConfigurationError
from animora_server.settings import ArmSettings, Settings
from animora_server.settings.section import Section, mistakes

PREFIX = "ANIMORA_"
# Names with the prefix that are not options: the path of the configuration file, and the client's variables.
NOT_OPTIONS = {
    "ANIMORA_ADMIN_TARGET",
    "ANIMORA_CONFIG",
    "ANIMORA_TARGET",
    "ANIMORA_TLS_CERTIFICATE",
    "ANIMORA_TLS_KEY",
    "ANIMORA_TLS_ROOT",
    "ANIMORA_TLS_SERVER_NAME",
    "ANIMORA_TOKEN",
    "ANIMORA_TOKEN_FILE",
}
# Kubernetes sets such variables in every container for a Service whose name begins with "animora".
_SERVICE_LINK_NAME = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?$")
_SERVICE_LINK_VALUE = re.compile(
    r"(tcp|udp|sctp)://"
)  # never an option's value; the Service may be named `animora-grpc`

HIDDEN = "*****"
# Query parameters of a URL that hold no secret. asyncpg and redis-py accept passwords as parameters too.
_PUBLIC_PARAMETERS = {"application_name", "database", "db", "dbname", "host", "port", "sslmode", "user"}


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its section, name and pydantic field."""

    section: str
    name: str
    field: FieldInfo

    @property
    def variable(self) -> str:
        """The name of the environment variable."""
        return f"{PREFIX}{self.section}_{self.name}".upper()

    @property
    def key(self) -> str:
        """The key in the TOML file."""
        return f"{self.section}.{self.name}"


def options() -> Iterator[Option]:
    """All options, section by section."""
    for section, field in Settings.model_fields.items():
        for name, option in type(field.default).model_fields.items():
            yield Option(section, name, option)


def load_settings(environ: Mapping[str, str], file: Path | None) -> Settings:
    """Loads and validates the settings of a process. An empty variable counts as not set.

    Args:
        environ: The environment variables.
        file: A TOML file with one table per section, or None.

    Raises:
        ConfigurationError: A name is unknown, a value is invalid, or the file cannot be read.
    """
    environ = {name: value for name, value in environ.items() if not _SERVICE_LINK_VALUE.match(value)}
    _reject_unknown(environ)
    _check_json(environ)

    class Layers(BaseSettings, Settings):
        """Defined per load, because pydantic-settings fixes the sources per class."""

        model_config = SettingsConfigDict(
            frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
        )

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *args: Any, **kwargs: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return _environment_source(settings_cls, environ), TomlConfigSettingsSource(settings_cls, file)

    try:
        if file is not None and not file.is_file():
            problem = "is not a regular file" if file.exists() else "there is no such configuration file"
            raise ConfigurationError(f"{file}: {problem}")
        settings = Settings.model_validate(dict(Layers()))
    except ValidationError as error:
        # `from None`: pydantic's own text repeats the same for developers.
        raise ConfigurationError(_explain(error, environ, file)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file}: cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:  # also numbers and nesting past Python's limits
        raise ConfigurationError(f"{file}: not a TOML file: {error}") from error
    _check_connection_strings(settings, environ)
    _check_model_store(settings.models.store, environ)
    return settings


def describe(settings: Settings) -> str:
    """Formats settings as a TOML file. Loading the file gives the same settings, except hidden secrets."""
    lines: list[str] = []
    for section in Settings.model_fields:
        lines += ["", f"[{section}]"] if lines else [f"[{section}]"]
        for name, value in getattr(settings, section):
            lines.append(f"# {name} is not set" if value is None else f"{name} = {toml_value(value)}")
    return "\n".join(lines) + "\n"


def toml_value(value: object) -> str:
    """Formats a value as TOML; hides a secret."""
    if isinstance(value, SecretStr):
        value = _hide_secrets(value.get_secret_value())
    if isinstance(value, Section):
        value = value.model_dump(exclude_defaults=True)
    if isinstance(value, Mapping):
        pairs = [f"{json.dumps(key)} = {toml_value(each)}" for key, each in value.items()]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False)  # TOML's basic strings have JSON's escapes


def _environment_source(settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> EnvSettingsSource:
    """The variables of options in `environ`, nested by section. Empty variables are left out."""
    source = EnvSettingsSource(
        settings_cls, env_prefix=PREFIX, env_nested_delimiter="_", env_nested_max_split=1
    )
    # In place of the process' environment; names are lower case, as for any case-insensitive source.
    source.env_vars = {
        option.variable.lower(): value for option in options() if (value := environ.get(option.variable))
    }
    return source


def _reject_unknown(environ: Mapping[str, str]) -> None:
    """Raises ConfigurationError if a variable with the prefix is neither an option nor a known other name."""
    known = [option.variable for option in options()]
    unknown = [
        name
        for name in sorted(environ)
        if name.startswith(PREFIX)
        and name not in {*known, *NOT_OPTIONS}
        and not _SERVICE_LINK_NAME.search(name)
    ]
    if unknown:
        raise ConfigurationError("\n".join(f"{name}: {_no_such_option(name, known)}" for name in unknown))


def _check_json(environ: Mapping[str, str]) -> None:
    """Raises ConfigurationError if the variable of an option that is a table is not JSON of an object."""
    for option in options():
        value = environ.get(option.variable)
        if value and isinstance(option.field.default, Mapping):
            try:
                table = json.loads(value)
            except (ValueError, RecursionError):
                table = None
            if not isinstance(table, dict):
                raise ConfigurationError(
                    f'{option.variable}: must be JSON such as {{"NAME": {{"share": 5}}}}'
                )


def _check_connection_strings(settings: Settings, environ: Mapping[str, str]) -> None:
    """Raises ConfigurationError if a PostgreSQL connection string, or its password file, cannot be used."""
    by_key = {option.key: option for option in options()}
    for option in by_key.values():
        if option.section == "database" and isinstance(
            value := getattr(settings.database, option.name), SecretStr
        ):
            try:
                if value.get_secret_value():
                    parse_dsn(value.get_secret_value()).with_password_file(settings.database.password_file)
            except InvalidDsn as error:
                raise ConfigurationError(f"{_name(option, environ)}: {error}") from error
            except PasswordFileError as error:
                file = _name(by_key["database.password_file"], environ)
                raise ConfigurationError(f"{file}: {error}") from error


def _name(option: Option, environ: Mapping[str, str]) -> str:
    """The name by which the option is set."""
    return option.variable if environ.get(option.variable) else option.key


def _check_model_store(store: str, environ: Mapping[str, str]) -> None:
    """Raises ConfigurationError if the URL of the model store is invalid."""
    if ":" not in store:
        return  # a path, or empty
    from animora_artifact.opening import parse_store_url  # noqa: PLC0415  # imports NumPy

    try:
        parse_store_url(store)
    except ValueError as error:
        name = "ANIMORA_MODELS_STORE" if environ.get("ANIMORA_MODELS_STORE") else "models.store"
        raise ConfigurationError(f"{name}: {error}") from error


def _explain(error: ValidationError, environ: Mapping[str, str], file: Path | None) -> str:
    """One line per mistake: the option and what is wrong with it, without the value."""
    known = {option.key: option for option in options()}
    in_file = f" in {file}" if file else ""
    lines = []
    for mistake in mistakes(error):
        key, option = ".".join(map(str, mistake["loc"])), known.get(".".join(map(str, mistake["loc"][:2])))
        what = mistake["msg"]
        place = f"{key}{in_file}"
        if option is not None and environ.get(option.variable):
            place = ": ".join([option.variable, *filter(None, (key.removeprefix(option.key).lstrip("."),))])
        if mistake["type"] == "extra_forbidden":
            arm = key.rpartition(".")[0] if option else ""
            names = [*known, *(f"{arm}.{name}" for name in ArmSettings.model_fields if arm)]
            lines.append(f"{place}: {_no_such_option(key, names)}")
        elif key:
            lines.append(f"{place}: {what}")
        else:
            lines.append(what)  # a rule across sections, which names its options
    return "\n".join(lines)


def _no_such_option(name: str, known: Iterable[str]) -> str:
    # Without the common prefix, which would make any two variables similar.
    by_rest = {option.removeprefix(PREFIX): option for option in known}
    similar = get_close_matches(name.removeprefix(PREFIX), by_rest, n=1)
    return f"no such option; did you mean {by_rest[similar[0]]}?" if similar else "no such option"


def _hide_secrets(secret: str) -> str:
    """Hides the password and private parameters of a URL; hides the whole text unless it is surely a URL."""
    try:
        parts = urlsplit(secret)
        query = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return HIDDEN
    # A password with an unescaped "/", "?" or "#" ends the host early and leaves an "@" in the rest.
    if not parts.scheme or "@" in parts.path + parts.query + parts.fragment:
        return HIDDEN if secret else ""
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    shown = urlencode(
        [(key, value if key in _PUBLIC_PARAMETERS else HIDDEN) for key, value in query], safe="*/"
    )
    return f"{parts.scheme}://{name}{colon}{colon and HIDDEN}{at}{host}{parts.path}{shown and '?'}{shown}"
