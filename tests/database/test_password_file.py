"""Connections with a password from a file."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

import asyncpg
import pytest

from animora_database import ConnectionOptions, InvalidDsn, parse_dsn
from animora_database.connecting import open_connection
from animora_demo.embedded import EmbeddedPostgres
from animora_process.password_file import PasswordFile
from animora_training.data.database import Database, connect
from animora_training.errors import DatabaseError
from tests.support.passwords import require_password


@pytest.fixture
async def url(embedded_postgres: Callable[[], Awaitable[EmbeddedPostgres]]) -> str:
    """The DSN of the role "feed", which needs the password "second-secret"."""
    return await require_password(await embedded_postgres(), "feed", "second-secret")


async def user_of(options: ConnectionOptions) -> str:
    connection = await open_connection(options, 10.0, "a test")
    try:
        return str(await connection.fetchval("select current_user"))
    finally:
        connection.terminate()


async def test_each_connection_uses_the_password_that_the_file_has_then(url, tmp_path):
    file = tmp_path / "password"
    file.write_text("first-secret\n")
    options = parse_dsn(url).with_password_file(file)
    with pytest.raises(asyncpg.InvalidPasswordError) as refused:
        await user_of(options)
    assert "secret" not in str(refused.value)

    file.write_text("second-secret\n")
    assert await user_of(options) == "feed"


async def test_a_password_that_is_replaced_while_it_is_refused_is_read_again_at_once(url, tmp_path):
    file = tmp_path / "password"
    file.write_text("first-secret")

    class ReplacedAfterReading(PasswordFile):
        def current(self) -> str:
            password = super().current()
            file.write_text("second-secret")
            return password

    options = replace(parse_dsn(url), password_file=ReplacedAfterReading(file))
    assert await user_of(options) == "feed"


async def test_the_trainer_connects_with_the_password_of_a_file(url, tmp_path):
    file = tmp_path / "password"
    file.write_text("second-secret\n")
    async with connect(Database(url, file)) as connection:
        assert await connection.fetchval("select current_user") == "feed"


async def test_the_trainer_names_the_option_of_a_password_file_that_it_cannot_read(tmp_path):
    with pytest.raises(DatabaseError, match=r"^--database-password-file: cannot read .*none \(No such file"):
        async with connect(Database("postgresql://feed@h/d", tmp_path / "none")):
            pass


@pytest.mark.parametrize(
    "dsn", ["postgresql://u:secret@h", "host=h password=secret", "postgresql://h?passfile=/p"]
)
def test_a_connection_string_with_a_password_of_its_own_takes_no_password_file(dsn, tmp_path):
    with pytest.raises(InvalidDsn, match="of its own: give the password there or in the password file") as no:
        parse_dsn(dsn).with_password_file(tmp_path / "password")
    assert "secret" not in str(no.value)


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"secret", "secret"),
        (b"secret\n", "secret"),
        (b"secret\r\n", "secret"),
        (b"\xef\xbb\xbfsecret", "secret"),
        (b" sec ret ", " sec ret "),
        ("пароль\n".encode(), "пароль"),
    ],
)
def test_a_password_is_all_of_the_file_but_the_end_of_the_line(content, password, tmp_path):
    (tmp_path / "password").write_bytes(content)
    assert PasswordFile(tmp_path / "password").current() == password


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"secret\nsecret\n", "must hold the password alone, in one line"),
        (b"secret\0", "must hold the password alone"),
        (b"secret\xff", "is not UTF-8 text"),
        (b"secret" * 20_000, "has more than 65,536 bytes"),
    ],
)
def test_a_file_that_is_no_password_is_refused_without_quoting_it(content, why, tmp_path):
    path = tmp_path / "password"
    path.write_bytes(content)
    with pytest.raises(OSError, match=re.escape(f"{path} {why}")) as refused:
        PasswordFile(path)
    assert "secret" not in str(refused.value)


def test_a_folder_is_no_password_file(tmp_path):
    with pytest.raises(OSError, match=r"is not a regular file|Is a directory"):
        PasswordFile(tmp_path)


def test_the_last_password_stays_in_use_while_the_file_is_missing(tmp_path, caplog):
    path = tmp_path / "password"
    path.write_text("secret\n")
    file = PasswordFile(path)
    path.unlink()
    assert file.current() == "secret"
    assert "password file not usable; the last password stays in use: cannot read" in caplog.text
    assert "secret" not in caplog.text
    path.write_text("newer\n")
    assert file.current() == "newer"
