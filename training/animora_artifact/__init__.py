"""The model contract between the trainer and the server: the format of a version, and the model store.

A version is a folder with `model.ts`, `vocabulary.npz`, `golden.npz`, optionally `score.so` (native code) and
`model.sig` (signature), and `manifest.json`, which is written last. A model store is a folder or S3 prefix
with versions and a file `ACTIVE` that names the active one.
"""

from animora_artifact.artifact import Artifact
from animora_artifact.errors import (
    ActivationLost,
    ArtifactError,
    ArtifactRejected,
    CompiledUnusable,
    SignerMissing,
    StoreUnavailable,
    VersionNotFound,
)
from animora_artifact.folder import read_artifact, read_folder, write_artifact, write_folder
from animora_artifact.folder_store import FolderStore
from animora_artifact.golden import Golden
from animora_artifact.manifest import Manifest
from animora_artifact.opening import open_store
from animora_artifact.package import Package, SignatureCheck, SizeLimit, pack, require_signature, unpack
from animora_artifact.pointer import ANYTHING, Pointer, PointerKeys
from animora_artifact.signatures import Signer, pointer_keys, signature_check, signer
from animora_artifact.store import ModelStore, VersionSource
from animora_artifact.vocabulary import Vocabulary

__all__ = [
    "ANYTHING",
    "ActivationLost",
    "Artifact",
    "ArtifactError",
    "ArtifactRejected",
    "CompiledUnusable",
    "FolderStore",
    "Golden",
    "Manifest",
    "ModelStore",
    "Package",
    "Pointer",
    "PointerKeys",
    "SignatureCheck",
    "Signer",
    "SignerMissing",
    "SizeLimit",
    "StoreUnavailable",
    "VersionNotFound",
    "VersionSource",
    "Vocabulary",
    "open_store",
    "pack",
    "pointer_keys",
    "read_artifact",
    "read_folder",
    "require_signature",
    "signature_check",
    "signer",
    "unpack",
    "write_artifact",
    "write_folder",
]
