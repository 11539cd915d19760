"""The TLS credentials of the gRPC port; each handshake uses the newest certificate."""

from concurrent.futures import ThreadPoolExecutor

import grpc

from animora_server.tls import Identity
from animora_server.watched_files import WatchedFiles

SOME_PORT = "localhost:0"


def server_credentials(watched: WatchedFiles[Identity]) -> grpc.ServerCredentials:
    """Credentials that follow the files. With a client authority, clients must present a certificate of it.

    Connections that are open keep the certificate of their handshake.
    """
    in_use = watched.value

    def newer_configuration() -> grpc.ServerCertificateConfiguration | None:
        # gRPC calls this before each handshake, on one of its threads and under a lock of the port. A new
        # configuration costs it a new OpenSSL context, so None keeps the one in use.
        nonlocal in_use
        newest = watched.value
        if newest is in_use:
            return None
        in_use = newest
        return _configuration(newest)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(in_use),
        newer_configuration,  # type: ignore[arg-type]  # the stubs lack None, which keeps the configuration
        require_client_authentication=in_use.client_ca is not None,
    )


def is_usable(identity: Identity) -> bool:
    """Whether gRPC can use a certificate and its key. It refuses some that Python's `ssl` takes.

    With `dynamic_ssl_server_credentials`, gRPC reports an unusable certificate only by failing handshakes. A
    port with fixed credentials reports it at once. That port, which nobody learns of, is closed again.
    """
    server = grpc.server(ThreadPoolExecutor(max_workers=1))  # never started
    pair = [(identity.key, identity.certificates)]
    credentials = grpc.ssl_server_credentials(
        pair, identity.client_ca, require_client_auth=identity.client_ca is not None
    )
    try:
        server.add_secure_port(SOME_PORT, credentials)
    except RuntimeError:
        return not _can_listen(server)
    finally:
        server.stop(None)
    return True


def _can_listen(server: grpc.Server) -> bool:
    try:
        server.add_insecure_port(SOME_PORT)
    except RuntimeError:
        return False
    return True


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(identity.key, identity.certificates)], root_certificates=identity.client_ca
    )
