"""The bearer token of a client: a string, or a file that changes."""

import os
from pathlib import Path

import pytest

from animora_client import AsyncRankingClient, RankingClient
from animora_client.connection import Connection
from animora_client.token import BearerToken
from tests.client.cli.command import run


async def sent(server, client, **options):
    await client.rank(7, [1], **options)
    return server.metadata[-1].get("authorization")


async def test_a_token_is_sent_with_every_call(server):
    async with AsyncRankingClient(server.target, timeout=10, token="secret") as client:
        assert await sent(server, client) == "Bearer secret"
        assert [post.post_id async for post in client.timeline(7, page_size=5)] == [*range(12, 0, -1)]
    assert [each["authorization"] for each in server.metadata] == ["Bearer secret"] * 4


async def test_metadata_takes_precedence_over_the_token(server):
    for metadata in ({"authorization": "Basic mine"}, {"Authorization": "Basic mine"}):
        async with AsyncRankingClient(server.target, timeout=10, token="secret") as client:
            assert await sent(server, client, metadata=metadata) == "Basic mine"
        async with AsyncRankingClient(server.target, timeout=10, token="x", metadata=metadata) as client:
            assert await sent(server, client) == "Basic mine"


async def test_without_a_token_there_is_no_header(server, client):
    assert await sent(server, client) is None


@pytest.mark.parametrize("settled", [False, True])
async def test_a_changed_file_is_read_by_the_next_call_and_page(server, tmp_path, settled):
    file = tmp_path / "token"

    def write(token: str, written_at: int) -> None:
        file.write_text(token + "\n")
        if settled:  # an old file, whose time stamp is trusted
            os.utime(file, ns=(written_at, written_at))

    write("one", 10**18)
    async with AsyncRankingClient(server.target, timeout=10, token=file) as client:
        assert await sent(server, client) == "Bearer one"
        pages = aiter(client.timeline(7, page_size=5).pages())
        await anext(pages)
        write("two", 10**17)
        assert await sent(server, client) == "Bearer two"
        await anext(pages)
        assert server.metadata[-1]["authorization"] == "Bearer two"


async def test_the_last_token_stays_while_the_file_is_unusable(server, tmp_path):
    file = tmp_path / "token"
    write, unlink = file.write_text, file.unlink
    write("one")
    async with AsyncRankingClient(server.target, timeout=10, token=file) as client:
        for spoil in (lambda: write(""), lambda: write("two lines\n of text"), unlink):
            spoil()
            assert await sent(server, client) == "Bearer one"
        write("two")
        assert await sent(server, client) == "Bearer two"


def test_a_switched_link_is_a_changed_file(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, ns=(10**18, 10**18))
    link = tmp_path / "link"
    link.symlink_to("one")
    token = BearerToken(link)
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(link)
    assert token.header() == "Bearer two"


@pytest.mark.parametrize("token", ["", " ", "two words", "line\nbreak", "schlüssel"])
def test_a_malformed_token_is_refused_and_not_quoted(tmp_path, token):
    file = tmp_path / "token"
    file.write_text(token, encoding="utf-8")
    for source in (token, file):
        with pytest.raises(ValueError, match=r"^the token must be printable ASCII") as refused:
            RankingClient("localhost:1", token=source)
        assert len(token) < 2 or token not in str(refused.value)


def test_a_missing_file_is_an_error_at_once(tmp_path):
    with pytest.raises(FileNotFoundError):
        RankingClient("localhost:1", token=tmp_path / "none")


def test_a_token_is_never_printed():
    assert "secret" not in repr(Connection(token="secret"))


async def test_the_command_takes_the_token_from_a_file_a_variable_or_an_option(server, tmp_path):
    file: Path = tmp_path / "token"
    write = file.write_text
    write("from-file\n")
    command = ("rank", "--target", server.target, "--user", "7", "--posts", "1")
    for arguments, environment, token in (
        (("--token-file", str(file)), {}, "from-file"),
        ((), {"ANIMORA_TOKEN_FILE": str(file)}, "from-file"),
        ((), {"ANIMORA_TOKEN": "from-variable"}, "from-variable"),
        (("--token", "from-option"), {}, "from-option"),
    ):
        done = await run(*command, *arguments, **environment)
        assert (done.code, done.err) == (0, "")
        assert server.metadata[-1]["authorization"] == f"Bearer {token}"
    for wrong in (("--token", "two words"), ("--token", "secret", "--token-file", str(file))):
        done = await run(*command, *wrong)
        assert done.code == 2
        assert "two words" not in done.err
        assert "secret" not in done.err
