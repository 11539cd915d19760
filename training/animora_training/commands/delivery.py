"""Where a fitted version goes: into a folder, a store, or both, and into use."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from animora_artifact import (
    ArtifactError,
    ArtifactRejected,
    FolderStore,
    ModelStore,
    Package,
    Signer,
    StoreUnavailable,
    VersionNotFound,
    write_folder,
)
from animora_training.commands.console import output
from animora_training.commands.publishing import MARGIN, admit
from animora_training.data.arrays import make_temporary_folder
from animora_training.errors import CannotWrite, InvalidOption, WorseThanActive


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where a version goes.

    Attributes:
        store: Where to publish it.
        folder: Where to write its folder.
        activate: Whether to make it the active one in the store.
        signer: What signs it before it is delivered.
        margin: How much less NDCG@10 than the active version's it may have.
        force: Whether to publish it even if that is less.
    """

    store: ModelStore | None
    folder: Path | None
    activate: bool
    signer: Signer | None = None
    margin: float = MARGIN
    force: bool = False

    def check(self) -> None:
        """Tries whether a version could be delivered, before the hours that it takes to train one.

        Raises:
            InvalidOption: What is named as a folder is none.
            StoreUnavailable: The folder or the store cannot be written.
        """
        if self.folder is not None:
            if os.path.exists(self.folder) and not os.path.isdir(self.folder):  # Path's own may raise
                raise InvalidOption("--output", f"{self.folder} is no folder")
            with _named("--output"):
                FolderStore(self.folder).require_writable()
        if self.store is not None:
            with _named("--store"):
                self.store.require_writable()

    def deliver(self, package: Package, kept: Path | None = None) -> None:
        """Writes, publishes, activates, and says what was done.

        What is there already is left, so that a delivery that was cut off can be repeated.

        Args:
            package: The version, which was replayed.
            kept: Where it is already, so that it is not lost if it cannot be delivered; without, it is
                written to a temporary folder then.

        Raises:
            WorseThanActive: It is clearly worse than the active version, and was not published.
            ActivationLost: It was published, and someone else has activated another version meanwhile.
            ArtifactError: It could not be written, published, or activated.
        """
        version = package.manifest.version
        try:
            if self.folder is not None:
                with _named("--output"):
                    _add(FolderStore(self.folder), package)
            if self.store is None:
                output().print(f"wrote {version}")
                return
            with _named("--store"):
                admission = admit(package.manifest, self.store, self.margin, force=self.force)
                if admission.remark:
                    output().print(admission.remark, highlight=False)
                _add(self.store, package)
                self.store.mark_verified(package.manifest)
        except StoreUnavailable as error:
            again = f"deliver it with --resume, or publish {kept}" if kept else self._kept(package)
            raise StoreUnavailable(f"{error}; {again}") from error
        except WorseThanActive as error:
            where = f"the version is in {kept}" if kept else self._kept(package)
            raise WorseThanActive(f"{error}; {where}") from error
        if not self.activate:
            output().print(f"published {version}")
            return
        try:
            with _named("--store"):
                self.store.activate(version, admission.compared_with)
        except ArtifactError as error:
            output().print(f"published {version}")
            if isinstance(error, StoreUnavailable):
                again = f"{'--resume, or ' if kept else ''}`animora-train activate {version}`"
                raise StoreUnavailable(f"{error}; activate it with {again}") from error
            raise
        output().print(f"activated {version}")

    def _kept(self, package: Package) -> str:
        """Keeps what took long to train; says where."""
        with suppress(StoreUnavailable):  # the folder may be what cannot be read
            if self.folder is not None and _is_there(FolderStore(self.folder), package):
                return f"the version is in {self.folder / package.manifest.version}"
        try:
            kept = make_temporary_folder("animora-version-") / package.manifest.version
            write_folder(package, kept)
        except (CannotWrite, StoreUnavailable) as error:
            return f"nor was the version kept, which is lost: {error}"
        return f"the version was kept: publish {kept}"


@contextmanager
def _named(option: str) -> Iterator[None]:
    """Says which option names what cannot be written."""
    try:
        yield
    except StoreUnavailable as error:
        raise StoreUnavailable(f"{option}: {error}") from error


def _add(store: ModelStore, package: Package) -> None:
    """Adds a version to a store that may have it already."""
    if not _is_there(store, package):
        store.add(package)


def _is_there(store: ModelStore, package: Package) -> bool:
    """Whether the store has this very version, digests and all."""
    try:
        return store.manifest(package.manifest.version) == package.manifest
    except (VersionNotFound, ArtifactRejected):
        return False
