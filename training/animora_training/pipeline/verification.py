"""Verifies a new version, with and without its native code."""

from animora_artifact import Artifact
from animora_artifact.compiled import load_compiled
from animora_artifact.network import load_network
from animora_artifact.verification import CPU, require_golden, verify

__all__ = ["verify", "verify_compiled"]


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
