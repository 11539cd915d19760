"""Loads a version's network onto a device and checks that it reproduces the golden probabilities."""

import structlog
import torch

from animora_artifact import Artifact, ArtifactRejected, CompiledUnusable
from animora_artifact.checked import CheckedNetwork
from animora_artifact.compiled import load_compiled
from animora_artifact.errors import RejectionReason
from animora_artifact.network import Network, load_network, replay
from animora_artifact.package import COMPILED
from animora_artifact.verification import CPU, REPLAYS, require_golden, verify
from animora_artifact.vocabulary import RowIndex
from animora_server.inference.loaded_model import LoadedModel
from animora_server.settings import ScorerSettings

log = structlog.get_logger(__name__)

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def load_model(artifact: Artifact, device: torch.device, settings: ScorerSettings) -> LoadedModel:
    """Loads a version, in half precision or with native code where settings and golden rows allow it.

    Args:
        artifact: The version.
        device: The device to load onto.
        settings: `dtype` and `compiled` are read.

    Raises:
        ArtifactRejected: The version does not load or does not reproduce its golden probabilities in float32.
    """
    network, dtype = verify(artifact), torch.float32
    if device.type != "cpu":
        network = _loaded(artifact, device)
        require_golden(network, artifact, device)
    if settings.dtype != "float32":
        network, dtype = _try_half_precision(network, artifact, device, HALVES[settings.dtype])
    if settings.compiled and device.type == "cpu" and dtype == torch.float32:
        network = _try_compiled_code(network, artifact)
    return LoadedModel(
        artifact.manifest,
        network,
        RowIndex(artifact.vocabulary.user_ids),
        RowIndex(artifact.vocabulary.post_ids),
        device,
        dtype,
    )


def _try_half_precision(
    network: Network, artifact: Artifact, device: torch.device, dtype: torch.dtype
) -> tuple[Network, torch.dtype]:
    """The network in half precision if its golden rows stay within the tolerances, else in float32."""
    golden, tolerances = artifact.golden, artifact.manifest.tolerances.within_limits()
    try:
        half = _loaded(artifact, device, dtype)
        for _ in range(REPLAYS):
            replayed = replay(half, golden, device, dtype)
            difference, overlap = golden.error(replayed), golden.overlap(replayed)
            if not (difference <= tolerances.half and overlap >= tolerances.top10_overlap):
                raise ArtifactRejected(
                    RejectionReason.GOLDEN,
                    f"golden rows differ by {difference:.2g}, allowed is {tolerances.half:.2g}; "
                    f"{overlap:.1%} of the top ten are the same, required is {tolerances.top10_overlap:.1%}",
                )
    except ArtifactRejected as error:
        log.warning("scored in float32", version=artifact.manifest.version, reason=f"{dtype}: {error}")
        return network, torch.float32
    return half, dtype


def _try_compiled_code(network: Network, artifact: Artifact) -> Network:
    """The network that scores by the version's native code, or as it is where that code cannot be used."""
    try:
        if artifact.compiled is None:
            left_out = COMPILED in artifact.manifest.files
            raise CompiledUnusable(
                "its native code is not loaded" if left_out else "the version holds no native code"
            )
        compiled = load_compiled(artifact.compiled, network, artifact.manifest.dimensions)
        require_golden(compiled, artifact, CPU)
    except (CompiledUnusable, ArtifactRejected) as error:
        log.warning("scored by TorchScript", version=artifact.manifest.version, reason=str(error))
        return network
    return compiled


def _loaded(artifact: Artifact, device: torch.device, dtype: torch.dtype = torch.float32) -> Network:
    """Loads the network, which was verified on the CPU, onto a device."""
    return CheckedNetwork(load_network(artifact.model, device, dtype), artifact.manifest.dimensions)
