"""The section `http`."""

from pydantic import Field

from animora_server.settings.section import Section


class HttpSettings(Section):
    """Where metrics and probes are served."""

    host: str = Field(
        default="127.0.0.1",
        description="address of /metrics, /livez and /readyz; beyond loopback needs `insecure`",
    )
    port: int = Field(
        default=9464, ge=0, le=65535, description="port of /metrics, /livez and /readyz; 0 takes a free one"
    )
    insecure: bool = Field(
        default=False, description="allow an address beyond loopback: there is no TLS on this port"
    )
