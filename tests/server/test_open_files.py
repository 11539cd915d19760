"""Connections fit into the process' limit of open files; each case is a process of its own."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
soft, hard, wanted, host = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from animora_server.errors import ConfigurationError
from animora_server.open_files import fit_connections
from animora_server.settings import Settings
try:
    grpc = fit_connections(Settings.model_validate({"grpc": {"max_connections": wanted, "host": host}}))
except ConfigurationError as error:
    sys.exit(str(error))
print(grpc.max_connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def fit(soft: int, hard: int, wanted: int, host: str = "127.0.0.1") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(soft), str(hard), str(wanted), host]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_soft_limit_is_raised_for_all_connections():
    connections, limit = map(int, fit(256, 4096, 1000).stdout.split())
    assert connections == 1000
    assert 1000 < limit < 4096


def test_connections_are_lowered_to_what_the_hard_limit_leaves():
    fitted = fit(256, 256, 10_000)
    last = fitted.stdout.splitlines()[-1]  # after the warning
    connections, limit = map(int, last.split())
    assert limit == 256
    assert 16 <= connections < 256 - 64
    assert "grpc.max_connections is lowered" in fitted.stdout


def test_the_connections_of_all_addresses_of_a_host_fit_together():
    one, both = (int(fit(1024, 1024, 10_000, host).stdout.split()[-2]) for host in ("127.0.0.1", "localhost"))
    assert both in {one, one // 2}  # a machine may have no address for localhost in IPv6


def test_a_limit_without_room_for_any_connection_is_refused_with_the_limit_needed():
    refused = fit(100, 100, 10)
    assert refused.returncode != 0
    assert "may open 100 files" in refused.stderr
    assert "ulimit -n" in refused.stderr


@pytest.mark.parametrize("wanted", [1, 16])
def test_few_connections_stay_as_they_are(wanted: int):
    assert fit(1024, 1024, wanted).stdout.split() == [str(wanted), "1024"]
