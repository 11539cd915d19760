"""The check that a version gives what was recorded when it was made."""

import torch

from animora_artifact import Artifact, ArtifactRejected
from animora_artifact.errors import RejectionReason
from animora_artifact.network import golden_error, load_network


def verify(artifact: Artifact) -> None:
    """Loads the scripted network and replays the golden rows in float32.

    Raises:
        ArtifactRejected: The network does not load, or is further from the record than the manifest allows.
    """
    cpu = torch.device("cpu")
    error = golden_error(load_network(artifact.model, cpu), artifact.golden, cpu)
    if not error <= artifact.manifest.tolerances.float32:
        raise ArtifactRejected(
            RejectionReason.GOLDEN,
            f"{artifact.manifest.version} is {error:g} off its recorded probabilities, "
            f"more than {artifact.manifest.tolerances.float32:g}",
        )
