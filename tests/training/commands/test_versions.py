"""The commands publish, activate, rollback and list, on a folder and on S3."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from animora_artifact import Artifact, open_store, pointer_keys, write_artifact
from animora_artifact.manifest import PairedDifference
from animora_artifact.network import save_network
from animora_training.commands.cli import app
from tests.support.dot_product import DotProduct, make_artifact, with_manifest
from tests.support.signing_keys import write_keys


@pytest.fixture(params=["folder", "s3"])
def store(request, tmp_path) -> str:
    return request.getfixturevalue("s3").url if request.param == "s3" else str(tmp_path / "store")


@pytest.fixture
def run(store):
    unset = {"ANIMORA_DATABASE_URL": None, "ANIMORA_MODELS_VERIFY_KEY": None, "ANIMORA_MODELS_STORE": store}

    def invoke(*arguments, code=0, **environment):
        words = [str(argument) for argument in arguments]
        result = CliRunner().invoke(app, words, env={**unset, **environment})
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result.stdout if code == 0 else " ".join(result.stderr.split())

    return invoke


@pytest.fixture
def made(tmp_path):
    """Writes a version like `fit --output`; returns its folder."""

    def make(version: str, **metrics: float):
        folder = tmp_path / "made" / version
        write_artifact(judged(version, **metrics), folder)
        return folder

    return make


def judged(version: str, **metrics: float) -> Artifact:
    named = {name.replace("ndcg", "ndcg@10"): value for name, value in metrics.items()}
    return with_manifest(make_artifact(version), metrics=named)


@pytest.fixture
def keys(tmp_path):
    return write_keys(tmp_path / "keys")


def test_list_names_a_store_that_holds_no_version(run, store):
    assert run("list").replace("\n", "") == f"{store} holds no version"
    assert json.loads(run("list", "--json")) == []


def test_list_counts_the_versions_that_cannot_be_read(run, made, tmp_path):
    folder = tmp_path / "store"
    environment = {"ANIMORA_MODELS_STORE": str(folder)}
    for version in ("v1", "v2", "v3"):
        run("publish", made(version), **environment)
    (folder / "v2" / "manifest.json").write_text("{")
    assert "v1" in run("list", **environment)
    assert run("list", **environment).splitlines()[-1] == "1 version cannot be read: v2"
    assert len(json.loads(run("list", "--json", **environment))) == 2
    for version in ("v1", "v3"):
        (folder / version / "manifest.json").write_text("{")
    listed = run("list", **environment).splitlines()
    assert "".join(listed[:-1]) == f"{folder} holds no readable version"
    assert listed[-1] == "3 versions cannot be read: v1, v2, v3"


def test_list_prints_null_in_json_for_metrics_that_are_not_finite(run, made, tmp_path):
    folder = tmp_path / "store"
    run("publish", made("v1", ndcg=0.25, auc=0.75), ANIMORA_MODELS_STORE=str(folder))
    manifest = folder / "v1" / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace("0.25", "NaN").replace("0.75", "Infinity"))
    (entry,) = json.loads(
        run("list", "--json", ANIMORA_MODELS_STORE=str(folder)), parse_constant=lambda name: name
    )
    assert entry["metrics"] == {"ndcg@10": None, "auc": None}


def test_versions_are_published_activated_and_rolled_back(run, made, store):
    for version, quality in (("v1", 0.30), ("v2", 0.31), ("v3", 0.32)):
        assert run("publish", made(version, ndcg=quality)).splitlines()[-1] == f"published {version}"
        assert run("activate", version) == f"activated {version}\n"
    assert run("rollback") == "rolled back from v3 to v2\n"
    assert run("rollback") == "rolled back from v2 to v1\n"
    refused = run("rollback", code=1)
    assert (
        "no version is known to have been active before v1: name one with `activate`; `animora-t" in refused
    )
    assert open_store(store).active() == "v1"
    run("activate", "v3")
    marks = {line.split()[1]: line.split()[0] for line in run("list").splitlines()[1:] if "v2" not in line}
    assert marks == {"v1": "before", "v3": "active"}
    listed = {entry["version"]: entry["active"] for entry in json.loads(run("list", "--json"))}
    assert listed == {"v1": False, "v2": False, "v3": True}


def test_a_version_is_replayed_once_at_its_publication_or_first_activation(run, made, store):
    run("publish", made("v1"))
    there = open_store(store)
    assert there.is_verified(there.manifest("v1"))
    foreign = there.publish(make_artifact("v2"))  # by a program that has not replayed it
    assert not there.is_verified(foreign)
    run("activate", "v2")
    assert there.is_verified(foreign)
    assert not there.is_verified(with_manifest(make_artifact("v2"), metrics={"ndcg@10": 0.5}).manifest)


def test_a_version_is_published_once(run, made):
    folder = made("v1")
    run("publish", folder)
    assert "the version v1 exists already" in run("publish", folder, code=1)


def test_an_activation_that_expects_another_version_fails_and_names_the_active_one(run, made, store):
    for version in ("v1", "v2"):
        run("publish", made(version))
    run("activate", "v1", "--expected", "")
    refused = run("activate", "v2", "--expected", "", code=1)
    assert refused == "error: someone else was first: v1 is active now, and nothing was changed"
    run("activate", "v2", "--expected", "v1")
    assert open_store(store).active() == "v2"


def test_a_rollback_to_a_deleted_version_is_an_error(run, made, tmp_path):
    folder = str(tmp_path / "store")
    environment = {"ANIMORA_MODELS_STORE": folder}
    for version in ("v1", "v2"):
        run("publish", made(version), **environment)
        run("activate", version, **environment)
    shutil.rmtree(tmp_path / "store" / "v1")
    refused = run("rollback", code=1, **environment)
    assert f"{folder} holds no version v1, which was active before; `animora-train list" in refused
    assert open_store(folder).active() == "v2"


def test_a_rollback_without_an_active_version_is_an_error(run):
    assert "no version is active" in run("rollback", code=1)


def test_a_version_worse_than_the_active_one_is_refused_with_both_metrics(run, made, store):
    run("publish", made("v1", ndcg=0.45, holdout_users=3020))
    run("activate", "v1")
    worse = made("v2", ndcg=0.43, holdout_users=3018)
    refused = run("publish", worse, code=3)
    assert "v2 is worse than the active version: NDCG@10 0.4300 on the hold-out (3,018 users)" in refused
    assert "the active v1 0.4500 (3,020 users)" in refused
    assert "0.0200, is more than --margin 0.01 allows" in refused
    assert "--force" in refused
    assert [manifest.version for manifest in open_store(store).listing().manifests] == ["v1"]
    forced = run("publish", worse, "--force")
    assert "worse by more than 0.01, and forced" in forced
    assert forced.splitlines()[-1] == "published v2"


@pytest.mark.parametrize(("quality", "margin"), [(0.46, "0.01"), (0.45, "0"), (0.44, "0.01"), (0.41, "0.05")])
def test_a_version_that_is_better_or_within_the_margin_is_published(run, made, quality, margin):
    run("publish", made("v1", ndcg=0.45))
    run("activate", "v1")
    published = run("publish", made("v2", ndcg=quality), "--margin", margin)
    assert published == f"NDCG@10 {quality:.4f} on the hold-out, the active v1 0.4500\npublished v2\n"


def test_a_version_is_compared_with_the_active_one_only(run, made):
    run("publish", made("v1", ndcg=0.30))
    run("activate", "v1")
    run("publish", made("v2", ndcg=0.45))
    run("publish", made("v3", ndcg=0.30))
    assert run("publish", made("v4")).startswith("not compared with the active v1: the manifest of v4 has no")


def test_a_version_that_cannot_be_compared_is_published_with_a_notice(run, made, tmp_path):
    folder = tmp_path / "store"
    environment = {"ANIMORA_MODELS_STORE": str(folder)}
    run("publish", made("v1"), **environment)
    run("activate", "v1", **environment)
    published = run("publish", made("v2", ndcg=0.1), **environment)
    assert published.startswith("not compared with the active v1: the manifest of v1 has no ndcg@10")
    shutil.rmtree(folder / "v1")
    published = run("publish", made("v3", ndcg=0.1), **environment)
    assert published.startswith("not compared with the active v1: there is no v1/manifest.json")
    (folder / "ACTIVE").write_text("two words")
    assert "the pointer is damaged" in run("publish", made("v4", ndcg=0.1), **environment)


def test_only_a_signed_version_passes_verification(run, made, keys, tmp_path):
    verifying = {"ANIMORA_MODELS_VERIFY_KEY": str(keys.public)}
    unsigned = made("v1")
    refused = run("publish", unsigned, code=1, **verifying)
    assert refused == "error: signature: it is not signed: there is no model.sig"
    run("publish", unsigned, "--sign-key", keys.private, **verifying)
    run("publish", made("v2"))
    signing = ("--sign-key", keys.private)
    assert run("activate", "v1", *signing, **verifying) == "activated v1\n"
    assert "not signed" in run("activate", "v2", *signing, code=1, **verifying)
    run("activate", "v2", *signing)
    run("activate", "v1", *signing)
    assert "not signed" in run("rollback", "--verify-key", keys.public, *signing, code=1)
    other = write_keys(tmp_path / "other")
    refused = run("publish", made("v3"), "--sign-key", other.private, "--verify-key", keys.public, code=1)
    assert "not by this key" in refused


def test_a_signature_is_copied_with_its_version_between_stores(run, made, keys, tmp_path):
    first = tmp_path / "first"
    run("publish", made("v1"), "--sign-key", keys.private, ANIMORA_MODELS_STORE=str(first))
    run("publish", first / "v1", "--verify-key", keys.public)
    run("activate", "v1", "--verify-key", keys.public, "--sign-key", keys.private)


def test_active_is_signed_and_stays_signed(run, made, keys, store):
    for version in ("v1", "v2"):
        run("publish", made(version), "--sign-key", keys.private)
    assert "ACTIVE has to be signed: with --sign-key" in run(
        "activate", "v1", "--verify-key", keys.public, code=1
    )
    for version in ("v1", "v2"):
        run("activate", version, "--sign-key", keys.private)
    servers = open_store(store, keys=pointer_keys(keys.public))
    assert servers.pointer().names == ("v2", "v1")
    assert "ACTIVE has to be signed" in run("rollback", code=1)
    assert "rolled back from v2 to v1" in run("rollback", "--sign-key", keys.private)
    assert servers.pointer().names == ("v1",)
    assert "active" in run("list")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("publish", "{made}", "--sign-key", "{made}/model.ts"), "--sign-key: "),
        (("publish", "{made}", "--sign-key", "none.pem"), "--sign-key: none.pem: cannot be read"),
        (("activate", "v1", "--verify-key", "none.pem"), "--verify-key: none.pem: cannot be read"),
        (("publish", "{made}", "--store", "ftp://host"), "--store: ftp: is not supported"),
        (("publish", "{made}", "--store", "s3://bucket?port=1"), "--store: 'port'"),
        (("publish", "{made}", "--margin", "-1"), "--margin"),
    ],
)
def test_wrong_usage_exits_with_two_and_names_the_option(run, made, arguments, named):
    folder = str(made("v1"))
    assert named in run(*(word.replace("{made}", folder) for word in arguments), code=2)


def with_nan(artifact: Artifact) -> Artifact:
    network = DotProduct()
    network.posts[1, 0] = float("nan")  # no golden row uses it
    return replace(artifact, model=save_network(network))


def with_golden(**arrays: np.ndarray) -> Callable[[Artifact], Artifact]:
    return lambda artifact: replace(artifact, golden=replace(artifact.golden, **arrays))


def with_more_users(artifact: Artifact) -> Artifact:
    dimensions = artifact.manifest.dimensions.model_copy(update={"users": 6})
    vocabulary = replace(artifact.vocabulary, user_ids=np.arange(5))
    return replace(with_manifest(artifact, dimensions=dimensions), vocabulary=vocabulary)


NOTHING = np.empty(0, np.int64)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (with_nan, "posts holds a weight that is not finite"),
        (with_more_users, "does not take user row 5"),
        (with_golden(post_index=np.array([0, 1, 1, 3])), "post_index must be in [0, 3)"),
        (with_golden(user_rows=np.array([-1, 3])), "user_rows must be in [0, 4)"),
        (with_golden(segments=np.array([0])), "segments has shape (1,); must be (4,)"),
        (
            with_golden(segments=NOTHING, post_index=NOTHING, probabilities=np.empty(0, np.float32)),
            "must have at least one pair",
        ),
    ],
)
def test_a_version_that_cannot_serve_is_neither_published_nor_activated(run, store, tmp_path, damage, why):
    version = damage(make_artifact("v1"))
    write_artifact(version, tmp_path / "made" / "v1")
    assert why in run("publish", tmp_path / "made" / "v1", code=1)
    assert open_store(store).listing().manifests == []
    open_store(store).publish(version)
    assert why in run("activate", "v1", code=1)
    assert open_store(store).active() is None


def paired(ndcg, other, spread=0.01, pairs=1000):
    difference = ndcg - other
    return PairedDifference(
        ndcg=ndcg,
        other=other,
        low=difference - spread,
        high=difference + spread,
        pairs=pairs,
        basis="held-out pairs",
    )


@pytest.fixture
def compared(tmp_path):
    """Writes a version with paired comparisons of its fit; returns its folder."""

    def make(version: str, differences: dict[str, PairedDifference], **metrics: float):
        folder = tmp_path / "compared" / version
        write_artifact(with_manifest(judged(version, **metrics), differences=differences), folder)
        return folder

    return make


def test_the_paired_comparisons_of_the_fit_decide_not_the_metrics(run, made, compared, store):
    run("publish", made("v1", ndcg=1.0))  # by luck, or by a fault
    run("activate", "v1")
    shown = run("publish", compared("v2", {"v1": paired(0.30, 0.29)}, ndcg=0.30))
    assert "NDCG@10 0.3000 on 1,000 held-out pairs, the active version, v1 0.2900: +0.0100" in shown
    worse = compared("v3", {"v1": paired(0.27, 0.30)}, ndcg=1.0)
    refused = run("publish", worse, code=3)
    assert "v3 is worse than the active version, v1: NDCG@10 0.2700 on 1,000 held-out pairs" in refused
    assert "The difference, 0.0300, is more than --margin 0.01 allows, and not chance" in refused
    run("publish", worse, "--margin", "0.05")
    uncertain = compared("v4", {"v1": paired(0.27, 0.30, spread=0.04)})
    assert run("publish", uncertain).splitlines()[-1] == "published v4"


def test_a_version_worse_than_the_heuristic_or_its_parent_is_refused_even_if_none_is_active(
    run, compared, store
):
    poor = compared("v1", {"the heuristic": paired(0.10, 0.20), "its parent": paired(0.10, 0.15)})
    refused = run("publish", poor, code=3)
    assert (
        "v1 is worse than the heuristic: NDCG@10 0.1000 on 1,000 held-out pairs, the heuristic 0.2000"
        in refused
    )
    assert "and than its parent: " in refused
    assert open_store(store).listing().manifests == []
    forced = run("publish", poor, "--force")
    assert "the heuristic 0.2000: -0.1000 (95 % interval -0.1100 to -0.0900)" in forced
    assert forced.splitlines()[-2:] == ["worse by more than 0.01, and forced", "published v1"]


def test_a_fit_that_could_not_compare_gives_its_reason_and_metrics_do_not_decide(run, made, compared):
    run("publish", made("v1", ndcg=0.9))
    run("activate", "v1")
    nothing = PairedDifference(pairs=0, basis="caption embeddings are 8 wide, the model takes 4")
    shown = run("publish", compared("v2", {"v1": nothing}, ndcg=0.3))
    assert shown.splitlines()[0] == f"not compared with the active v1: {nothing.basis}"


@pytest.mark.parametrize(
    ("active", "candidate", "published"),
    [
        ({"holdout_candidates": 11.0}, {"holdout_candidates": 99.3}, True),  # another, larger catalog
        ({}, {"holdout_candidates": 99.3}, True),
        ({"holdout_candidates": 99.9}, {"holdout_candidates": 99.3}, False),
        ({"ndcg_standard_error": 0.02}, {"ndcg_standard_error": 0.03}, True),  # within the standard error
        ({"ndcg_standard_error": 0.01}, {"ndcg_standard_error": 0.01}, False),
    ],
)
def test_metrics_of_unrelated_hold_outs_decide_if_comparable(run, made, active, candidate, published):
    run("publish", made("v1", **{"ndcg": 0.45, **active}))
    run("activate", "v1")
    run("publish", made("v2", **{"ndcg": 0.40, **candidate}), code=0 if published else 3)
