"""How a version gets into a store: signed where there is a key, not if it is worse than what answers now."""

import math
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
from animora_artifact.manifest import HEURISTIC, PARENT, STANDARD_ERROR, PairedDifference
from animora_artifact.pointer import Expected
from animora_training.errors import InvalidOption, WorseThanActive

METRIC = "ndcg@10"
# The default of --margin.
MARGIN = 0.01
# Manifests keep six digits; what is exactly at the margin is within it.
_ROUNDING = 1e-9
# Standard errors that a difference of two figures of unrelated hold-outs must exceed: a 95 % interval's.
CONFIDENCE = 1.96
# Figures among so differing numbers of candidates are not compared: a larger catalog is harder.
SIMILAR = 1.1


@dataclass(frozen=True, slots=True)
class GateDecision:
    """A version that may be published.

    Attributes:
        compared_with: The version that was active then, None for none; ANYTHING where that cannot be read. An
            activation that expects it cannot pass over one that was activated meanwhile.
        remark: What was found beside the active version, and what else this one is worse than, for people.
    """

    compared_with: Expected
    remark: str


@dataclass(frozen=True, slots=True)
class _Finding:
    """What a comparison came to: a remark, and what the version is worse than, and why, if it is."""

    remark: str
    worse_than: str = ""


def admit(candidate: Manifest, store: ModelStore, margin: float, *, force: bool) -> GateDecision:
    """Looks whether a version is as good as the heuristic, its parent and the active version.

    What its fit has compared on the same held-out pairs counts. Of an active version that it was not compared
    with, there are only the figures of another hold-out.

    Args:
        candidate: The version to be published.
        store: Where to.
        margin: By how much its NDCG@10 may be less.
        force: Whether to let it pass even so.

    Raises:
        WorseThanActive: It is worse by more than that, and by more than chance moves.
        StoreUnavailable: The store cannot be read.
    """
    findings = [
        _paired(name, difference, margin)
        for name, difference in candidate.differences.items()
        if name in {HEURISTIC, PARENT} and difference.is_worse(margin + _ROUNDING)
    ]
    try:
        active = store.active()
    except ArtifactRejected as error:
        findings.append(_Finding(f"not compared with what is active: the pointer is damaged ({error})"))
        return _decide(candidate, findings, ANYTHING, margin, force=force)
    if active is not None and active != candidate.version:
        findings.append(_beside_active(candidate, store, active, margin))
    return _decide(candidate, findings, active, margin, force=force)


def _decide(
    candidate: Manifest, findings: list[_Finding], active: Expected, margin: float, *, force: bool
) -> GateDecision:
    remarks = [finding.remark for finding in findings]
    worse = [finding.worse_than for finding in findings if finding.worse_than]
    if not worse:
        return GateDecision(active, "\n".join(remarks))
    if force:
        return GateDecision(active, "\n".join([*remarks, f"worse by more than {margin:g}, and forced"]))
    raise WorseThanActive(
        f"{candidate.version} is worse than {'; and than '.join(worse)}, so nothing was published. "
        "Publish it even so with --force"
    )


def _beside_active(candidate: Manifest, store: ModelStore, active: str, margin: float) -> _Finding:
    difference = candidate.differences.get(active)
    if difference is not None and not difference.pairs:
        return _Finding(f"not compared with the active {active}: {difference.basis}")
    if difference is not None:
        return _paired(f"the active version, {active}", difference, margin)
    try:
        metrics = store.manifest(active).metrics
    except (VersionNotFound, ArtifactRejected) as error:
        return _Finding(f"not compared with the active {active}: {error}")
    return _by_figures(candidate, active, metrics, margin)


def _paired(name: str, difference: PairedDifference, margin: float) -> _Finding:
    """What the fit has found on the same pairs."""
    text = (
        f"NDCG@10 {difference.ndcg:.4f} on {difference.pairs:,} {difference.basis}, {name} "
        f"{difference.other:.4f}: {difference.mean:+.4f} (95 % interval {difference.low:+.4f} to "
        f"{difference.high:+.4f})"
    )
    if not difference.is_worse(margin + _ROUNDING):
        return _Finding(text)
    return _Finding(text, f"{name}: {text}. {_too_much(-difference.mean, margin)}, and not chance")


def _by_figures(candidate: Manifest, active: str, theirs_all: dict[str, float], margin: float) -> _Finding:
    """The figures of two hold-outs that have nothing to do with each other."""
    ours_all = candidate.metrics
    ours, theirs = (metrics.get(METRIC, math.nan) for metrics in (ours_all, theirs_all))
    if not math.isfinite(ours + theirs):
        missing = active if math.isfinite(ours) else candidate.version
        return _Finding(f"not compared with the active {active}: the manifest of {missing} has no {METRIC}")
    text = (
        f"NDCG@10 {ours:.4f} on the hold-out{_users(ours_all)}, the active {active} "
        f"{theirs:.4f}{_users(theirs_all)}"
    )
    among = [metrics.get("holdout_candidates") for metrics in (ours_all, theirs_all)]
    if few := _unlike(*among):
        return _Finding(f"{text}; not compared: {few}")
    chance = CONFIDENCE * math.hypot(
        *(metrics.get(STANDARD_ERROR, 0.0) for metrics in (ours_all, theirs_all))
    )
    if theirs - ours <= max(margin, chance) + _ROUNDING:
        return _Finding(text)
    return _Finding(text, f"the active version: {text}. {_too_much(theirs - ours, margin)}")


def _unlike(ours: float | None, theirs: float | None) -> str:
    """Why figures among so many candidates, on average, tell nothing; empty where they do."""
    if ours is None and theirs is None:
        return ""
    if ours is None or theirs is None:
        return "one of the manifests does not say among how many posts was ranked"
    if max(ours, theirs) > SIMILAR * min(ours, theirs):
        return f"this one was ranked among {ours:.1f} posts, the active one among {theirs:.1f}"
    return ""


def _too_much(difference: float, margin: float) -> str:
    return f"The difference, {difference:.4f}, is more than --margin {margin:g} allows"


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
