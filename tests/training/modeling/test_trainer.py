from contextlib import nullcontext
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid, softplus

from animora_training.modeling.config import FitConfig
from animora_training.modeling.initialization import Initialization, new_initialization
from animora_training.modeling.process_group import ProcessGroup
from animora_training.modeling.rowwise_adam import BETAS
from animora_training.modeling.sampling import StepSampler
from animora_training.modeling.trainer import Trainer, _uses_bfloat16, learning_rate
from animora_training.modeling.training_set import training_set
from animora_training.pipeline.export import FoldedNeuCF
from tests.support.datasets import as_dataset, tiny_feed
from tests.support.networks import randomised

CONFIG = FitConfig(
    factors=4,
    mlp_embedding=6,
    hidden=(8, 4),
    feature_width=5,
    users_per_step=16,
    posts_per_step=40,
    max_epochs=4,
    learning_rate=0.01,
    history_drop=0.3,
    drop_rate=0.2,
    l2=0.1,
    seed=3,
)
WHOLE = replace(CONFIG, posts_per_step=1000)


@pytest.fixture(scope="module")
def tiny():
    return as_dataset(tiny_feed())


@pytest.fixture(scope="module")
def data(tiny):
    assert tiny.posts.deleted[np.unique(tiny.pairs.posts)].any()
    return training_set(tiny, tiny.pairs)


@pytest.fixture(scope="module")
def without_embeddings(tiny):
    return training_set(tiny.without_embeddings(), tiny.pairs)


@pytest.fixture(scope="module")
def with_an_idle_user(data):
    """A training set whose first user has no history."""
    first = int(data.offsets[2])
    counts = data.counts - torch.bincount(data.posts[:first].long(), minlength=len(data.counts))
    offsets = (data.offsets - first).clamp(min=0)
    return replace(data, offsets=offsets, posts=data.posts[first:], counts=counts)


def random_start(data, config):
    """A network without zeros, so that every term counts."""
    start = new_initialization(data, config)
    history = 0.3 * torch.randn(start.history.shape, generator=torch.Generator().manual_seed(1))
    return Initialization(randomised(start.network), history)


def trainer(data, config, start=None):
    return Trainer(data, config, start or new_initialization(data, config), ProcessGroup())


class Stopped(Exception):
    """A step has ended."""


def train(one, steps):
    """Trains a number of steps, across epochs."""
    left = iter(range(steps - 1, -1, -1))

    def count():
        if next(left) == 0:
            raise Stopped

    with pytest.raises(Stopped):
        for _ in one.epochs(count):
            pass


def tensors(state, prefix=""):
    """The tensors of a state by name, copied."""
    found = {}
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            found[f"{prefix}{name}"] = value.detach().clone()
        elif isinstance(value, dict):
            found.update(tensors(value, f"{prefix}{name}."))
    return found


def same(first, second):
    first, second = tensors(first), tensors(second)
    assert first.keys() == second.keys()
    return [name for name, value in first.items() if not torch.equal(value, second[name])] == []


def plain_gradients(data, config, start):
    """Gradients of the first step by name, from the definition: its users with all posts."""
    sampler = StepSampler(data, config, ProcessGroup())
    sample = sampler.step(0, 0, torch.split(sampler.order(0), sampler.users_per_step)[0])
    network, width = start.network, start.network.shape.factors
    tables = {
        "users": network.user_table.clone().requires_grad_(),
        "posts": network.post_table.clone().requires_grad_(),
        "history": start.history.clone().requires_grad_(),
    }
    ids = tables["users"][sample.users]
    dropped = torch.zeros(len(data.counts), 1, dtype=torch.bool)
    dropped[sample.rows[sample.dropped]] = True
    features = network.features(data.image.float(), data.caption.float())
    posts = torch.where(dropped, tables["posts"][0], tables["posts"]) + features
    weights, liked = torch.zeros(len(ids), len(posts)), torch.zeros(len(ids), len(posts), dtype=torch.bool)
    weights[sample.segments, sample.rows[sample.positives]] = sample.history
    liked[sample.segments, sample.rows[sample.positives]] = True
    users = ids + weights @ tables["history"]

    # The definition, see NeuCF.forward.
    pairs = torch.cat(
        (
            users[:, None, width + 1 :].expand(-1, len(posts), -1),
            posts[None, :, width + 1 :].expand(len(users), -1, -1),
        ),
        dim=2,
    )
    hidden = torch.relu(network.first(pairs))
    if sample.kept is not None:
        assert not sample.kept.all()
        hidden = hidden * sample.kept[:, None]
    mlp = network.tower(hidden) @ network.mlp_weight
    biases = users[:, width, None] + posts[:, width] + network.bias
    logits = users[:, :width] @ posts[:, :width].T + mlp + biases

    drawn = sample.rows[sample.drawn]
    negative = torch.zeros_like(liked)
    negative[:, drawn] = True
    negative &= ~liked
    stands_for = len(data.negatives) / len(drawn)
    if config.loss == "logistic":
        loss = -logsigmoid(logits[liked]).sum() - stands_for * logsigmoid(-logits[negative]).sum()
    elif config.loss == "softmax":
        loss = torch.zeros(())
        for user, post in liked.nonzero().tolist():
            beside = (logits[user][negative[user]].exp() * stands_for).sum()
            loss = loss - logits[user, post] + (logits[user, post].exp() + beside).log()
    else:
        beside = drawn[(sample.noise * len(drawn)).long()]
        every = zip(sample.segments, sample.rows[sample.positives], beside, strict=True)
        terms = [
            softplus(logits[user, other] - logits[user, post])
            for user, post, other in every
            if not liked[user, other]
        ]
        loss = torch.stack(terms).sum()
    columns = torch.arange(users.shape[1]) != width  # biases may be long
    share = stands_for * len(users) / (data.users - 1)
    lengths = [(part[:, columns] ** 2).sum() for part in (users, ids, posts[drawn])]
    loss = loss + config.l2 * (lengths[0] + lengths[1] + share * lengths[2])
    (loss / len(users)).backward()
    return {
        **{name: table.grad for name, table in tables.items()},
        **{name: parameter.grad for name, parameter in network.named_parameters()},
    }


