import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from animora_training.errors import NotFinite
from animora_training.modeling.process_group import SINGLE_PROCESS
from animora_training.modeling.sequence_model import new_sequence_model
from animora_training.modeling.sequence_trainer import SequenceTrainer
from tests.training.modeling.sequences import (
    CONFIG,
    HOUR,
    hourly,
    ordered_set,
    random_histories,
    shape_of,
)

HISTORIES = random_histories(users=12, posts=30, longest=15)
DATA = ordered_set(HISTORIES, posts=30)
PLAIN = replace(CONFIG, dropout=0.0, drop_rate=0.0, drop_scale=0.0)


def trainer(data=DATA, config=CONFIG):
    return SequenceTrainer(
        data, hourly(data), config, new_sequence_model(shape_of(data), config), SINGLE_PROCESS
    )


@torch.no_grad()
def next_logits(model, data, history):
    """Logits of all posts after a history of post rows, an hour apart; row 0 first."""
    image, caption = data.image.float(), data.caption.float()
    posts, tastes = model.vectors(model.post_table, model.taste_table, image, caption)
    times = HOUR * torch.arange(len(history), dtype=torch.float64)
    encoded = model.encoder(
        tastes[history][None], torch.zeros(1, len(history), dtype=torch.int64), times[None]
    )
    return posts[:, :-1] @ encoded[0, 0] + posts[:, -1]


def test_the_loss_is_the_cross_entropy_of_each_next_post_among_all_posts():
    still = replace(PLAIN, learning_rate=1e-30)
    one = trainer(config=still)
    model = new_sequence_model(shape_of(DATA), still).eval()
    losses = []
    for history in HISTORIES:
        for at in range(1, len(history)):
            logits = next_logits(model, DATA, history[:at])
            losses.append(float(torch.logsumexp(logits[1:], 0) - logits[history[at]]))
    (epoch,) = islice(one.epochs(), 1)
    assert epoch.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert epoch.pairs == 31 * len(losses)


def test_an_order_is_learned_and_a_shuffled_one_is_not():
    """Each post is followed by the next one; among ten posts, chance is a tenth."""
    rng = np.random.default_rng(0)
    ordered = [[1 + (start + n) % 10 for n in range(8)] for start in range(10)] * 3
    shuffled = [rng.permutation(history).tolist() for history in ordered]
    hits = []
    for histories in (ordered, shuffled):
        data = ordered_set(histories, posts=10)
        config = replace(PLAIN, epochs=12, windows_per_step=8, learning_rate=0.03)
        one = trainer(data, config)
        *_, _ = islice(one.epochs(), config.epochs)
        model = one.model.eval()
        found = [int(next_logits(model, data, [1 + p, 1 + (p + 1) % 10])[1:].argmax()) for p in range(10)]
        hits.append(np.mean([post == (p + 2) % 10 for p, post in enumerate(found)]))
    assert hits[0] == 1.0
    assert hits[1] <= 0.5


def test_a_resumed_training_ends_as_an_uninterrupted_one(tmp_path):
    whole = trainer()
    *_, last = islice(whole.epochs(), 2)

    class Stop(Exception):
        pass

    first, left = trainer(), iter(range(4, -1, -1))

    def between_steps():
        if next(left) == 0:
            raise Stop

    with pytest.raises(Stop):
        list(first.epochs(between_steps))
    torch.save(first.state(), tmp_path / "state.pt")
    resumed = trainer()
    resumed.restore(torch.load(tmp_path / "state.pt"))
    assert (resumed.position.epoch, resumed.position.step) == (first.position.epoch, first.position.step)
    for again in resumed.epochs():
        if again.number == last.number:
            break
    assert again.loss == last.loss
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_a_post_without_an_id_is_scored_by_its_content():
    config = replace(PLAIN, drop_rate=0.5, epochs=2)
    one = trainer(config=config)
    *_, _ = islice(one.epochs(), 2)
    model = one.model.eval()
    unknown = model.post_table[:1].expand(3, -1), model.taste_table[:1].expand(3, -1)
    image = torch.cat((torch.zeros(1, 3), torch.randn(2, 3, generator=torch.Generator().manual_seed(0))))
    posts, tastes = model.vectors(*unknown, image, torch.zeros(3, 0))
    assert torch.equal(posts[0], model.post_table[0])
    assert not torch.allclose(posts[1], posts[2])
    assert not torch.allclose(tastes[1], tastes[2])


def test_a_training_that_diverges_says_so():
    one = trainer(config=replace(PLAIN, learning_rate=math.inf))
    with pytest.raises(NotFinite, match="Lower the learning rate"):
        list(islice(one.epochs(), 2))
