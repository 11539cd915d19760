"""Explanations: the encoded bytes equal the public messages."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.scoring.terms import MODEL_TERMS
from animora_server.service.explanations import encode_explanations
from animora_server.timeline.reranking import TERMS as RERANKING_TERMS
from animora_server.types import Terms

VALUES = st.floats(width=32, allow_nan=False)


def public_messages(terms: Terms, reranking: Terms | None, exploration: list[bool]) -> list[pb.Explanation]:
    messages = [pb.Explanation(exploration=each) for each in exploration]
    for part, field in ((terms, "terms"), (reranking, "reranking_terms")):
        for message, values in zip(messages, part.values.tolist() if part else (), strict=part is not None):
            for name, value in zip(part.names if part else (), values, strict=True):
                getattr(message, field).add(name=name, value=value)
    return messages


@given(st.data(), st.integers(0, 5))
def test_encoded_explanations_equal_the_public_messages(data, posts):
    def drawn(names):
        return Terms(names, data.draw(arrays(np.float32, (posts, len(names)), elements=VALUES)))

    terms, reranking = drawn(MODEL_TERMS), drawn(RERANKING_TERMS)
    exploration = data.draw(arrays(np.bool_, posts))
    for encoded, expected in (
        (encode_explanations(terms), public_messages(terms, None, [False] * posts)),
        (
            encode_explanations(terms, reranking, exploration),
            public_messages(terms, reranking, exploration.tolist()),
        ),
    ):
        assert [pb.Explanation.FromString(message) for message in encoded] == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_of_any_memory_layout_are_encoded(dtype):
    values = np.asfortranarray(np.arange(6, dtype=dtype).reshape(3, 2))
    encoded = encode_explanations(Terms(("popularity", "recency"), values[::-1]))
    first = pb.Explanation.FromString(encoded[0])
    assert [(term.name, term.value) for term in first.terms] == [("popularity", 4.0), ("recency", 5.0)]
