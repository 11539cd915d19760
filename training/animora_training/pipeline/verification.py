"""The checks of a version that was fitted, with and without its compiled code."""

from animora_artifact import Artifact
from animora_artifact.compiled import load_compiled
from animora_artifact.network import load_network
from animora_artifact.verification import CPU, require_golden, verify

__all__ = ["verify", "verify_compiled"]


def verify_compiled(artifact: Artifact, code: bytes) -> None:
    """Replays the golden rows by compiled code.

    Args:
        artifact: The version.
        code: What `compile_score` made for its network.

    Raises:
        CompiledUnusable: It does not run on this machine, or is for another network.
        ArtifactRejected: It is further from the record than the manifest allows.
    """
    network = load_network(artifact.model, CPU)
    require_golden(load_compiled(code, network, artifact.manifest.dimensions), artifact, CPU)
