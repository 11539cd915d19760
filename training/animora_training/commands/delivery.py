"""Where a fitted version goes: into a folder, a store, or both, and into use."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from animora_artifact import (
    Artifact,
    ArtifactError,
    ArtifactRejected,
    FolderStore,
    ModelStore,
    Package,
    Signer,
    StoreUnavailable,
    VersionNotFound,
    pack,
    write_folder,
)
from animora_training.commands.console import output
from animora_training.commands.publishing import MARGIN, admit, signed
from animora_training.errors import WorseThanActive


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where a version goes.

    Attributes:
        store: Where to publish it.
        folder: Where to write its folder.
        activate: Whether to make it the active one in the store.
        signer: Signs it first.
        margin: How much less NDCG@10 than the active version's it may have.
        force: Whether to publish it even if that is less.
    """

    store: ModelStore | None
    folder: Path | None
    activate: bool
    signer: Signer | None = None
    margin: float = MARGIN
    force: bool = False

    def deliver(self, artifact: Artifact) -> None:
        """Signs, writes, publishes, activates, and says what was done.

        What is there already is left: a fit that is killed in the midst of this makes the same once more.

        Raises:
            WorseThanActive: It is clearly worse than the active version; it was kept, and not published.
            ActivationLost: It was published, and someone else has activated another version meanwhile.
            ArtifactError: It could not be published, or activated.
        """
        package = signed(pack(artifact), self.signer)
        version = package.manifest.version
        if self.folder is not None and not _is_there(FolderStore(self.folder), package):
            write_folder(package, self.folder / version)
        if self.store is None:
            output().print(f"wrote {version}")
            return
        try:
            admission = admit(package.manifest, self.store, self.margin, force=self.force)
            if admission.remark:
                output().print(admission.remark, highlight=False)
            if not _is_there(self.store, package):
                self.store.add(package)
        except StoreUnavailable as error:
            raise StoreUnavailable(f"--store: {error}; {self._kept(package)}") from error
        except WorseThanActive as error:
            raise WorseThanActive(f"{error}; {self._kept(package)}") from error
        if not self.activate:
            output().print(f"published {version}")
            return
        try:
            self.store.activate(version, admission.compared_with)
        except ArtifactError:
            output().print(f"published {version}")
            raise
        output().print(f"activated {version}")

    def _kept(self, package: Package) -> str:
        """Keeps what took long to train; says where."""
        if self.folder is not None:
            return f"the version is in {self.folder / package.manifest.version}"
        kept = Path(tempfile.mkdtemp(prefix="animora-version-")) / package.manifest.version
        write_folder(package, kept)
        return f"the version was kept: publish {kept}"


def _is_there(store: ModelStore, package: Package) -> bool:
    """Whether the store has this very version, digests and all."""
    try:
        return store.manifest(package.manifest.version) == package.manifest
    except (VersionNotFound, ArtifactRejected):
        return False
