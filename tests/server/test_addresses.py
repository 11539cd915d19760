"""A port that somebody listens on, at whichever address of a host, is refused."""

import socket
from contextlib import closing

import pytest

from animora_server.addresses import Address, addresses, bind, require_free
from animora_server.errors import ConfigurationError


def loopback_families() -> set[socket.AddressFamily]:
    return {address.family for address in addresses("grpc", "localhost", 0)}


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_port_that_is_taken_at_one_address_of_a_host_is_refused(address: str):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if family not in loopback_families():
        pytest.skip(f"localhost has no address like {address} here")
    with closing(bind(Address(family, (address, 0)))) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match="ANIMORA_GRPC_PORT") as refused:
            require_free("grpc", "localhost", port)
        assert str(refused.value).startswith(f"grpc.port: cannot listen on localhost port {port} (")
    require_free("grpc", "localhost", port)


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(ConfigurationError, match=r"^http\.port: cannot listen on 192\.0\.2\.1"):
        require_free("http", "192.0.2.1", 0)


@pytest.mark.parametrize("host", ["256.256.256.256", "no such host", "x" * 300, "a..b"])
def test_an_invalid_host_is_refused(host: str):
    with pytest.raises(ConfigurationError, match=r"^http\.host: .* is not an address of this machine"):
        addresses("http", host, 0)
