"""The file of tokens and certificates: what it grants, how it changes, and what of it is refused."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from animora_server.auth import (
    AccessList,
    Role,
    describe_token,
    new_token,
    warn_about_open_ports,
    watch_access_list,
)
from animora_server.errors import ConfigurationError, PermissionDenied, Unauthenticated
from animora_server.settings import AuthSettings, Settings
from animora_server.watched_files import MAX_BYTES
from tests.support.until import until

RANKER, SCRAPER, OLD = new_token(), new_token(), new_token()
ENTRIES = (
    describe_token(RANKER, "feed", [Role.RANK])
    + describe_token(SCRAPER, "prometheus", [Role.METRICS])
    + '[[certificate]]\nname = "spiffe://feed"\nroles = ["rank"]\n'
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.toml"
    path.write_text(ENTRIES)
    return path


@pytest.fixture
def access(file: Path) -> AccessList:
    return loaded(file)


def loaded(file: Path) -> AccessList:
    watched = watch_access_list(AuthSettings(tokens=file))
    assert watched is not None
    return watched.value


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_token_has_the_roles_of_its_entry_and_no_others(access: AccessList, scheme: str):
    access.require(Role.RANK, f"{scheme} {RANKER}")
    access.require(Role.METRICS, f"{scheme} {SCRAPER}")
    for role, token, caller in ((Role.METRICS, RANKER, "feed"), (Role.RANK, SCRAPER, "prometheus")):
        with pytest.raises(PermissionDenied, match=f"^the role {role} is required$") as denied:
            access.require(role, f"{scheme} {token}")
        assert denied.value.caller == caller


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {new_token()}",
        f"Bearer {RANKER} ",
        f"Bearer {RANKER[:-1]}",
        f"Basic {RANKER}",
        RANKER,
        "Bearer \udcff",
    ],
    ids=["empty", "scheme", "no token", "unknown", "space", "cut", "basic", "no scheme", "not UTF-8"],
)
def test_any_other_header_is_no_credential_even_beside_a_valid_certificate(access: AccessList, header: str):
    with pytest.raises(Unauthenticated):
        access.require(Role.RANK, header, ["spiffe://feed"])


def test_a_digest_is_no_token(access: AccessList):
    for grant in access.token:
        with pytest.raises(Unauthenticated):
            access.require(Role.RANK, f"Bearer {grant.sha256}")


def test_a_certificate_has_the_roles_of_its_name(access: AccessList):
    access.require(Role.RANK, None, ["feed.internal", "spiffe://feed"])
    with pytest.raises(PermissionDenied):
        access.require(Role.METRICS, None, ["spiffe://feed"])
    for names in ([], ["spiffe://fee"], ["SPIFFE://feed"]):
        with pytest.raises(Unauthenticated):
            access.require(Role.RANK, None, names)


async def test_tokens_are_added_and_revoked_without_a_restart(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("animora_server.watched_files.RELOAD_INTERVAL", 0.01)
    watched = watch_access_list(AuthSettings(tokens=file))
    assert watched is not None
    write, unlink = file.write_text, file.unlink

    def accepted(token: str) -> bool:
        try:
            watched.value.require(Role.RANK, f"Bearer {token}")
        except Unauthenticated:
            return False
        return True

    async with watched:
        renewed = new_token()
        write(ENTRIES + describe_token(renewed, "feed-2", [Role.RANK]))
        await until(lambda: accepted(renewed))
        assert accepted(RANKER)
        write(describe_token(renewed, "feed-2", [Role.RANK]))
        await until(lambda: not accepted(RANKER))
        write("[[token]]\nname =")
        await until(lambda: watched.loop.failures["expected"] > 1)
        assert accepted(renewed)
        unlink()
        failures = watched.loop.failures["expected"]
        await until(lambda: watched.loop.failures["expected"] > failures + 1)
        assert accepted(renewed)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "holds no [[token]] and no [[certificate]]"),
        ("[[token]", "is not a TOML file"),
        (b"\xff\x00", "is not a TOML file"),
        (
            '[[token]]\nname = "a"\nroles = ["rank"]\nsha256 = "secret"',
            "token.0.sha256: must be 64 lower-case hexadecimal digits",
        ),
        ("token = 5", "token: must be an array of tables"),
        (
            '[[token]]\nname = "a"\nroles = "rank"\nsha256 = "' + 64 * "0" + '"',
            "token.0.roles: must be an array",
        ),
        ("token = [5]", "token.0: must be a table"),
        ('[[token]]\nname = "a"\nroles = []\nsha256 = "' + 64 * "0" + '"', "token.0.roles: "),
        ('[[token]]\nname = ""\nroles = ["rank"]\nsha256 = "' + 64 * "0" + '"', "token.0.name: "),
        ('[[certificate]]\nname = "a"\nroles = ["secret"]', "certificate.0.roles.0: "),
        ('[[certificate]]\nname = "a"\nroles = ["rank"]\nsecret = 1', "certificate.0.secret: "),
        ('[[certificate]]\nname = "a"\nroles = ["rank"]\n' * 2, "names one certificate twice"),
        (describe_token("secret", "a", [Role.RANK]) * 2, "names one token twice"),
    ],
)
def test_an_invalid_file_is_refused_and_not_quoted(file: Path, content: str | bytes, problem: str):
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigurationError) as refused:
        loaded(file)
    assert str(refused.value).startswith(f"auth.tokens: {file}")
    assert problem in str(refused.value)
    assert '"secret"' not in str(refused.value)


def test_a_file_that_cannot_be_read_whole_is_refused_without_waiting(file: Path):
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ConfigurationError, match=r"tokens\.toml is not a regular file$"):
        loaded(file)
    file.unlink()
    file.write_text(ENTRIES + "#" * MAX_BYTES)
    with pytest.raises(ConfigurationError, match=r"tokens\.toml has more than 4,194,304 bytes$"):
        loaded(file)
    file.unlink()
    file.symlink_to(file)
    with pytest.raises(ConfigurationError, match="cannot read"):
        loaded(file)


def test_without_the_option_there_is_no_access_list():
    assert watch_access_list(AuthSettings()) is None


@pytest.mark.parametrize("name", ["", "a\nb", "a\x7fb", "a\u2028b", b"a\xffb"])
def test_the_command_refuses_a_name_that_the_file_or_the_log_cannot_hold(name: str | bytes):
    command = [sys.executable, "-m", "animora_server", "token", "--role", "rank", "--name", name]
    refused = subprocess.run(command, check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert (
        refused.stderr
        == "animora-server: --name: must not be empty, and must have printable characters alone\n"
    )


def test_the_command_prints_a_new_token_and_the_entry_that_admits_it(file: Path):
    command = [sys.executable, "-m", "animora_server", "token", "--name", "Jürgen 😀"]
    printed = [
        subprocess.run(
            [*command, "--role", "rank", "--role", "metrics"],
            check=True,
            capture_output=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONUTF8": "1"},
        ).stdout
        for _ in range(2)
    ]
    tokens = [text.splitlines()[1] for text in printed]
    assert tokens[0] != tokens[1]
    assert all(token.startswith("animora_") and len(token) == 51 for token in tokens)
    for text, token in zip(printed, tokens, strict=True):
        entry = text[text.index("[[token]]") :]
        assert token not in entry
        assert tomllib.loads(entry)["token"][0]["name"] == "Jürgen 😀"
        file.write_text(entry, encoding="utf-8")
        for role in (Role.RANK, Role.METRICS):
            loaded(file).require(role, f"Bearer {token}")


def test_the_token_of_the_documentation_is_admitted_by_its_file(file: Path):
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    configuration, tokens = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    Settings.model_validate(tomllib.loads(configuration))
    file.write_text(tokens)
    (token,) = re.findall(r"^animora_\S+$", page, re.MULTILINE)
    loaded(file).require(Role.RANK, f"Bearer {token}")
    loaded(file).require(Role.RANK, None, ["spiffe://example.org/feed"])


@pytest.mark.parametrize(
    ("options", "ports"),
    [
        ({}, None),
        ({"grpc": {"host": "0.0.0.0", "insecure": True}}, ["grpc"]),
        ({"http": {"host": "0.0.0.0", "insecure": True}}, ["http"]),
        (
            {"grpc": {"host": "::", "insecure": True}, "http": {"host": "::", "insecure": True}},
            ["grpc", "http"],
        ),
        (
            {
                "grpc": {
                    "host": "::",
                    "tls_certificate": "server.pem",
                    "tls_key": "server.key",
                    "tls_client_ca": "ca.pem",
                }
            },
            None,
        ),
        ({"http": {"host": "::", "insecure": True}, "auth": {"tokens": "tokens.toml"}}, None),
    ],
)
def test_a_port_beyond_loopback_that_needs_no_credentials_is_one_warning(options, ports):
    with capture_logs() as lines:
        warn_about_open_ports(Settings.model_validate(options))
    assert [line["ports"] for line in lines] == ([] if ports is None else [ports])
