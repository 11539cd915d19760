import fcntl
import json
import logging
import os
import select
from collections.abc import Iterator

import pytest

from animora_server.log_output import DroppingHandler, handler_for

LONG = "x" * 10_000


class Pipe:
    """A log's reader and its writing end."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 64 << 10)
        self.log = logging.Logger("pipe")
        handler = DroppingHandler(self.writer)
        handler.setFormatter(logging.Formatter("%(message)s %(lines)s", defaults={"lines": ""}))
        self.log.addHandler(handler)

    def read(self) -> list[str]:
        """What has come since the last time."""
        os.set_blocking(self.reader, False)
        text = b""
        try:
            while chunk := os.read(self.reader, 1 << 20):
                text += chunk
        except BlockingIOError:
            pass
        return text.decode().splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    os.close(made.reader)
    os.close(made.writer)


def test_lines_are_written_whole_and_in_order(pipe: Pipe):
    pipe.log.warning(LONG)
    pipe.log.warning("short \udcff")
    assert pipe.read() == [f"{LONG} ", "short \\udcff "]


@pytest.mark.parametrize("line", ["short", LONG])
def test_a_stalled_reader_blocks_no_writer_and_later_reads_how_many_lines_were_dropped(pipe: Pipe, line):
    sent = 200_000 // len(line)
    for _ in range(sent):
        pipe.log.warning(line)
    came = pipe.read()
    whole = came.count(f"{line} ")
    assert 0 < whole < sent
    pipe.log.warning("again")
    pipe.log.warning("and again")
    *torn, missing, again, and_again = pipe.read()
    assert (again, and_again) == ("again ", "and again ")
    assert missing == f"log lines dropped: the reader stalled {sent - whole}"
    assert torn in ([], [""])


def test_dropped_lines_are_reported_once(pipe: Pipe):
    for _ in range(20):
        pipe.log.warning(LONG)
    os.read(pipe.reader, 2 * select.PIPE_BUF)
    pipe.log.warning(LONG)  # there is room for what is missing, and for half of this
    came = pipe.read()
    whole = sum(line.endswith("x ") for line in came)
    assert came[-2] == f"log lines dropped: the reader stalled {20 - whole}"
    pipe.log.warning("again")
    assert pipe.read() == ["", "log lines dropped: the reader stalled 1", "again "]


def test_a_closed_reader_fails_no_writer(pipe: Pipe, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    reader, pipe.reader = pipe.reader, os.open(os.devnull, os.O_RDONLY)
    os.close(reader)
    pipe.log.warning("to nobody")


def test_a_file_receives_every_line(tmp_path):
    with (tmp_path / "log").open("w") as file:
        log = logging.Logger("file")
        log.addHandler(handler_for(file))
        for _ in range(100):
            log.warning(json.dumps({"event": LONG}))
    lines = (tmp_path / "log").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"event": LONG}] * 100
