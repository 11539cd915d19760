"""Data larger than the memory that a process may take."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass

import asyncpg
import numpy as np
import pytest

from animora_training.data.folder import open_dataset

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts what it should on Linux")

# A fit takes up to 95 MiB more than an interpreter that has done a small one.
HEADROOM = 120 << 20


@dataclass(frozen=True)
class Size:
    """Numbers of users, posts, pairs and repeated likes of pairs, and the width of embeddings."""

    users: int
    posts: int
    pairs: int
    again: int
    width: int

    @property
    def bytes(self):
        """Size of its arrays in bytes."""
        return 2 * self.posts * 2 * self.width + 12 * (2 * self.pairs + self.again)

    @property
    def views(self):
        """Views that generate its rows when they are read."""
        return f"""
create or replace view animora.users as select generate_series(1, {self.users})::bigint as id;
create or replace view animora.posts as
select i::bigint as id, (1 + i % {self.users})::bigint as author_id, to_timestamp(0) as created_at,
       null::timestamptz as updated_at, null::timestamptz as deleted_at,
       array_fill(1.0::real, array[{self.width}]) as image_embedding,
       array_fill(2.0::real, array[{self.width}]) as caption_embedding
from generate_series(1, {self.posts}) i;
create or replace view animora.interactions as
select 1 + i % {self.users} as user_id,
       1 + (i % {self.users} * 7 + i / {self.users} % {self.pairs // self.users} * 661) % {self.posts}
           as post_id,
       'like'::text as kind, to_timestamp(1 + i) as created_at
from generate_series(0::bigint, {self.pairs + self.again - 1}) i;
"""


@pytest.mark.timeout(2_800)  # four minutes on idle cores
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(Size(users=300, posts=124_000, pairs=123_900, again=20_000, width=512), id="embeddings"),
        pytest.param(Size(users=500, posts=22_000, pairs=10_500_000, again=1000, width=4), id="interactions"),
    ],
)
async def test_a_model_is_fitted_on_data_larger_than_memory(size, postgres_url, tmp_path):
    assert size.bytes > 2 * HEADROOM
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(size.views)
    await connection.close()
    # The C library returns freed memory, so that the limit applies to memory in use.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "262144"}
    ended = await asyncio.to_thread(
        subprocess.run,
        (sys.executable, "-m", "tests.training.data.limited", postgres_url, tmp_path, str(HEADROOM)),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=2_700,  # else the interpreter waits for the thread
    )
    assert ended.returncode == 0, ended.stderr
    done = json.loads(ended.stdout)
    assert done["judged_users"] == size.users // 2
    assert done["interactions"] == size.pairs
    assert done["stages"][:2] == ["factorisation", "hold-out"]
    # A program that keeps the same data in memory fails before that.
    assert not done["can_copy"]
    np.testing.assert_array_equal(open_dataset(tmp_path / "data").posts.image[:: size.posts // 7], 1.0)
