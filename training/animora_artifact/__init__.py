"""The model contract between the trainer and the server: what a version of NeuCF is, on disk.

A version is a folder of `model.ts`, `vocabulary.npz`, `golden.npz` and, written last, `manifest.json`.
A store is a folder of versions with a file `ACTIVE` that names one of them.
"""

from animora_artifact.artifact import Artifact, read_artifact, write_artifact
from animora_artifact.errors import ArtifactError, ArtifactRejected, StoreUnavailable, VersionNotFound
from animora_artifact.golden import Golden
from animora_artifact.manifest import Manifest
from animora_artifact.store import FolderStore, ModelStore, open_store
from animora_artifact.vocabulary import Vocabulary

__all__ = [
    "Artifact",
    "ArtifactError",
    "ArtifactRejected",
    "FolderStore",
    "Golden",
    "Manifest",
    "ModelStore",
    "StoreUnavailable",
    "VersionNotFound",
    "Vocabulary",
    "open_store",
    "read_artifact",
    "write_artifact",
]
