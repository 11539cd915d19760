"""The check that a version gives what was recorded when it was made."""

import torch

from animora_artifact import Artifact, ArtifactRejected
from animora_artifact.compiled import load_compiled
from animora_artifact.errors import RejectionReason
from animora_artifact.network import Network, golden_error, load_network

CPU = torch.device("cpu")


def verify(artifact: Artifact) -> None:
    """Loads the scripted network and replays the golden rows in float32.

    Raises:
        ArtifactRejected: The network does not load, or is further from the record than the manifest allows.
    """
    _replay(load_network(artifact.model, CPU), artifact)


def verify_compiled(artifact: Artifact, code: bytes) -> None:
    """Replays the golden rows by compiled code.

    Args:
        artifact: The version.
        code: What `compile_score` made for its network.

    Raises:
        CompiledUnusable: It does not run on this machine.
        ArtifactRejected: It is further from the record than the manifest allows.
    """
    network = load_network(artifact.model, CPU)
    _replay(load_compiled(code, network, artifact.manifest.dimensions), artifact)


def _replay(network: Network, artifact: Artifact) -> None:
    error = golden_error(network, artifact.golden, CPU)
    if not error <= artifact.manifest.tolerances.float32:
        raise ArtifactRejected(
            RejectionReason.GOLDEN,
            f"{artifact.manifest.version} is {error:g} off its recorded probabilities, "
            f"more than {artifact.manifest.tolerances.float32:g}",
        )
