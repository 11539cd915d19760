"""A version in memory."""

from dataclasses import dataclass

from animora_artifact.errors import ArtifactRejected, RejectionReason
from animora_artifact.golden import Golden
from animora_artifact.manifest import Manifest
from animora_artifact.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Artifact:
    """A version in memory. One from a store was verified against the digests of its manifest.

    Attributes:
        manifest: The manifest.
        model: The TorchScript module's bytes; `animora_artifact.network` loads them.
        vocabulary: Id → row.
        golden: The golden rows.
        compiled: Native code, a shared library that scores like the module; None without it.
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
            ArtifactRejected: A shape or a row does not fit.
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
