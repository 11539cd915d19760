"""The gate before publication, and keys for signing and verifying versions."""

import math
from dataclasses import dataclass
from pathlib import Path

from animora_artifact import (
    ANYTHING,
    ArtifactRejected,
    Manifest,
    ModelStore,
    Package,
    PointerKeys,
    SignatureCheck,
    Signer,
    VersionNotFound,
    pointer_keys,
    signature_check,
    signer,
)
from animora_artifact.manifest import HEURISTIC, PARENT, STANDARD_ERROR, PairedDifference
from animora_artifact.pointer import Expected
from animora_training.errors import InvalidOption, WorseThanActive

METRIC = "ndcg@10"
# The default of --margin.
MARGIN = 0.01
# Manifests round to six digits; a difference of exactly the margin passes.
_ROUNDING = 1e-9
# Standard errors of a 95 % interval: a difference of metrics from unrelated hold-outs must exceed it.
CONFIDENCE = 1.96
# Metrics are not comparable if the mean numbers of candidates differ by more than this factor.
SIMILAR = 1.1


@dataclass(frozen=True, slots=True)
class GateDecision:
    """The gate lets a version pass.

    Attributes:
        compared_with: The version that was active at the check, None for none; ANYTHING if the pointer is
            damaged. `activate` takes it as the expected version, so that a concurrent activation is noticed.
        remark: Results of the comparisons, for people.
    """

    compared_with: Expected
    remark: str


@dataclass(frozen=True, slots=True)
class _Finding:
    """Result of one comparison: a remark, and the model that the version is worse than, if it is."""

    remark: str
    worse_than: str = ""


def check_gate(candidate: Manifest, store: ModelStore, margin: float, *, force: bool) -> GateDecision:
    """Checks that a version is not worse than the heuristic, its parent and the active version.

    Uses the paired comparisons in the manifest. If there is none with the active version, the metrics of both
    manifests are compared, which come from different hold-outs.

    Args:
        candidate: Manifest of the version to publish.
        store: The target store.
        margin: By how much NDCG@10 may be lower.
        force: Lets a worse version pass.

    Raises:
        WorseThanActive: The version is worse by more than the margin, and significantly so.
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
        findings.append(_compare_with_active(candidate, store, active, margin))
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


def _compare_with_active(candidate: Manifest, store: ModelStore, active: str, margin: float) -> _Finding:
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
    """Judges a paired comparison of the fit."""
    text = (
        f"NDCG@10 {difference.ndcg:.4f} on {difference.pairs:,} {difference.basis}, {name} "
        f"{difference.other:.4f}: {difference.mean:+.4f} (95 % interval {difference.low:+.4f} to "
        f"{difference.high:+.4f})"
    )
    if not difference.is_worse(margin + _ROUNDING):
        return _Finding(text)
    return _Finding(text, f"{name}: {text}. {_too_much(-difference.mean, margin)}, and not chance")


def _by_figures(candidate: Manifest, active: str, theirs_all: dict[str, float], margin: float) -> _Finding:
    """Compares the metrics of two manifests, which come from different hold-outs."""
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
    """Why metrics with these mean numbers of candidates are not comparable; empty if they are."""
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
    """The signature check of a `--verify-key` option. Raises InvalidOption."""
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


def open_pointer_keys(verify_key: Path | None, sign_key: Path | None) -> PointerKeys:
    """The keys of ACTIVE: those of `--sign-key`, else that of `--verify-key`. Raises InvalidOption."""
    try:
        return pointer_keys(verify_key if sign_key is None else None, sign_key)
    except ValueError as error:
        raise InvalidOption("--verify-key" if sign_key is None else "--sign-key", str(error)) from error


def signed(package: Package, key: Signer | None) -> Package:
    """The package, signed if there is a key. Raises StoreUnavailable."""
    return package if key is None else key.sign(package)


def _users(metrics: dict[str, float]) -> str:
    users = metrics.get("holdout_users")
    return "" if users is None else f" ({users:,.0f} users)"
