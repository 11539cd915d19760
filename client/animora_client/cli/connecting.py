"""The options that every command has: which server, how encrypted, how patient."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import BadParameter, Option

from animora_client.connection import DEFAULT_TARGET, LONGEST_TIMEOUT, Connection
from animora_client.sync import RankingClient
from animora_client.tls import Tls

_FILE = {"exists": True, "dir_okay": False, "metavar": "PEM", "rich_help_panel": "Connection"}


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where to connect and how."""

    target: Annotated[
        str,
        Option(envvar="ANIMORA_TARGET", help="host:port of the server.", rich_help_panel="Connection"),
    ] = DEFAULT_TARGET
    timeout: Annotated[
        float,
        Option(
            help="Seconds a call may take, retries included.",
            min=0.001,
            max=LONGEST_TIMEOUT,
            rich_help_panel="Connection",
        ),
    ] = 1.0
    tls: Annotated[
        bool,
        Option("--tls", help="Encrypt; any of the options below says so, too.", rich_help_panel="Connection"),
    ] = False
    tls_root: Annotated[
        Path | None, Option(help="Authorities to trust; those that gRPC ships with by default.", **_FILE)
    ] = None
    tls_certificate: Annotated[Path | None, Option(help="The client's own certificate.", **_FILE)] = None
    tls_key: Annotated[Path | None, Option(help="The key of that certificate.", **_FILE)] = None
    tls_server_name: Annotated[
        str,
        Option(help="Name to expect in the server's certificate.", rich_help_panel="Connection"),
    ] = ""

    def client(self) -> RankingClient:
        """A client with these options."""
        return RankingClient(self.target, timeout=self.timeout, tls=self._tls())

    def connection(self) -> Connection:
        """The same for the load generator."""
        return Connection(self.target, self.timeout, self._tls())

    def _tls(self) -> Tls | None:
        if not (self.tls or self.tls_root or self.tls_certificate or self.tls_key or self.tls_server_name):
            return None
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise BadParameter("--tls-certificate and --tls-key go together: give both or neither.")
        return Tls.from_files(self.tls_root, self.tls_certificate, self.tls_key, self.tls_server_name)
