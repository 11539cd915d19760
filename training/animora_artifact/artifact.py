"""A version in memory, as the trainer makes it and the server takes it."""

from dataclasses import dataclass

from animora_artifact.errors import ArtifactRejected, RejectionReason
from animora_artifact.golden import Golden
from animora_artifact.manifest import Manifest
from animora_artifact.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Artifact:
    """A version in memory; one that was read has had every byte checked against its manifest.

    Attributes:
        manifest: What the version is.
        model: The TorchScript module's bytes; `animora_artifact.network` loads them.
        vocabulary: Id → row.
        golden: Recorded inputs and probabilities.
        compiled: A shared library that scores as the module does, None for none;
            `animora_artifact.compiled` loads it.
    """

    manifest: Manifest
    model: bytes
    vocabulary: Vocabulary
    golden: Golden
    compiled: bytes | None = None

    def check(self) -> None:
        """Checks that the vocabulary and the golden rows fit the manifest's dimensions.

        Raises:
            ArtifactRejected: They do not.
        """
        dimensions = self.manifest.dimensions
        rows = (len(self.vocabulary.user_ids) + 1, len(self.vocabulary.post_ids) + 1)
        if rows != (dimensions.users, dimensions.posts):
            raise ArtifactRejected(
                RejectionReason.DIMENSIONS,
                f"the vocabulary has {rows} user and post rows, "
                f"the manifest {(dimensions.users, dimensions.posts)}",
            )
        self.golden.check(dimensions)
