from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

from animora_training.modeling.losses import StepLogits, bpr, logistic, softmax

USERS, POSTS = 5, 12
GENERATOR = torch.Generator().manual_seed(0)
SCORES = torch.randn(USERS, POSTS, generator=GENERATOR, dtype=torch.float64)
LIKED = torch.rand(USERS, POSTS, generator=GENERATOR) < 0.3
LIKED[0] = False  # a user without positives
LIKED[1] = True  # and one without negatives


def logits(drawn=None, scores=SCORES):
    """Logits of sampled posts, by default of the whole catalog."""
    columns = torch.arange(POSTS) if drawn is None else drawn
    segments, posts = LIKED.nonzero(as_tuple=True)
    return StepLogits(
        positive=scores[segments, posts],
        segments=segments,
        drawn=scores[:, columns],
        accidental_hits=LIKED[:, columns],
        weight=POSTS / len(columns),
        positive_weights=torch.ones(len(segments), dtype=torch.float64),
        noise=torch.rand(len(segments), generator=GENERATOR),
    )


def samples(count, size=4):
    return [torch.randperm(POSTS, generator=GENERATOR)[:size] for _ in range(count)]


def test_the_logistic_loss_over_the_whole_catalog_is_the_cross_entropy_of_all_pairs():
    expected = binary_cross_entropy_with_logits(SCORES, LIKED.double(), reduction="sum")
    torch.testing.assert_close(logistic(logits()), expected)


def test_the_sampled_logistic_loss_is_unbiased():
    losses = [float(logistic(logits(drawn))) for drawn in samples(4000)]
    error = np.std(losses) / np.sqrt(len(losses))
    assert np.mean(losses) == pytest.approx(float(logistic(logits())), abs=4 * error)
    assert error < 0.02 * np.mean(losses)


def test_softmax_over_the_whole_catalog_is_the_cross_entropy_of_each_positive_among_negatives():
    expected = torch.zeros((), dtype=torch.float64)
    for user, post in LIKED.nonzero().tolist():
        others = LIKED[user].clone()
        others[post] = False
        expected += cross_entropy(SCORES[user].masked_fill(others, -torch.inf), torch.tensor(post))
    torch.testing.assert_close(softmax(logits()), expected)


def test_the_negatives_of_sampled_softmax_are_weighted_by_the_posts_they_represent():
    few = logits(torch.tensor([2, 7]))
    expected = torch.zeros((), dtype=torch.float64)
    for positive, user in zip(few.positive, few.segments, strict=True):
        others = few.drawn[user][~few.accidental_hits[user]].exp().sum() * POSTS / 2
        expected -= (positive.exp() / (positive.exp() + others)).log()
    torch.testing.assert_close(softmax(few), expected)


def test_bpr_pairs_each_positive_with_one_sampled_negative():
    drawn = torch.tensor([1, 4, 9])
    among = logits(drawn)
    chosen = (among.noise * 3).long()
    expected = torch.zeros((), dtype=torch.float64)
    for positive, user, column in zip(among.positive, among.segments, chosen, strict=True):
        if not among.accidental_hits[user, column]:
            expected -= logsigmoid(positive - among.drawn[user, column])
    torch.testing.assert_close(bpr(among), expected)
    assert set(chosen.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("loss", [logistic, softmax, bpr])
def test_gradients_are_finite_even_of_users_without_positives_or_negatives(loss):
    scores = SCORES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits(scores=scores)), scores)
    assert torch.isfinite(gradient).all()
    assert gradient[2:].any()


@pytest.mark.parametrize("loss", [logistic, softmax, bpr])
def test_a_process_without_users_has_zero_loss(loss):
    nobody = logits()
    each = ("positive", "segments", "drawn", "accidental_hits", "positive_weights", "noise")
    nobody = replace(nobody, **{name: getattr(nobody, name)[:0] for name in each})
    assert loss(nobody) == 0


@pytest.mark.parametrize("loss", [logistic, softmax, bpr])
def test_a_weighted_positive_counts_as_often_as_its_weight(loss):
    every = logits()
    nothing = replace(every, positive_weights=torch.zeros_like(every.positive_weights))
    thrice = replace(every, positive_weights=3 * every.positive_weights)
    torch.testing.assert_close(loss(thrice) - loss(nothing), 3 * (loss(every) - loss(nothing)))
