"""Data larger than the memory that a process may take."""

import asyncio
import json
import os
import subprocess
import sys

import asyncpg
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts what it should on Linux")

USERS, POSTS, WIDTH = 20_000, 60_000, 256
PAIRS, AGAIN = 1_000_000, 250_000
HEADROOM = 24 << 20

# Made by the views as they are read, so that the test writes nothing into tables.
VIEWS = f"""
create or replace view animora.users as select generate_series(1, {USERS})::bigint as id;
create or replace view animora.posts as
select i::bigint as id, (1 + i % {USERS})::bigint as author_id, to_timestamp(0) as created_at,
       null::timestamptz as updated_at, null::timestamptz as deleted_at,
       array_fill(1.0::real, array[{WIDTH}]) as image_embedding,
       array_fill(2.0::real, array[{WIDTH}]) as caption_embedding
from generate_series(1, {POSTS}) i;
create or replace view animora.interactions as
select 1 + i % {USERS} as user_id,
       1 + (i % {USERS} * 7 + i / {USERS} % {PAIRS // USERS} * 661) % {POSTS} as post_id,
       'like'::text as kind, to_timestamp(1 + i) as created_at
from generate_series(0::bigint, {PAIRS + AGAIN - 1}) i;
"""


@pytest.fixture
async def url(postgres_url):
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(VIEWS)
    await connection.close()
    return postgres_url


async def run(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return await asyncio.to_thread(
        subprocess.run,
        (sys.executable, "-m", "tests.training.data.limited", *map(str, arguments)),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


async def test_data_larger_than_memory_are_read_split_and_gone_through(url, tmp_path):
    size = 2 * POSTS * 2 * WIDTH + 12 * (2 * PAIRS + AGAIN)
    assert size > 3 * HEADROOM
    streamed = await run(url, tmp_path, HEADROOM, "stream")
    assert streamed.returncode == 0, streamed.stderr
    seen = json.loads(streamed.stdout)
    assert seen["held_out"] == USERS
    assert seen["trained"] == PAIRS - USERS
    assert seen["image"] == POSTS * WIDTH
    # And a program that copies the same data into memory cannot.
    copied = await run(url, tmp_path, HEADROOM, "copy")
    assert copied.returncode != 0
    assert "Unable to allocate" in copied.stderr