@pytest.mark.parametrize(
    ("choices", "which"),
    [
        ({}, "data"),
        ({"posts_per_step": 1000}, "data"),
        ({"posts_per_step": 7, "users_per_step": 3}, "data"),
        ({"loss": "softmax", "dropout": 0.4}, "data"),
        ({"loss": "bpr", "hidden": (8,)}, "data"),
        ({"dropout": 0.4}, "without_embeddings"),
        ({"drop_rate": 0.0, "drop_scale": 0.0}, "without_embeddings"),
        ({"users_per_step": 1000}, "with_an_idle_user"),
        ({"loss": "softmax"}, "with_an_idle_user"),
    ],
)
def test_the_gradients_of_a_step_are_those_of_the_definition(choices, which, request):
    data, config = request.getfixturevalue(which), replace(CONFIG, **choices)
    one = trainer(data, config, random_start(data, config))
    train(one, 1)
    state, expected = one.state(), plain_gradients(data, config, random_start(data, config))
    # After one step, Adam's mean is a share of the gradient.
    for table in ("users", "posts", "history"):
        found = state[table]["mean"] / (1 - BETAS[0])
        torch.testing.assert_close(found, expected[table], rtol=1e-4, atol=2e-5, msg=table)
        assert found.any()
    names = {id(value): name for name, value in state["layers"].items()}
    groups, moments = one.state()["shared"]["param_groups"], one.state()["shared"]["state"]
    assert sum(len(group["params"]) for group in groups) == len(names) == len(moments)
    means = sorted((moment["exp_avg"] / (1 - BETAS[0]) for moment in moments.values()), key=fingerprint)
    wanted = sorted((expected[name] for name in names.values()), key=fingerprint)
    for mine, plain in zip(means, wanted, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=2e-5)


def fingerprint(values):
    """Identifies gradients, since an optimizer keeps no names."""
    return (*values.shape, round(float(values.sum()), 2))


def test_rows_that_a_step_does_not_touch_stay_as_they_are(data):
    config = replace(CONFIG, users_per_step=3, posts_per_step=7)
    start = random_start(data, config)
    users, posts, history = (
        table.clone() for table in (start.network.user_table, start.network.post_table, start.history)
    )
    one = trainer(data, config, start)
    sampler = StepSampler(data, config, ProcessGroup())
    sample = sampler.step(0, 0, torch.split(sampler.order(0), 3)[0])
    train(one, 1)
    for name, before, rows in (
        ("users", users, sample.users),
        ("posts", posts, sample.rows),
        ("history", history, sample.rows),
    ):
        moved = (one.state()[name]["table"] != before).any(dim=1)
        assert set(moved.nonzero().flatten().tolist()) <= set(rows.tolist())
        assert moved.any()
    assert len(sample.rows) < len(posts)


@pytest.mark.parametrize("loss", ["logistic", "softmax", "bpr"])
def test_the_loss_falls(data, loss):
    config = replace(CONFIG, loss=loss, max_epochs=10, learning_rate=0.03, l2=0.0)
    ended = list(islice(trainer(data, config).epochs(), 10))
    assert [epoch.number for epoch in ended] == list(range(1, 11))
    assert ended[-1].loss < 0.9 * ended[0].loss


@pytest.mark.parametrize("loss", ["logistic", "softmax", "bpr"])
def test_bfloat16_trains_nearly_as_well(data, loss):
    config = replace(CONFIG, loss=loss, dropout=0.2)
    single, half = (trainer(data, replace(config, precision=name)) for name in ("float32", "bfloat16"))
    losses = np.array([[epoch.loss for epoch in islice(one.epochs(), 3)] for one in (single, half)])
    assert np.abs(losses[1] / losses[0] - 1).max() < 0.01
    assert not same(single.state(), half.state())
    assert {value.dtype for value in tensors(half.state()).values()} == {torch.float32}


