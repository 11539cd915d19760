"""Delivers a new version: writes it to a folder, publishes and activates it in a store."""

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
from animora_training.commands.publishing import MARGIN, check_gate
from animora_training.data.arrays import make_temporary_folder
from animora_training.errors import CannotWrite, InvalidOption, WorseThanActive


@dataclass(frozen=True, slots=True)
class Delivery:
    """Targets of a version.

    Attributes:
        store: Store to publish to; None for none.
        folder: Folder to write the version's folder to; None for none.
        activate: Whether to activate the version in the store.
        signer: Signs the version before delivery.
        margin: By how much NDCG@10 may be below the active version's.
        force: Publish even if the gate refuses.
    """

    store: ModelStore | None
    folder: Path | None
    activate: bool
    signer: Signer | None = None
    margin: float = MARGIN
    force: bool = False

    def check(self) -> None:
        """Checks that the targets are writable, before a long training.

        Raises:
            InvalidOption: The path of the folder is not a folder.
            StoreUnavailable: The folder or the store is not writable.
        """
        if self.folder is not None:
            if os.path.exists(self.folder) and not os.path.isdir(self.folder):  # Path's own may raise
                raise InvalidOption("--output", f"{self.folder} is not a folder")
            with _named("--output"):
                FolderStore(self.folder).require_writable()
        if self.store is not None:
            with _named("--store"):
                self.store.require_writable()

    def deliver(self, package: Package, kept: Path | None = None) -> None:
        """Writes, publishes and activates a version, and prints what was done.

        A target that has the version already is skipped, so an interrupted delivery can be repeated.

        Args:
            package: The verified version.
            kept: Folder that already holds the version; None writes it to a temporary folder if delivery
                fails.

        Raises:
            WorseThanActive: The gate refused the version; it was not published.
            ActivationLost: The version was published, but another one was activated in the meantime.
            ArtifactError: The version could not be written, published or activated.
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
                decision = check_gate(package.manifest, self.store, self.margin, force=self.force)
                if decision.remark:
                    output().print(decision.remark, highlight=False)
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
                self.store.activate(version, decision.compared_with)
        except ArtifactError as error:
            output().print(f"published {version}")
            if isinstance(error, StoreUnavailable):
                again = f"{'--resume, or ' if kept else ''}`animora-train activate {version}`"
                raise StoreUnavailable(f"{error}; activate it with {again}") from error
            raise
        output().print(f"activated {version}")

    def _kept(self, package: Package) -> str:
        """Saves a version that could not be delivered; returns a text that says where it is."""
        with suppress(StoreUnavailable):  # the folder itself may be unreadable
            if self.folder is not None and _is_there(FolderStore(self.folder), package):
                return f"the version is in {self.folder / package.manifest.version}"
        try:
            kept = make_temporary_folder("animora-version-") / package.manifest.version
            write_folder(package, kept)
        except (CannotWrite, StoreUnavailable) as error:
            return f"the version could not be saved either and is lost: {error}"
        return f"the version was saved: publish {kept}"


@contextmanager
def _named(option: str) -> Iterator[None]:
    """Adds the option's name to a StoreUnavailable."""
    try:
        yield
    except StoreUnavailable as error:
        raise StoreUnavailable(f"{option}: {error}") from error


def _add(store: ModelStore, package: Package) -> None:
    """Adds a version to a store unless the store has it already."""
    if not _is_there(store, package):
        store.add(package)


def _is_there(store: ModelStore, package: Package) -> bool:
    """Whether the store has a version with the same manifest, digests included."""
    try:
        return store.manifest(package.manifest.version) == package.manifest
    except (VersionNotFound, ArtifactRejected):
        return False
