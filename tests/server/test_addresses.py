"""Ports are bound and reserved at all addresses of a host, or refused by the name of the option."""

import socket
from contextlib import closing, contextmanager

import pytest

from animora_server.addresses import Address, addresses, bind, require_free, reserve_port
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


@contextmanager
def listen(port, *, shared=True):
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        listener.bind(("127.0.0.1", port))
        listener.listen()
        yield listener


def test_processes_share_a_reserved_port_and_the_reservation_itself_accepts_no_connection():
    with reserve_port("grpc", "127.0.0.1", 0) as port:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with listen(port) as one, listen(port) as other:
            for _ in range(32):
                socket.create_connection(("127.0.0.1", port)).close()
            for listener in (one, other):
                listener.setblocking(False)
                listener.accept()[0].close()


def test_a_reserved_port_cannot_be_bound_exclusively():
    with (
        reserve_port("grpc", "127.0.0.1", 0) as port,
        pytest.raises(OSError, match="in use"),
        listen(port, shared=False),
    ):
        pass


@pytest.mark.parametrize("shared", [True, False])
def test_a_port_with_a_listener_is_refused(shared):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        listen(port, shared=shared),
        pytest.raises(ConfigurationError, match=rf"grpc\.port: cannot listen on 127\.0\.0\.1 port {port}"),
        reserve_port("grpc", "127.0.0.1", port),
    ):
        pass


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "::1", "::"])
def test_names_and_addresses_of_both_families_can_be_reserved(host):
    if ":" in host and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with reserve_port("grpc", host, 0) as port:
        assert port > 0


def test_an_invalid_host_is_refused_by_the_name_of_the_option():
    with (
        pytest.raises(ConfigurationError, match=r"grpc\.host"),
        reserve_port("grpc", "256.256.256.256", 0),
    ):
        pass


def test_without_so_reuseport_the_error_names_the_option_to_change(monkeypatch):
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    with (
        pytest.raises(ConfigurationError, match=r"grpc\.workers: .* set 1"),
        reserve_port("grpc", "127.0.0.1", 0),
    ):
        pass
