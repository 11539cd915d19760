"""`animora-train publish | activate | rollback | list`: manages the versions of a model store."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from animora_artifact import (
    ANYTHING,
    Manifest,
    ModelStore,
    Package,
    Pointer,
    SignatureCheck,
    VersionNotFound,
    open_store,
    read_folder,
    require_signature,
    unpack,
)
from animora_training.commands.console import output, report_errors, to_json
from animora_training.commands.options import Force, Margin, SignKey, Store, VerifyKey
from animora_training.commands.publishing import (
    MARGIN,
    check_gate,
    open_check,
    open_pointer_keys,
    open_signer,
    signed,
)
from animora_training.errors import InvalidOption


def publish(
    path: Annotated[Path, typer.Argument(help="Folder of a version, as `fit --output` writes it.")],
    store: Store,
    sign_key: SignKey = None,
    verify_key: VerifyKey = None,
    margin: Margin = MARGIN,
    force: Force = False,
) -> None:
    """Verify a version and add it to a model store, unless it is worse than the active one.

    The version is not activated. Its signature, if any, is kept.
    """
    from animora_artifact.verification import verify

    with report_errors():
        key, check = open_signer(sign_key), open_check(verify_key)
        model_store = open_model_store(store)
        # With --sign-key the version may be unsigned so far.
        package = signed(_read_version_folder(path.resolve(), None if key else check), key)
        if check is not None:
            require_signature(package, check)
        verify(unpack(package))
        decision = check_gate(package.manifest, model_store, margin, force=force)
        manifest = model_store.add(package)
        model_store.mark_verified(manifest)
    if decision.remark:
        output().print(decision.remark, highlight=False)
    output().print(f"published {manifest.version}")


def activate(
    version: Annotated[str, typer.Argument(help="A published version; it may be an older one.")],
    store: Store,
    expected: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help='Activate only if this version is still active; "" for none.'),
    ] = None,
    verify_key: VerifyKey = None,
    sign_key: SignKey = None,
) -> None:
    """Make a published version the one that servers load; newer or older."""
    with report_errors():
        model_store = open_model_store(store, verify_key, sign_key)
        with explain_missing_version(store, version):
            _require_servable(model_store, version)
            model_store.activate(version, ANYTHING if expected is None else expected or None)
    output().print(f"activated {version}")


def rollback(store: Store, verify_key: VerifyKey = None, sign_key: SignKey = None) -> None:
    """Activate the version that was active before; repeated, the one before that."""
    with report_errors():
        model_store = open_model_store(store, verify_key, sign_key)
        pointer = model_store.pointer()
        if pointer.previous is not None:
            with explain_missing_version(store, f"{pointer.previous}, which was active before"):
                _require_servable(model_store, pointer.previous)
        try:
            model_store.rollback(pointer)
        except VersionNotFound as error:
            raise VersionNotFound(f"{error}; {_listing(store)}") from error
    output().print(f"rolled back from {pointer.active} to {pointer.previous}")


def list_versions(
    store: Store,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array instead of a table.")] = False,
) -> None:
    """List the versions of a model store, oldest first."""
    with report_errors():
        model_store = open_model_store(store)
        listing, pointer = model_store.listing(), model_store.pointer()
    if as_json:
        rows = [
            {
                **manifest.model_dump(mode="json", exclude={"files"}),
                "active": manifest.version == pointer.active,
            }
            for manifest in listing.manifests
        ]
        output().print_json(to_json(rows))
    elif listing.manifests:
        output().print(_table(listing.manifests, pointer))
    else:
        kind = "readable version" if listing.unreadable else "version"
        output().print(f"{store} holds no {kind}", highlight=False, markup=False)
    if count := len(listing.unreadable):
        versions = "1 version" if count == 1 else f"{count:,} versions"
        names = ", ".join(listing.unreadable)
        output(stderr=as_json).print(f"{versions} cannot be read: {names}", highlight=False, soft_wrap=True)


def open_model_store(store: str, verify_key: Path | None = None, sign_key: Path | None = None) -> ModelStore:
    """Opens the model store of a `--store` option.

    Args:
        store: Path or URL.
        verify_key: The public key of the versions; None reads unsigned versions too.
        sign_key: The private key of ACTIVE. None for none: ACTIVE is then verified with `verify_key`, if any.

    Raises:
        InvalidOption: The URL scheme is not supported, or a file is not such a key.
    """
    check, keys = open_check(verify_key), open_pointer_keys(verify_key, sign_key)
    try:
        return open_store(store, check, keys=keys)
    except ValueError as error:
        raise InvalidOption("--store", str(error)) from error


@contextmanager
def explain_missing_version(store: str, version: str) -> Iterator[None]:
    """Adds the store's name and the `list` command to a VersionNotFound that the block raises."""
    try:
        yield
    except VersionNotFound as error:
        raise VersionNotFound(f"{store} holds no version {version}; {_listing(store)}") from error


def _listing(store: str) -> str:
    return f"`animora-train list --store {shlex.quote(store)}` shows what it holds"


def _read_version_folder(folder: Path, check: SignatureCheck | None) -> Package:
    """See `read_folder`; a missing version is explained in terms of `fit --output`."""
    try:
        return read_folder(folder, check)
    except VersionNotFound as error:
        raise VersionNotFound(
            f"{folder} holds no version: {error}; name a folder that `fit --output` has written"
        ) from error


def _require_servable(store: ModelStore, version: str) -> None:
    """Checks signature, digests and shapes of a version, and replays it unless it is marked as verified.

    Raises:
        VersionNotFound: The version does not exist.
        ArtifactRejected: The version fails a check.
        StoreUnavailable: The store cannot be read.
    """
    artifact = store.read(version)
    if not store.is_verified(artifact.manifest):
        from animora_artifact.verification import verify

        verify(artifact)
        store.mark_verified(artifact.manifest)


def _table(manifests: list[Manifest], pointer: Pointer) -> Table:
    table = Table("", "version", "interactions", "users", "posts", "HR@10", "NDCG@10", box=None)
    marks = {pointer.previous: "before", pointer.active: "active"}
    for manifest in manifests:
        metrics = (manifest.metrics.get(name) for name in ("hr@10", "ndcg@10"))
        table.add_row(
            marks.get(manifest.version, ""),
            manifest.version,
            f"{manifest.data_window.interactions:,}",
            f"{manifest.dimensions.users - 1:,}",
            f"{manifest.dimensions.posts - 1:,}",
            *("-" if metric is None else f"{metric:.4f}" for metric in metrics),
        )
    return table
