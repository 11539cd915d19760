import socket
from contextlib import contextmanager

import pytest

from animora_server.errors import ConfigurationError
from animora_server.settings import GrpcSettings
from animora_server.workers.port import reserved


@contextmanager
def listen(port, *, shared=True):
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        listener.bind(("127.0.0.1", port))
        listener.listen()
        yield listener


def test_processes_share_the_port_and_who_reserves_it_takes_no_connection():
    with reserved(GrpcSettings(port=0)) as port:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with listen(port) as one, listen(port) as other:
            for _ in range(32):
                socket.create_connection(("127.0.0.1", port)).close()
            for listener in (one, other):
                listener.setblocking(False)
                listener.accept()[0].close()


def test_nobody_else_gets_the_port_meanwhile():
    with (
        reserved(GrpcSettings(port=0)) as port,
        pytest.raises(OSError, match="in use"),
        listen(port, shared=False),
    ):
        pass


@pytest.mark.parametrize("shared", [True, False])
def test_a_port_on_which_another_listens_is_refused(shared):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        listen(port, shared=shared),
        pytest.raises(ConfigurationError, match=rf"grpc\.port: cannot listen on 127\.0\.0\.1 port {port}"),
        reserved(GrpcSettings(port=port)),
    ):
        pass


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "::1", "::"])
def test_a_host_of_any_kind_has_a_port(host):
    if ":" in host and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with reserved(GrpcSettings(host=host, port=0, insecure=True)) as port:
        assert port > 0


def test_a_host_that_is_none_is_refused_by_the_name_of_its_option():
    with (
        pytest.raises(ConfigurationError, match=r"grpc\.host"),
        reserved(GrpcSettings(host="256.256.256.256", insecure=True)),
    ):
        pass


def test_a_system_that_cannot_share_ports_says_which_option_to_change(monkeypatch):
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    with pytest.raises(ConfigurationError, match=r"grpc\.workers: .* set 1"), reserved(GrpcSettings(port=0)):
        pass
