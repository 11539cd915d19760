"""The TLS credentials of the gRPC port; each handshake uses the newest certificate."""

import grpc

from animora_server.tls import Identity
from animora_server.watched_files import WatchedFiles


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


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(identity.key, identity.certificates)], root_certificates=identity.client_ca
    )
