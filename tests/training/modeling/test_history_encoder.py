import math

import numpy as np
import pytest
import torch

from animora_training.modeling.history_encoder import EncoderShape, HistoryEncoder

SHAPE = EncoderShape(length=4, taste=6, sums=3, heads=2, kinds=3, output=5)
DAY = 86_400.0


def random_encoder(shape=SHAPE, seed=0):
    """An encoder with random weights, none of them zero."""
    encoder = HistoryEncoder(shape)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return encoder.eval()


def histories(events, users=3, seed=1):
    """Taste vectors, kinds and ascending times of users with as many events each."""
    generator = torch.Generator().manual_seed(seed)
    taste = torch.randn(users, events, SHAPE.taste, generator=generator)
    kinds = torch.randint(0, SHAPE.kinds, (users, events), generator=generator)
    gaps = torch.rand(users, events, generator=generator, dtype=torch.float64) * DAY
    return taste, kinds, 1.7e9 + gaps.cumsum(1)


def by_hand(encoder, taste, kinds, times):
    """The definition in NumPy, for one user with all events present, oldest first."""
    weights = {name: value.double().numpy() for name, value in encoder.state_dict().items()}

    def linear(name, x):
        return weights[f"{name}.weight"] @ x + weights.get(f"{name}.bias", 0.0)

    def norm(name, x):
        return linear_diagonal(name, (x - x.mean()) / math.sqrt(x.var() + 1e-5))

    def linear_diagonal(name, x):
        return weights[f"{name}.weight"] * x + weights[f"{name}.bias"]

    def softplus(x):
        return np.log1p(np.exp(x))

    taste, kinds, times = (values[-SHAPE.length :].numpy()[::-1] for values in (taste, kinds, times))
    x = taste.astype(np.float64) * weights["kind_weights"][kinds][:, None]
    ages = np.log1p((times[0] - times) / 3_600)
    sums = [
        (weights["rank_weights"][h, : len(x)] * np.exp(-softplus(weights["sum_fading"][h]) * ages)) @ x
        for h in range(SHAPE.sums)
    ]
    base = x[0] + linear("mix", np.concatenate(sums))
    queries = linear("query", norm("query_norm", base)).reshape(SHAPE.heads, SHAPE.taste)
    contexts = []
    for head, query in enumerate(queries):
        logits = x @ query / math.sqrt(SHAPE.taste) + weights["rank_bias"][head, : len(x)]
        logits = np.exp(logits - softplus(weights["attention_fading"][head]) * ages)
        contexts.append(logits / logits.sum() @ x)
    state = norm("state_norm", base + linear("context", np.concatenate(contexts)))
    hidden = linear("feed_forward.0", state)
    hidden *= [(1 + math.erf(value / math.sqrt(2))) / 2 for value in hidden]
    return linear("output", norm("output_norm", state + linear("feed_forward.3", hidden)))


@pytest.mark.parametrize("events", [1, 3, 4, 7])
def test_the_encoder_equals_its_definition(events):
    encoder, inputs = random_encoder(), histories(events)
    expected = [by_hand(encoder, *(values[user] for values in inputs)) for user in range(3)]
    np.testing.assert_allclose(encoder(*inputs).detach()[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_nothing_is_encoded_before_training_and_without_events():
    inputs = histories(5)
    assert not HistoryEncoder(SHAPE)(*inputs).any()
    taste, kinds, times = inputs
    encoded = random_encoder()(taste, torch.full_like(kinds, -1), times, queries=3)
    assert encoded.shape == (3, 3, SHAPE.output)
    assert not encoded.any()


def test_each_position_is_encoded_from_what_came_before_it():
    encoder, (taste, kinds, times) = random_encoder(), histories(9)
    at_once = encoder(taste, kinds, times, queries=9)
    for end in range(1, 10):
        alone = encoder(taste[:, :end], kinds[:, :end], times[:, :end])
        torch.testing.assert_close(at_once[:, end - 1 : end], alone)


def test_absent_and_older_events_change_nothing():
    encoder, (taste, kinds, times) = random_encoder(), histories(3)
    expected = encoder(taste, kinds, times)
    more = torch.cat((9 * torch.ones(3, 2, SHAPE.taste), taste), dim=1)
    padded = torch.cat((torch.full((3, 2), -1), kinds), dim=1)
    later = torch.cat((torch.zeros(3, 2, dtype=torch.float64), times), dim=1)
    torch.testing.assert_close(encoder(more, padded, later), expected)

    taste, kinds, times = histories(SHAPE.length + 2)
    expected = encoder(taste[:, 2:], kinds[:, 2:], times[:, 2:])
    torch.testing.assert_close(encoder(taste, kinds, times), expected)


def test_order_kind_and_age_count():
    encoder, (taste, kinds, times) = random_encoder(), histories(4)
    first = encoder(taste, kinds, times)
    for other in (
        encoder(taste.flip(1), kinds.flip(1), times),
        encoder(taste, (kinds + 1) % SHAPE.kinds, times),
        encoder(taste, kinds, times + torch.tensor([0.0, 0.0, 0.0, 30 * DAY])),
    ):
        assert (first - other).abs().amax(dim=2).min() > 1e-3


def test_a_shift_of_all_times_changes_nothing():
    encoder, (taste, kinds, times) = random_encoder(), histories(4)
    torch.testing.assert_close(encoder(taste, kinds, times + DAY), encoder(taste, kinds, times))


def test_all_weights_are_trained():
    encoder = random_encoder().train()
    encoder(*histories(6), queries=2).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
