"""How a version gets into a store: signed where there is a key, not if it is worse than the active one."""

from dataclasses import dataclass
from pathlib import Path

from animora_artifact import (
    ANYTHING,
    ArtifactRejected,
    Manifest,
    ModelStore,
    Package,
    SignatureCheck,
    Signer,
    VersionNotFound,
    signature_check,
    signer,
)
from animora_artifact.pointer import Expected
from animora_training.errors import InvalidOption, WorseThanActive

METRIC = "ndcg@10"
# The default of --margin: on a hold-out of a few thousand users, chance alone moves NDCG@10 about as much.
MARGIN = 0.01
# Manifests keep six digits; what is exactly at the margin is within it.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Admission:
    """A version that may be published.

    Attributes:
        compared_with: The version that was active then, None for none; ANYTHING where that cannot be read. An
            activation that expects it cannot pass over one that was activated meanwhile.
        remark: What the comparison came to, for people; empty where nothing is active.
    """

    compared_with: Expected
    remark: str


def admit(candidate: Manifest, store: ModelStore, margin: float, *, force: bool) -> Admission:
    """Compares what a version and the active one were measured to be, each on its own hold-out.

    Args:
        candidate: The version to be published.
        store: Where to.
        margin: By how much its NDCG@10 may be less.
        force: Whether to let it pass even so.

    Raises:
        WorseThanActive: It is worse by more than that.
        StoreUnavailable: The store cannot be read.
    """
    try:
        active = store.active()
    except ArtifactRejected as error:
        return Admission(ANYTHING, f"not compared with what is active: the pointer is damaged ({error})")
    if active is None:
        return Admission(None, "")
    try:
        metrics = store.manifest(active).metrics
    except (VersionNotFound, ArtifactRejected) as error:
        return Admission(active, f"not compared with the active {active}: {error}")
    ours, theirs = candidate.metrics.get(METRIC), metrics.get(METRIC)
    if ours is None or theirs is None:
        missing = candidate.version if ours is None else active
        return Admission(
            active, f"not compared with the active {active}: the manifest of {missing} has no {METRIC}"
        )
    figures = (
        f"NDCG@10 {ours:.4f} on the hold-out{_users(candidate.metrics)}, "
        f"the active {active} {theirs:.4f}{_users(metrics)}"
    )
    if theirs - ours <= margin + _ROUNDING:
        return Admission(active, figures)
    if force:
        return Admission(active, f"{figures}: worse by more than {margin:g}, and forced")
    raise WorseThanActive(
        f"{candidate.version} is worse than the active version: {figures}. The difference, "
        f"{theirs - ours:.4f}, is more than --margin {margin:g} allows, so nothing was published. Publish it "
        "even so with --force"
    )


def open_check(verify_key: Path | None) -> SignatureCheck | None:
    """The check of a `--verify-key` option. Raises InvalidOption."""
    try:
        return signature_check(verify_key) if verify_key else None
    except ValueError as error:
        raise InvalidOption("--verify-key", str(error)) from error


def open_signer(sign_key: Path | None) -> Signer | None:
    """The signer of a `--sign-key` option. Raises InvalidOption."""
    try:
        return signer(sign_key) if sign_key else None
    except ValueError as error:
        raise InvalidOption("--sign-key", str(error)) from error


def signed(package: Package, key: Signer | None) -> Package:
    """The package, with a signature if there is a key. Raises StoreUnavailable."""
    return package if key is None else key.sign(package)


def _users(metrics: dict[str, float]) -> str:
    users = metrics.get("holdout_users")
    return "" if users is None else f" ({users:,.0f} users)"
