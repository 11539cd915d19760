import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from animora_training.commands.cli import app
from tests.support.datasets import as_dataset, tiny_feed, triples

QUICK = ("--set", "max_epochs=1", "--set", "als_iterations=2")


@pytest.fixture
def run(postgres_url, tmp_path):
    environment = {"ANIMORA_DATABASE_URL": postgres_url, "ANIMORA_MODELS_STORE": str(tmp_path / "store")}

    def invoke(*arguments, code=0):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)
        assert result.exit_code == code, result.output
        return result

    return invoke


@pytest.fixture
def folder(tmp_path):
    """A tiny feed in the NCF format, the latest pair of each user with several held out among 20 posts."""
    data = as_dataset(tiny_feed())
    several = np.diff(data.pairs.offsets) > 1
    latest = {
        user: post for user, post, _ in triples(data.pairs) if several[user] and not data.posts.deleted[post]
    }
    kept = [triple for triple in triples(data.pairs) if latest.get(triple[0]) != triple[1]]
    rng = np.random.default_rng(0)
    liked = {(user, post) for user, post, _ in triples(data.pairs)}
    lines = []
    for user, post in latest.items():
        others = [other for other in rng.permutation(len(data.posts.ids)) if (user, other) not in liked]
        lines.append("\t".join([f"({user},{post})", *map(str, others[:20])]))
    path = tmp_path / "feed"
    path.mkdir()
    rows = "".join(f"{user}\t{post}\t1\t{time:.0f}\n" for user, post, time in kept)
    (path / "feed.train.rating").write_text(rows)
    (path / "feed.test.negative").write_text("\n".join(lines) + "\n")
    return path


def test_a_version_is_compared_with_all_baselines(run, folder, tmp_path):
    run("import", "ncf", folder)
    run("fit", "--activate", *QUICK)
    plot, file = tmp_path / "plot.svg", tmp_path / "all.json"
    shown = run("compare", "--ncf", folder, "--attempts", 2, "--plot", plot, "--json", file).stdout
    assert "test pairs of feed" in shown
    for name in ("NeuCF", "EASE", "iALS", "MF", "heuristic", "popularity", "what they liked before"):
        assert re.search(rf"^\s*{name} ", shown, re.MULTILINE), name
    assert re.search(
        r"NDCG@10, NeuCF minus \w+, the best baseline: [+-]0\.\d{4}, standard error 0\.\d{4}", shown
    )
    assert "EASE was tuned to l2" in shown
    assert "calibration error 0." in shown
    assert plot.read_text().startswith("<?xml")
    found = json.loads(file.read_text())
    evaluated = run("evaluate", "--ncf", folder).stdout.splitlines()[-1]
    sampled = found["recommenders"]["NeuCF"]["sampled"]
    assert evaluated == f"hr@10={sampled['hr@10']:.4f} ndcg@10={sampled['ndcg@10']:.4f}"


def latest_line_of(file):
    means = json.loads(file.read_text())["recommenders"]["NeuCF"]
    sampled, full = means["sampled"], means["full"]
    return f"hr@10={sampled['hr@10']:.4f} ndcg@10={sampled['ndcg@10']:.4f} full_ndcg@10={full['ndcg@10']:.4f}"


@pytest.mark.parametrize("placeholder", [False, True])
def test_each_users_latest_interaction_is_found_among_sampled_and_among_all_posts(
    run, folder, tmp_path, placeholder
):
    if placeholder:
        train = folder / "feed.train.rating"
        train.write_text(re.sub(r"\d+$", "0", train.read_text(), flags=re.MULTILINE))
    run("import", "ncf", folder)
    run("fit", "--activate", *QUICK)
    file = tmp_path / "all.json"
    few = ("--attempts", 1, "--json", file, "--protocol", "latest")
    of_folder = run("compare", "--ncf", folder, *few).stdout
    assert "test pairs of feed" in of_folder
    assert of_folder.splitlines()[-1] == latest_line_of(file)
    of_database = run("compare", *few).stdout
    assert "latest interactions: " in of_database
    assert of_database.splitlines()[-1] == latest_line_of(file)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (
            ("compare", "--protocol", "latest", "--split", "time"),
            "--split: --protocol defines a split already",
        ),
        (("compare", "--ncf", "somewhere", "--split", "time"), "--split: --ncf defines a split already"),
        (
            ("compare", "--split", "cold-posts", "--plot", "plot.png"),
            "--plot: --split cold-posts has no plot",
        ),
        (("compare", "--ncf", "somewhere", "--plot", "plot.pdf"), "--plot: must end in .png or .svg"),
        (("compare", "--ncf", "somewhere", "--attempts", "0"), "--attempts"),
    ],
)
def test_wrong_usage_exits_with_two_and_names_the_option(run, arguments, named):
    assert named in run(*arguments, code=2).stderr


def test_a_file_that_cannot_be_written_is_named(run, folder, tmp_path):
    run("import", "ncf", folder)
    run("fit", "--activate", *QUICK)
    nowhere = tmp_path / "nowhere" / "all.json"
    refused = run("compare", "--ncf", folder, "--attempts", 1, "--json", nowhere, code=1)
    assert f"{nowhere}: No such file" in refused.stderr


def test_splits_are_evaluated_with_a_network_that_was_not_trained_on_the_test_pairs(run, tmp_path):
    run("import", "sample", "--size", "small")
    # Ten iterations memorise the training pairs; two do not reliably.
    version = run("fit", "--activate", *QUICK, "--set", "als_iterations=10").stdout.split()[-1]
    file, plot = tmp_path / "all.json", tmp_path / "plot.png"
    few = ("--attempts", 1, "--json", file)

    shown = run("compare", *few, "--plot", plot).stdout
    found = json.loads(file.read_text())
    assert "leave-one-out: " in shown
    assert plot.read_bytes().startswith(b"\x89PNG")
    # A version that was trained on these pairs would rank them nearly like its other training pairs.
    seen = run("evaluate", version).stdout
    known = re.findall(r"trained on +0\.\d+ +(0\.\d+)", seen)
    assert found["recommenders"]["NeuCF"]["sampled"]["ndcg@10"] < float(known[0]) - 0.01

    shown = run("compare", *few, "--split", "time").stdout
    found = json.loads(file.read_text())
    assert found["relevant"] > found["users"]
    assert set(found["cold_posts"]["among_cold"]) == {"NeuCF", "popularity", "popularity in hindsight"}
    assert "time split: " in shown

    shown = run("compare", *few, "--split", "cold-posts").stdout
    assert "embeddings known, id unknown" in shown
    assert "NDCG@10 among cold posts, NeuCF minus popularity: " in shown
    found = json.loads(file.read_text())["cold_posts"]
    ranked = {name: measures["auc"] for name, measures in found["among_cold"].items()}
    assert ranked["popularity"] == 0.5 < ranked["popularity in hindsight"]
    assert 0 < ranked["NeuCF"] < 1
