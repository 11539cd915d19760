"""Running a network on a device: post vectors into a table, and the works of a batch."""

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
from animora_server.inference.requests import ExplainRequest, InferenceRequest, ScoreRequest, split_scores
from animora_server.types import FloatArray, IntArray


@torch.inference_mode()
def allocate(
    model: LoadedModel,
    capacity: int,
    source: PostVectors | None,
    recorder: GraphRecorder | None,
    max_rows: int,
) -> PostVectors:
    """A table of zeros float (capacity, post vector) that begins with the rows of another.

    Args:
        model: Whose posts it is for.
        capacity: Rows.
        source: The other.
        recorder: Records the model's scores with it; None where batches are run as they come.
        max_rows: Pairs of a batch that is recorded.
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
    """Copies rows [source, source + rows) of a table to [target, target + rows), which are none of them."""
    table.vectors[target : target + rows] = table.vectors[source : source + rows]


@torch.inference_mode()
def encode(
    model: LoadedModel, post_rows: IntArray, embeddings: Embeddings, table: PostVectors
) -> PostVectors:
    """Appends post vectors to a table that has room for them.

    Args:
        model: The model.
        post_rows: int64 (n), vocabulary rows of the posts at catalog rows [table.rows, table.rows + n).
        embeddings: Image and caption embeddings by catalog row.
        table: Where to.
    """
    stop = table.rows + len(post_rows)
    image, caption = model.features(*embeddings.read(table.rows, stop))
    table.vectors[table.rows : stop] = model.network.encode_posts(
        torch.from_numpy(post_rows).to(model.device), image, caption
    )
    return replace(table, rows=stop)


def run_batch(works: Sequence[InferenceRequest]) -> list[FloatArray]:
    """Runs works that share a key; results in the same order."""
    scored = [work for work in works if isinstance(work, ScoreRequest)]
    if scored:  # a batch has one key, and so one kind of work
        return _score(scored)
    return [_explain(work) for work in works if isinstance(work, ExplainRequest)]


def _score(works: Sequence[ScoreRequest]) -> list[FloatArray]:
    work = ScoreRequest.joined(works)  # b users, m pairs
    table: PostVectors = work.table
    if table.captured is None and isinstance(work.network, CompiledNetwork):
        values = work.network.score_arrays(work.user_rows, _segments(work), table.vectors, work.rows)
    else:
        values = _score_with_torch(work, table)
    if values.shape != work.rows.shape:
        raise InvalidScores(f"the network gives scores {values.shape} for {len(work.rows)} pairs")
    return split_scores(values, works)


@torch.inference_mode()
def _score_with_torch(work: ScoreRequest, table: PostVectors) -> FloatArray:
    network: Network = work.network
    device = table.vectors.device
    if table.captured is None and device.type == "cpu" and isinstance(network, CheckedNetwork):
        return network.score_arrays(work.user_rows, _segments(work), table.vectors, work.rows)
    require_rows("rows", work.rows, len(table.vectors))  # a GPU is lost with a row that does not exist
    if table.captured is not None:
        return table.captured.score(np.repeat(work.user_rows, work.sizes), work.rows)
    logits = network.score(
        torch.from_numpy(work.user_rows).to(device),
        torch.from_numpy(_segments(work)).to(device),
        table.vectors,
        torch.from_numpy(work.rows).to(device),
    )
    values: FloatArray = logits.float().cpu().numpy()
    return values


def _segments(work: ScoreRequest) -> IntArray:
    """Which of the users each pair is of: int64 (m)."""
    return np.arange(len(work.sizes)).repeat(work.sizes)


@torch.inference_mode()
def _explain(work: ExplainRequest) -> FloatArray:
    model: LoadedModel = work.model
    image, caption = model.features(*work.embeddings.take(work.rows))
    post_rows = torch.from_numpy(work.post_rows).to(model.device)
    return explain(model.network, work.user_row, post_rows, image, caption)
