"""Recent results: their time to live and their bound on memory."""

from animora_server.scoring.single_flight import ENTRY_BYTES, RecentResults
from tests.support.clocks import ManualClock


def test_a_result_is_found_until_its_time_to_live_ends():
    clock = ManualClock(0.0)
    recent: RecentResults[str] = RecentResults(1.0, 1 << 20, clock)
    recent.add(b"k", "result", 6)
    assert (recent.find(b"k"), recent.find(b"other")) == ("result", None)
    clock.now = 0.9
    recent.add(b"k", "newer", 5)
    clock.now = 1.5
    assert recent.find(b"k") == "newer"
    clock.now = 2.0
    assert recent.find(b"k") is None


def test_the_oldest_results_are_evicted_first():
    recent: RecentResults[int] = RecentResults(1.0, 2 * (ENTRY_BYTES + 100), ManualClock(0.0))
    for number in range(3):
        recent.add(b"%d" % number, number, 100)
    recent.add(b"2", 5, 100)
    assert [recent.find(b"%d" % number) for number in range(3)] == [None, 1, 5]
    recent.add(b"large", 9, 10_000)
    assert [recent.find(key) for key in (b"1", b"2", b"large")] == [None, None, None]
