"""Loading a version: its network on a device, which has given the probabilities that were recorded."""

import numpy as np
import structlog
import torch

from animora_artifact import Artifact, ArtifactRejected, CompiledUnusable
from animora_artifact.compiled import load_compiled
from animora_artifact.errors import RejectionReason
from animora_artifact.manifest import Dimensions
from animora_artifact.network import Network, golden_error, load_network, replay
from animora_artifact.vocabulary import RowIndex
from animora_server.scorer.loaded import LoadedModel, as_features
from animora_server.settings import ScorerSettings

log = structlog.get_logger(__name__)

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def load_model(artifact: Artifact, device: torch.device, settings: ScorerSettings) -> LoadedModel:
    """A version that is fit to serve, by the arithmetic and the code of the settings where it allows them.

    Args:
        artifact: The version.
        device: Where to.
        settings: `dtype` and `compiled` count.

    Raises:
        ArtifactRejected: It does not load, or does not give the recorded probabilities in float32.
    """
    network, dtype = load_network(artifact.model, device), torch.float32
    for _ in range(2):  # TorchScript compiles anew in the second run
        _replay(network, artifact, device)
    _check_tables(network, artifact.manifest.dimensions, device)
    if settings.dtype != "float32":
        network, dtype = _in_half_precision(network, artifact, device, HALVES[settings.dtype])
    if settings.compiled and device.type == "cpu" and dtype == torch.float32:
        network = _by_compiled_code(network, artifact, device)
    return LoadedModel(
        artifact.manifest,
        network,
        RowIndex(artifact.vocabulary.user_ids),
        RowIndex(artifact.vocabulary.post_ids),
        device,
        dtype,
    )


def _in_half_precision(
    network: Network, artifact: Artifact, device: torch.device, dtype: torch.dtype
) -> tuple[Network, torch.dtype]:
    """The network in half precision, if that tells nearly the same; as it is otherwise."""
    half = load_network(artifact.model, device, dtype)
    golden, tolerances = artifact.golden, artifact.manifest.tolerances
    try:
        for _ in range(2):
            replayed = replay(half, golden, device, dtype)
            difference, overlap = golden.error(replayed), golden.overlap(replayed)
            if not (difference <= tolerances.half and overlap >= tolerances.top10_overlap):
                raise ArtifactRejected(
                    RejectionReason.GOLDEN,
                    f"golden rows differ by {difference:.2g}, allowed is {tolerances.half:.2g}; "
                    f"{overlap:.1%} of the best ten are the same, not {tolerances.top10_overlap:.1%}",
                )
    except ArtifactRejected as error:
        log.warning("scored in float32", version=artifact.manifest.version, reason=f"{dtype}: {error}")
        return network, torch.float32
    return half, dtype


def _by_compiled_code(network: Network, artifact: Artifact, device: torch.device) -> Network:
    """The network that scores by the version's compiled code; as it is where that cannot be."""
    try:
        if artifact.compiled is None:
            raise CompiledUnusable("the version holds no compiled code")
        compiled = load_compiled(artifact.compiled, network, artifact.manifest.dimensions)
        _replay(compiled, artifact, device)
    except (CompiledUnusable, ArtifactRejected) as error:
        log.warning("scored by TorchScript", version=artifact.manifest.version, reason=str(error))
        return network
    return compiled


def _replay(network: Network, artifact: Artifact, device: torch.device) -> None:
    """Raises ArtifactRejected if the network does not give the recorded probabilities."""
    error, tolerance = golden_error(network, artifact.golden, device), artifact.manifest.tolerances.float32
    if not error <= tolerance:
        raise ArtifactRejected(
            RejectionReason.GOLDEN, f"golden rows differ by {error:.2g}, allowed is {tolerance:.2g}"
        )


@torch.inference_mode()
def _check_tables(network: Network, dimensions: Dimensions, device: torch.device) -> None:
    """The network must hold the last user and the last post that its vocabulary promises."""
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    nothing = np.zeros((1, 0), np.float16)
    try:
        vectors = network.encode_posts(
            zero + dimensions.posts - 1,
            as_features(nothing, dimensions.image, device, torch.float32),
            as_features(nothing, dimensions.caption, device, torch.float32),
        )
        network.score(zero + dimensions.users - 1, zero, vectors, zero)
    except (RuntimeError, IndexError) as error:
        message = "the network's tables are smaller than its vocabulary"
        raise ArtifactRejected(RejectionReason.DIMENSIONS, message) from error
    if vectors.shape != (1, dimensions.post_vector):
        message = f"post vectors are {vectors.shape[1]} wide, the manifest says {dimensions.post_vector}"
        raise ArtifactRejected(RejectionReason.DIMENSIONS, message)