def test_the_default_precision_is_not_a_bfloat16_that_pytorch_emulates(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not _uses_bfloat16(FitConfig(), torch.device("cuda"))


def test_the_default_precision_on_a_cpu_is_float32(data):
    first, second = (trainer(data, replace(CONFIG, precision=name)) for name in ("auto", "float32"))
    for one in (first, second):
        next(one.epochs())
    assert same(first.state(), second.state())


def test_an_epoch_reports_the_number_of_scored_pairs(data):
    epoch = next(trainer(data, WHOLE).epochs())
    assert epoch.pairs == len(data.posts) + (data.users - 1) * len(data.negatives)
    assert epoch.learning_rate == pytest.approx(learning_rate(WHOLE, 1), rel=0.4)


def test_equal_seeds_give_equal_training(data):
    first, again, other = (trainer(data, config) for config in (CONFIG, CONFIG, replace(CONFIG, seed=4)))
    for one in (first, again, other):
        next(one.epochs())
    assert same(first.state(), again.state())
    assert not torch.equal(first.state()["layers"]["mlp_weight"], other.state()["layers"]["mlp_weight"])


def test_training_leaves_the_callers_random_state_alone(data):
    before = torch.get_rng_state()
    one = trainer(data, replace(CONFIG, dropout=0.5, loss="bpr"))
    next(one.epochs())
    one.network()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("steps", "loss", "dropout"), [(1, "logistic", 0.3), (6, "bpr", 0.0), (8, "softmax", 0.0)]
)
def test_a_trainer_restored_after_any_step_continues_bit_for_bit(data, tmp_path, steps, loss, dropout):
    config = replace(CONFIG, loss=loss, dropout=dropout)
    assert trainer(data, config).steps == 8
    through, killed, resumed = (trainer(data, config) for _ in range(3))
    ended = list(islice(through.epochs(), 2))
    train(killed, steps)
    torch.save(killed.state(), tmp_path / "state")
    resumed.restore(torch.load(tmp_path / "state", weights_only=True))
    again = list(islice(resumed.epochs(), 2))
    assert same(through.state(), resumed.state())
    assert [(epoch.number, epoch.loss, epoch.pairs) for epoch in again] == [
        (epoch.number, epoch.loss, epoch.pairs) for epoch in ended
    ]
    for name, value in through.network().state_dict().items():
        assert torch.equal(value, resumed.network().state_dict()[name])


def test_reading_the_network_does_not_change_training(data):
    watched, alone = trainer(data, CONFIG), trainer(data, CONFIG)
    for one in (watched, alone):
        for _ in islice(one.epochs(), 2):
            if one is watched:
                first, second = one.network(), one.network()
                assert same(first.state_dict(), second.state_dict())
    assert same(watched.state(), alone.state())


@pytest.mark.parametrize("which", ["data", "without_embeddings", "with_an_idle_user"])
def test_the_network_includes_each_users_whole_history(which, request):
    data = request.getfixturevalue(which)
    start = random_start(data, CONFIG)
    ids, history = start.network.user_table.clone(), start.history.clone()
    network = trainer(data, CONFIG, start).network()
    expected = ids.clone()
    for row in range(1, data.users):
        posts = data.posts[data.offsets[row] : data.offsets[row + 1]].long()
        expected[row] += history[posts].sum(dim=0) / max(len(posts), 1) ** 0.5
    torch.testing.assert_close(network.user_table, expected)
    assert not network.training
    users, rows = torch.arange(1, data.users), torch.arange(1, data.users) % len(data.counts)
    image, caption = data.image[rows].float(), data.caption[rows].float()
    folded = FoldedNeuCF(network).eval()
    with torch.inference_mode():
        logits = folded.score(users, users - 1, folded.encode_posts(rows, image, caption), users - 1)
        torch.testing.assert_close(logits, network(users, rows, image, caption), rtol=1e-5, atol=1e-5)


def test_the_unknown_row_and_the_features_are_trained(data):
    start = new_initialization(data, CONFIG)
    unknown = start.network.post_table[0].clone()
    one = trainer(data, CONFIG, start)
    next(one.epochs())
    network = one.network()
    assert not torch.equal(unknown, network.post_table[0])
    assert network.gmf_features.output.weight.any()
    assert network.mlp_features.output.weight.any()


def test_the_learning_rate_rises_then_falls_to_zero():
    config = FitConfig(learning_rate=0.1, warmup_epochs=1.0, max_epochs=10)
    rates = [learning_rate(config, epoch) for epoch in np.linspace(0, 10, 101)]
    peak = int(np.argmax(rates))
    assert 5 <= peak <= 15
    assert 0 < rates[0] < 0.01
    assert rates[-1] == 0
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) < 0).all()


def test_an_initialization_with_other_user_rows_is_refused(data):
    whole, share = (
        new_initialization(data, CONFIG),
        new_initialization(data, CONFIG, group=ProcessGroup(1, 2)),
    )
    assert torch.equal(share.network.user_table, whole.network.user_table[1::2])
    assert torch.equal(whole.shared(ProcessGroup(1, 2)).network.user_table, share.network.user_table)
    with pytest.raises(ValueError, match="share"):
        trainer(data, CONFIG, share)
