"""The same pair of a user and a post has the same bits in any batch, on a CPU, in one dtype."""

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from animora_server.inference.batch_inference import allocate, encode, run_batch
from animora_server.inference.device import Device
from animora_server.inference.loaded_model import LoadedModel, PostVectors
from animora_server.inference.loading import load_model
from animora_server.inference.requests import ScoreRequest
from animora_server.settings import ScorerSettings
from animora_training.pipeline.compilation import compile_score
from tests.support.compilers import needs_compiler
from tests.support.neucf_feed import neucf_artifact

POSTS = 400
USER_ROWS = (1, 2, 3)
MOST_PAIRS = 5000
# Each example is up to thousands of pairs in up to dozens of requests.
in_any_batch = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))


@dataclass(frozen=True)
class Embeddings:
    """Embeddings float16 (n, w) in memory, by catalog row."""

    image: np.ndarray
    caption: np.ndarray

    def read(self, start, stop):
        return self.image[start:stop], self.caption[start:stop]

    def take(self, rows):
        return self.image[rows], self.caption[rows]


def some_embeddings(image=3, caption=2):
    random = np.random.default_rng(3)
    return Embeddings(*(random.normal(size=(POSTS, width)).astype(np.float16) for width in (image, caption)))


POST_ROWS = np.arange(POSTS, dtype=np.int64) % 5


@dataclass(frozen=True)
class Scorer:
    """A loaded model with encoded posts, and the scores of each pair alone, float32 (users, posts)."""

    model: LoadedModel
    table: PostVectors
    alone: np.ndarray

    def requests(self, pairs):
        """A request for each (user row, post rows)."""
        return [
            ScoreRequest.for_user(self.model.network, self.table, user, np.array(rows, np.int64))
            for user, rows in pairs
        ]

    def expected(self, pairs):
        return [self.alone[USER_ROWS.index(user), list(rows)] for user, rows in pairs]


def encoded(model, chunks):
    """A table with all posts, encoded in chunks of the given sizes."""
    table = allocate(model, POSTS, None, None, 64)
    for size in chunks:
        rows = POST_ROWS[table.rows : table.rows + size]
        table = encode(model, rows, some_embeddings(), table)
    return table


def scorer_of(hidden=(32, 16, 8), compiled=False, dtype="float32"):
    artifact = neucf_artifact("v1", hidden)
    if compiled:
        artifact = replace(artifact, compiled=compile_score(artifact.manifest.dimensions, "cc"))
    options = ScorerSettings(device="cpu", dtype=dtype, compiled=compiled)
    tolerances = artifact.manifest.tolerances.model_copy(update={"half": 1.0, "top10_overlap": 0.0})
    artifact = replace(artifact, manifest=artifact.manifest.model_copy(update={"tolerances": tolerances}))
    model = load_model(artifact, torch.device("cpu"), options)
    assert model.compiled is compiled
    assert str(model.dtype) == f"torch.{dtype}"
    with threads(1):
        table = encoded(model, (POSTS,))
        alone = np.array(
            [
                [
                    run_batch([ScoreRequest.for_user(model.network, table, user, np.array([row]))])[0][0]
                    for row in range(POSTS)
                ]
                for user in USER_ROWS
            ]
        )
    return Scorer(model, table, alone)


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


SCORERS: dict[str, dict[str, Any]] = {
    "native": {"compiled": True},
    "native, odd widths": {"compiled": True, "hidden": (7, 5)},
    "TorchScript": {},
    "TorchScript, wide": {"hidden": (256, 128, 64)},
    "TorchScript, odd widths": {"hidden": (37, 11)},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=needs_compiler if name.startswith("native") else ()) for name in SCORERS
    ],
)
def scorer(request):
    return scorer_of(**SCORERS[request.param])


@st.composite
def batches(draw):
    """Requests of a batch: (user row, post rows) each, with any neighbours in any order."""
    seed = draw(st.integers(0, 2**32 - 1))
    sizes = draw(
        st.one_of(
            st.lists(st.integers(1, 40), min_size=1, max_size=30),
            st.lists(st.integers(1, MOST_PAIRS), min_size=1, max_size=2),
        )
    )
    random = np.random.default_rng(seed)
    return [(int(random.choice(USER_ROWS)), random.integers(0, POSTS, size).tolist()) for size in sizes]


@in_any_batch
@given(pairs=batches(), torch_threads=st.sampled_from((1, 2, 4)))
def test_a_pair_scores_the_same_bits_in_any_batch(scorer, pairs, torch_threads):
    with threads(torch_threads):
        scores = run_batch(scorer.requests(pairs))

    for found, expected in zip(scores, scorer.expected(pairs), strict=True):
        np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))


@settings(in_any_batch, max_examples=6)
@given(first=st.integers(1, 100), chunk=st.integers(1, 80), torch_threads=st.sampled_from((1, 2)))
def test_a_post_is_encoded_to_the_same_bits_alone_or_with_others(scorer, first, chunk, torch_threads):
    """As at the start, and later by polls."""
    chunks = [first, *[chunk] * ((POSTS - first) // chunk)]
    with threads(torch_threads):
        table = encoded(scorer.model, [*chunks, POSTS - sum(chunks)])

    assert torch.equal(table.vectors, scorer.table.vectors)


async def test_a_short_batch_scores_the_same_bits_inline_and_in_the_devices_thread(scorer):
    random = np.random.default_rng(1)
    pairs = [(user, random.integers(0, POSTS, size).tolist()) for user, size in ((1, 1), (2, 13), (3, 200))]
    for seconds in (0.0, 60.0):
        async with Device(
            ScorerSettings(device="cpu", threads=2), lambda: None, inline_seconds=seconds
        ) as device:
            await device.warm(scorer.model, scorer.table, [1, 64])
            assert (device.score_inline(scorer.requests(pairs)) is None) is (seconds == 0.0)
            scores = await device.score(scorer.requests(pairs))
        for found, expected in zip(scores, scorer.expected(pairs), strict=True):
            np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))
