"""Data larger than the memory that a process may take."""

import asyncio
import json
import os
import subprocess
import sys

import asyncpg
import numpy as np
import pytest

from animora_training.data.folder import open_dataset

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts what it should on Linux")

USERS, POSTS, WIDTH = 3_000, 60_000, 256
PAIRS, AGAIN = 150_000, 40_000
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


async def test_data_larger_than_memory_are_read_split_and_trained_on(url, tmp_path):
    size = 2 * POSTS * 2 * WIDTH + 12 * (2 * PAIRS + AGAIN)
    assert size > 2.5 * HEADROOM
    # With this, the C library gives back what is freed, so that the limit is on what is in use.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "262144"}
    ended = await asyncio.to_thread(
        subprocess.run,
        (sys.executable, "-m", "tests.training.data.limited", url, tmp_path, str(HEADROOM)),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    done = json.loads(ended.stdout)
    assert done["held_out"] == USERS
    assert done["positives"] == PAIRS - USERS
    assert done["pairs"] > PAIRS
    # A program that keeps the same data in memory would not have got as far.
    assert not done["can_copy"]
    np.testing.assert_array_equal(open_dataset(tmp_path).posts.image[:: POSTS // 7], 1.0)
