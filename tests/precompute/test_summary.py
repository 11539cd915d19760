from dataclasses import replace

from animora_server.precompute.summary import RunSummary, RunTotals, merge_summaries
from tests.precompute.test_plan import FIRST

SHARD = RunSummary(
    generation=FIRST,
    totals=RunTotals(neucf=3, heuristic=2, kept=4, left_out=1, pairs=50, stored_bytes=600),
    resumed=True,
    catalog_changed=False,
    model_changed=False,
    current=False,
    retired=0,
    loading=1.0,
    seconds=2.0,
)


def test_totals_add_up():
    both = SHARD.totals + SHARD.totals
    assert both == RunTotals(neucf=6, heuristic=4, kept=8, left_out=2, pairs=100, stored_bytes=1200)
    assert (both.ranked, both.users) == (10, 20)


def test_merged_shards_are_new_changed_and_current_if_one_is():
    whole = merge_summaries(
        [SHARD, replace(SHARD, resumed=False, catalog_changed=True, current=True, retired=7)], 9.0
    )
    assert (whole.resumed, whole.catalog_changed, whole.current, whole.retired) == (False, True, True, 7)


def test_merged_shards_took_the_elapsed_time():
    whole = merge_summaries([SHARD, replace(SHARD, loading=3.0, seconds=1.0)], 9.0)
    assert (whole.loading, whole.seconds) == (3.0, 6.0)
    assert whole.totals.pairs == 100
