"""The section `database`."""

from pydantic import Field, SecretStr

from animora_server.settings.section import DAY, HOUR, Section


class DatabaseSettings(Section):
    """The application's PostgreSQL, read through the four views."""

    url: SecretStr = Field(
        default=SecretStr(""),
        description="connection string, as libpq takes it, of a role that may read the schema `animora`; "
        "required",
    )
    listen_url: SecretStr = Field(
        default=SecretStr(""),
        description="connection string of a direct connection to the same server, on which notifications of "
        "blocks and deletions arrive, where `url` leads through a pooler; empty takes `url`",
    )
    listen_timeout: float = Field(
        default=2.0,
        gt=0.001,
        le=HOUR,
        description="seconds in which a test notification must arrive on that connection; "
        "also the interval of the tests",
    )
    timeout: float = Field(default=5.0, gt=0.001, le=HOUR, description="seconds to connect to a host")
    command_timeout: float = Field(default=60.0, gt=0.001, le=DAY, description="seconds one query may take")
