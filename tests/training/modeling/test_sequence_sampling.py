from collections import Counter
from dataclasses import replace

import pytest
import torch

from animora_training.modeling.process_group import SINGLE_PROCESS, ProcessGroup
from animora_training.modeling.sequence_sampling import SequenceSampler, Windows
from tests.training.modeling.sequences import CONFIG, HOUR, hourly, ordered_set, random_histories

HISTORIES = random_histories(users=12, posts=30, longest=15)
DATA = ordered_set(HISTORIES, posts=30)
LENGTH = CONFIG.length


def samples(epoch=0, config=CONFIG, group=SINGLE_PROCESS):
    """The windows and the sample of each step of an epoch."""
    sampler = SequenceSampler(DATA, hourly(DATA), config, group)
    windows = sampler.windows(epoch)
    for start in range(0, len(windows.users), config.windows_per_step):
        some = slice(start, start + config.windows_per_step)
        step = Windows(windows.users[some], windows.starts[some])
        yield step, sampler.step(epoch, start, step)


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_every_event_but_the_first_is_predicted_once_from_those_before_it(epoch):
    predicted: Counter[tuple[int, int]] = Counter()
    for windows, sample in samples(epoch):
        for row, user in enumerate(windows.users.tolist()):
            history = HISTORIES[user - 1]
            for column in torch.nonzero(sample.predicted[row]).flatten().tolist():
                at = int(windows.starts[row]) + column + 1
                predicted[user, at] += 1
                assert sample.rows[sample.next_posts[row, column]] == history[at]
                seen = slice(column, column + LENGTH)  # the events that the encoder may use
                posts = sample.rows[sample.events[row, seen]][sample.kinds[row, seen] == 0].tolist()
                assert posts == history[max(at - LENGTH, 0) : at]
                times = sample.times[row, seen][sample.kinds[row, seen] == 0]
                assert times.tolist() == [HOUR * n for n in range(max(at - LENGTH, 0), at)]
    expected = {(user + 1, at) for user, history in enumerate(HISTORIES) for at in range(1, len(history))}
    assert predicted == Counter(expected)


def test_windows_begin_elsewhere_in_another_epoch():
    sampler = SequenceSampler(DATA, hourly(DATA), CONFIG, SINGLE_PROCESS)
    first, second = (
        set(zip(each.users.tolist(), each.starts.tolist(), strict=True))
        for each in (sampler.windows(0), sampler.windows(1))
    )
    assert first != second


def test_the_processes_of_a_group_share_the_windows_and_draw_the_same():
    whole = list(samples())
    shares = [list(samples(group=ProcessGroup(rank, 2))) for rank in range(2)]
    for (windows, sample), *parts in zip(whole, *shares, strict=True):
        for rank, (_, part) in enumerate(parts):
            mine = windows.users % 2 == rank
            assert torch.equal(part.events, sample.events[mine])
            assert torch.equal(part.predicted, sample.predicted[mine])
            assert torch.equal(part.rows, sample.rows)
            assert torch.equal(part.drawn, sample.drawn)


def test_negatives_are_live_posts_and_at_most_as_many_as_configured():
    for _, sample in samples(config=replace(CONFIG, negatives=7)):
        drawn = sample.rows[sample.drawn]
        assert 0 < len(drawn) <= 7
        assert torch.isin(drawn, DATA.negatives).all()
    for _, sample in samples():
        assert torch.equal(sample.rows[sample.drawn], DATA.negatives)


def test_users_with_a_single_event_have_no_window():
    data = ordered_set([[3], [], [1, 2]], posts=3)
    windows = SequenceSampler(data, hourly(data), CONFIG, SINGLE_PROCESS).windows(0)
    assert windows.users.tolist() == [3]
