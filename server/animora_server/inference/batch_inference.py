"""Executes a network on its device: encodes posts into a table, scores and explains batches."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from animora_artifact.checked import CheckedNetwork, require_rows
from animora_artifact.compiled import CompiledNetwork
from animora_artifact.network import Network
from animora_server.errors import InvalidScores
from animora_server.inference.explanation import explain
from animora_server.inference.graph_capture import CapturedScorer, GraphRecorder
from animora_server.inference.loaded_model import LoadedModel, PostVectors
from animora_server.inference.protocols import Embeddings
from animora_server.inference.requests import ExplainRequest, InferenceRequest, ScoreRequest, split_by_request
from animora_server.types import FloatArray, IntArray


@torch.inference_mode()
def allocate(
    model: LoadedModel,
    capacity: int,
    source: PostVectors | None,
    recorder: GraphRecorder | None,
    max_rows: int,
) -> PostVectors:
    """Allocates a table of post vectors: floating (capacity, d), zeros after the rows copied from `source`.

    Args:
        model: The model whose post vectors the table will hold.
        capacity: Rows to allocate.
        source: A table of the same model whose encoded rows are copied; None for an empty table.
        recorder: Captures the scoring of each batch length; None executes each batch eagerly.
        max_rows: Pairs (user, post) of the longest captured batch.
    """
    width = model.manifest.dimensions.post_vector
    vectors = torch.zeros((capacity, width), device=model.device, dtype=model.dtype)
    rows = 0
    if source is not None:
        rows = source.rows
        vectors[:rows] = source.vectors[:rows]
    captured = CapturedScorer(model.network, vectors, max_rows, recorder) if recorder else None
    return PostVectors(vectors, rows, captured)


@torch.inference_mode()
def copy_rows(table: PostVectors, source: int, target: int, rows: int) -> None:
    """Copies rows [source, source + rows) of a table to [target, target + rows), which must not overlap."""
    table.vectors[target : target + rows] = table.vectors[source : source + rows]


@torch.inference_mode()
def encode(
    model: LoadedModel, post_rows: IntArray, embeddings: Embeddings, table: PostVectors
) -> PostVectors:
    """Encodes n posts and appends their vectors to a table, which must have room for them.

    Args:
        model: The model.
        post_rows: int64 (n), vocabulary rows of the posts at catalog rows [table.rows, table.rows + n).
        embeddings: Image and caption embeddings by catalog row.
        table: The table to append to.

    Returns:
        The same memory with n more encoded rows.
    """
    stop = table.rows + len(post_rows)
    image, caption = model.features(*embeddings.read(table.rows, stop))
    table.vectors[table.rows : stop] = model.network.encode_posts(
        torch.from_numpy(post_rows).to(model.device), image, caption
    )
    return replace(table, rows=stop)


def run_batch(requests: Sequence[InferenceRequest]) -> list[FloatArray]:
    """Executes requests that share a key: float32 (m), or (m, 8) for an explanation, in the same order.

    Raises:
        InvalidScores: The network returns scores of another shape.
        RuntimeError: The network or the device failed.
    """
    scored = [request for request in requests if isinstance(request, ScoreRequest)]
    if scored:  # a batch has one key and therefore one kind of request
        return _score(scored)
    return [_explain(request) for request in requests if isinstance(request, ExplainRequest)]


def _score(requests: Sequence[ScoreRequest]) -> list[FloatArray]:
    request = ScoreRequest.concatenated(requests)  # b users, m pairs
    table: PostVectors = request.table
    if table.captured is None and isinstance(request.network, CompiledNetwork):
        values = request.network.score_arrays(
            request.user_rows, _segments(request), table.vectors, request.rows
        )
    else:
        values = _score_with_torch(request, table)
    if values.shape != request.rows.shape:
        raise InvalidScores(f"the network returns scores {values.shape} for {len(request.rows)} pairs")
    return split_by_request(values, requests)


@torch.inference_mode()
def _score_with_torch(request: ScoreRequest, table: PostVectors) -> FloatArray:
    network: Network = request.network
    device = table.vectors.device
    if table.captured is None and device.type == "cpu" and isinstance(network, CheckedNetwork):
        return network.score_arrays(request.user_rows, _segments(request), table.vectors, request.rows)
    require_rows("rows", request.rows, len(table.vectors))  # a row out of range poisons the CUDA context
    if table.captured is not None:
        return table.captured.score(np.repeat(request.user_rows, request.sizes), request.rows)
    logits = network.score(
        torch.from_numpy(request.user_rows).to(device),
        torch.from_numpy(_segments(request)).to(device),
        table.vectors,
        torch.from_numpy(request.rows).to(device),
    )
    values: FloatArray = logits.float().cpu().numpy()
    return values


def _segments(request: ScoreRequest) -> IntArray:
    """The position of each pair's user among the request's users: int64 (m)."""
    return np.arange(len(request.sizes)).repeat(request.sizes)


@torch.inference_mode()
def _explain(request: ExplainRequest) -> FloatArray:
    model: LoadedModel = request.model
    image, caption = model.features(*request.embeddings.take(request.rows))
    post_rows = torch.from_numpy(request.post_rows).to(model.device)
    return explain(model.network, request.user_row, post_rows, image, caption)
