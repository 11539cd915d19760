"""Verifies a version before it is published, activated or served."""

import torch

from animora_artifact.artifact import Artifact
from animora_artifact.checked import CheckedNetwork
from animora_artifact.compiled import load_compiled
from animora_artifact.errors import ArtifactRejected, RejectionReason
from animora_artifact.manifest import Dimensions
from animora_artifact.network import NETWORK_ERRORS, Network, golden_error, is_out_of_memory, load_network

CPU = torch.device("cpu")
REPLAYS = 2  # TorchScript compiles a method in its second run


def verify(artifact: Artifact) -> Network:
    """Loads a version on the CPU and replays its golden rows in float32.

    Returns:
        The network, which raises ValueError and IndexError as CheckedNetwork does.

    Raises:
        ArtifactRejected: A file does not fit the manifest, a weight is not finite, or the replay differs from
            the recorded probabilities by more than the tolerance.
        RuntimeError: Memory ran out; see is_out_of_memory.
    """
    artifact.check()
    dimensions = artifact.manifest.dimensions
    network = CheckedNetwork(load_network(artifact.model, CPU), dimensions)
    _require_tables(network, dimensions)
    require_golden(network, artifact, CPU)
    return network


def verify_compiled(artifact: Artifact, code: bytes) -> None:
    """Replays the golden rows with native code.

    Args:
        artifact: The version.
        code: Library from `compile_score` for the version's network.

    Raises:
        CompiledUnusable: The code does not run on this machine, or was compiled for another shape.
        ArtifactRejected: The replay differs from the recorded probabilities by more than the tolerance.
    """
    network = load_network(artifact.model, CPU)
    require_golden(load_compiled(code, network, artifact.manifest.dimensions), artifact, CPU)


def require_golden(network: Network, artifact: Artifact, device: torch.device) -> None:
    """Replays the golden rows in float32.

    Args:
        network: The version's network, on the device.
        artifact: The version.
        device: Device of the network.

    Raises:
        ArtifactRejected: The replay differs from the recorded probabilities by more than the tolerance.
    """
    allowed = artifact.manifest.tolerances.within_limits().float32
    for _ in range(REPLAYS):
        error = golden_error(network, artifact.golden, device)
        if not error <= allowed:
            raise ArtifactRejected(
                RejectionReason.GOLDEN,
                f"golden rows differ by {error:.2g}, allowed is {allowed:.2g}: "
                f"{artifact.manifest.version} is off its recorded probabilities",
            )


@torch.inference_mode()
def _require_tables(network: Network, dimensions: Dimensions) -> None:
    """Checks that the network has rows for the last user and post, and post vectors of the declared width.

    Runs on the CPU, which raises for a missing row; a GPU would become unusable.
    """
    zero = torch.zeros(1, dtype=torch.int64)
    try:
        vectors = network.encode_posts(
            zero + dimensions.posts - 1, torch.zeros(1, dimensions.image), torch.zeros(1, dimensions.caption)
        )
    except NETWORK_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise _other_dimensions(f"its network does not encode post row {dimensions.posts - 1}") from error
    if vectors.shape != (1, dimensions.post_vector):
        raise _other_dimensions(
            f"its post vectors have shape {tuple(vectors.shape)}; must be {(1, dimensions.post_vector)}"
        )
    pair = zero + dimensions.users - 1, zero, vectors, zero
    for name, method, shape in (("score", network.score, (1,)), ("explain", network.explain, (1, 3))):
        try:
            given = method(*pair)
        except NETWORK_ERRORS as error:
            if is_out_of_memory(error):
                raise
            raise _other_dimensions(f"its {name} does not take user row {dimensions.users - 1}") from error
        if given.shape != shape:
            raise _other_dimensions(f"its {name} of one pair has shape {tuple(given.shape)}; must be {shape}")


def _other_dimensions(detail: str) -> ArtifactRejected:
    return ArtifactRejected(RejectionReason.DIMENSIONS, f"{detail}, as its vocabulary and manifest promise")
