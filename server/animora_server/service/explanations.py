"""Encodes the Explanation messages of a response in a few array operations.

The explanations of one response have the same terms in the same order: their bytes differ only in the values.
Encoded message by message, the terms of 500 posts take 2 ms of the event loop.
"""

from functools import lru_cache

import numpy as np

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.fast_dataclass import fast_dataclass
from animora_server.types import BoolArray, Terms

VALUE = np.dtype("<f4")


@fast_dataclass
class _Layout:
    """The bytes of an Explanation message, and the offsets of each value and of the exploration flag."""

    message: bytes
    values: tuple[int, ...]
    exploration: int


def encode_explanations(
    terms: Terms, reranking: Terms | None = None, exploration: BoolArray | None = None
) -> list[bytes]:
    """The bytes of the Explanation message of each post (n).

    Args:
        terms: The explain terms of the ranker, float32 (n, k).
        reranking: The terms of re-ranking, float32 (n, l); None without re-ranking.
        exploration: bool (n), which posts hold a place reserved for exploration; None for none.
    """
    names = reranking.names if reranking is not None else ()
    layout = _layout(terms.names, names)
    encoded = np.tile(np.frombuffer(layout.message, np.uint8), (len(terms.values), 1))
    columns = [terms.values] if reranking is None else [terms.values, reranking.values]
    values = np.concatenate(columns, axis=1).astype(VALUE)  # (n, k + l)
    for column, offset in enumerate(layout.values):
        encoded[:, offset : offset + VALUE.itemsize] = values[:, column : column + 1].copy().view(np.uint8)
    encoded[:, layout.exploration] = 0 if exploration is None else exploration
    return [message.tobytes() for message in encoded]


@lru_cache
def _layout(terms: tuple[str, ...], reranking: tuple[str, ...]) -> _Layout:
    # No value may be zero: protobuf does not encode zeros.
    message = pb.Explanation()
    values = []
    for field, names in ((message.terms, terms), (message.reranking_terms, reranking)):
        for name in names:
            field.add(name=name, value=1)
            values.append(message.ByteSize() - VALUE.itemsize)
    message.exploration = True
    return _Layout(message.SerializeToString(), tuple(values), message.ByteSize() - 1)
