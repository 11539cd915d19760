import asyncio
import json
import re

import asyncpg
import pytest
from typer.testing import CliRunner

from animora_artifact import open_store
from animora_training.commands.cli import app
from tests.support.compilers import COMPILES
from tests.support.ncf_folders import write_folder


@pytest.fixture
def run():
    unset = {"ANIMORA_DATABASE_URL": None, "ANIMORA_MODELS_STORE": None}

    def invoke(*arguments, code=0, **environment):
        result = CliRunner().invoke(
            app, [str(argument) for argument in arguments], env={**unset, **environment}
        )
        assert result.exit_code == code, result.output
        return result

    return invoke


QUICK = ("--set", "max_epochs=2", "--set", "als_iterations=3")


def test_a_sample_is_imported_fitted_published_and_activated(run, postgres_url, tmp_path):
    store = tmp_path / "store"
    environment = {"ANIMORA_DATABASE_URL": postgres_url, "ANIMORA_MODELS_STORE": str(store)}
    imported = run("import", "sample", "--size", "small", "--seed", "3", "--now", "2026-11-20", **environment)
    assert imported.stdout.startswith("imported 240 users, 700 posts")
    assert "already" in run("import", "sample", code=1, **environment).stderr
    run("import", "sample", "--size", "small", "--replace", **environment)

    fitted = run("fit", "--output", tmp_path / "out", *QUICK, ANIMORA_DATABASE_URL=postgres_url).stdout
    version = fitted.split("wrote ")[1].strip()
    assert "heuristic, hold-out" in fitted
    assert (tmp_path / "out" / version / "score.so").exists() == COMPILES
    assert run("list", **environment).stdout.count(version) == 0

    assert run("publish", tmp_path / "out" / version, **environment).stdout == f"published {version}\n"
    assert "no active version" in run("evaluate", code=1, **environment).stderr
    assert run("activate", version, **environment).stdout == f"activated {version}\n"
    assert open_store(str(store)).active() == version

    evaluated = run("evaluate", **environment).stdout
    assert "NeuCF, on pairs it was trained on" in evaluated
    assert re.fullmatch(r"hr@10=0\.\d{4} ndcg@10=0\.\d{4}", evaluated.splitlines()[-1])
    metrics = open_store(str(store)).listing().manifests[0].metrics
    assert evaluated.splitlines()[-1] == f"hr@10={metrics['hr@10']:.4f} ndcg@10={metrics['ndcg@10']:.4f}"

    # Another seed has another hold-out, whose NDCG@10 of 114 users varies by more than the margin.
    again = run("fit", "--activate", "--seed", "1", "--margin", "0.2", *QUICK, **environment)
    second = again.stdout.split()[-1]
    listed = json.loads(run("list", "--json", **environment).stdout)
    assert [(entry["version"], entry["active"]) for entry in listed] == [(version, False), (second, True)]
    table = run("list", **environment).stdout
    assert re.search(rf"active\s+{second}", table)
    assert not re.search(rf"active\s+{version}", table)


def test_likes_at_any_time_that_postgresql_can_store_are_trained_on(run, postgres_url, tmp_path):
    environment = {"ANIMORA_DATABASE_URL": postgres_url, "ANIMORA_MODELS_STORE": str(tmp_path / "store")}
    run("import", "sample", "--size", "small", **environment)

    async def misdate():
        connection = await asyncpg.connect(postgres_url)
        for time, posts in (("12000-01-01", 3), ("0044-03-15 BC", 5)):
            await connection.execute(
                f"update animora_app.likes set created_at = '{time}' where post_id % 100 = {posts}"
            )
        await connection.close()

    asyncio.run(misdate())
    fitted = run("fit", "--run-dir", tmp_path / "run", "--activate", *QUICK, **environment)
    assert "activated " in fitted.stdout
    (listed,) = json.loads(run("list", "--json", **environment).stdout)
    assert listed["data_window"]["start"] == "0001-01-01T00:00:00Z"
    assert listed["data_window"]["end"] == "9999-12-31T23:59:59Z"
    assert "9999-12-31" in (tmp_path / "run" / "report.html").read_text()
    assert "hr@10=" in run("evaluate", **environment).stdout


def test_a_data_set_is_fitted_and_its_test_pairs_ranked(run, postgres_url, tmp_path):
    folder, store = write_folder(tmp_path), tmp_path / "store"
    environment = {"ANIMORA_DATABASE_URL": postgres_url, "ANIMORA_MODELS_STORE": str(store)}
    assert "4 users, 6 posts, 6 likes" in run("import", "ncf", folder, **environment).stdout
    fitted = run("fit", "--activate", "--compiler", "no-such-compiler", *QUICK, **environment).stdout
    assert ("no native code, TorchScript scores alone: there is no C compiler" in fitted) == COMPILES
    (version,) = open_store(str(store)).listing().manifests
    assert "score.so" not in version.files
    evaluated = run("evaluate", "--ncf", folder, **environment).stdout
    assert "2 users ranked" in evaluated
    assert evaluated.splitlines()[-1].startswith("hr@10=1.0000 ndcg@10=")


def test_a_bad_line_leaves_the_database_unchanged(run, postgres_url, tmp_path):
    environment = {"ANIMORA_DATABASE_URL": postgres_url}
    run("import", "sample", "--size", "small", **environment)
    folder = write_folder(tmp_path)
    (folder / "tiny.test.negative").write_text("(7,3)\tx\n")
    refused = run("import", "ncf", folder, "--replace", code=1, **environment)
    assert "tiny.test.negative, line 1: expected (user,item)" in refused.stderr
    assert "already" in run("import", "ncf", folder, code=1, **environment).stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("fit", "--store", "models"), "--database-url"),
        (("fit", "--database-url", "postgresql://"), "--store or --output"),
        (
            ("fit", "--database-url", "postgresql://", "--output", "out", "--activate"),
            "--activate: needs --store",
        ),
        (
            ("fit", "--database-url", "postgresql://", "--output", "out", "--set", "x=1"),
            "NAME=VALUE with one of factors",
        ),
        (
            ("fit", "--database-url", "postgresql://", "--store", "ftp://host"),
            "--store: ftp: is not supported",
        ),
        (("list",), "--store"),
        (("activate", "--store", "models"), "version"),
        (("import", "sample", "--size", "huge"), "--size"),
    ],
)
def test_wrong_usage_exits_with_two_and_names_the_option(run, arguments, named):
    assert named in run(*arguments, code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ("activate", "nosuch"),
            "{store} holds no version nosuch; `animora-train list --store {store}` shows",
        ),
        (("rollback",), "no version is active; `animora-train list --store {store}` shows"),
        (("activate", "../elsewhere"), "not a version's name"),
        (("publish", "nowhere"), "nowhere holds no version: there is no nowhere/manifest.json"),
        (("evaluate", "--database-url", "postgresql://"), "no active version"),
        (("evaluate", "nosuch", "--database-url", "postgresql://"), "{store} holds no version nosuch; "),
        (("compare", "nosuch", "--database-url", "postgresql://"), "{store} holds no version nosuch; "),
    ],
)
def test_failures_exit_with_one_and_a_message(run, tmp_path, arguments, reason):
    refused = run(*arguments, "--store", tmp_path, code=1)
    assert reason.format(store=tmp_path) in refused.stderr
    assert "Traceback" not in refused.output


def test_a_store_that_is_not_writable_is_reported_before_training(run, postgres_url, tmp_path):
    (tmp_path / "file").touch()
    refused = run("fit", "--database-url", postgres_url, "--store", tmp_path / "file", *QUICK, code=1)
    assert f"--store: cannot write to {tmp_path / 'file'}" in refused.stderr
    assert "users" not in refused.stderr  # nothing was read


def test_a_database_without_posts_is_reported_as_empty(run, postgres_url, tmp_path):
    refused = run("fit", "--store", tmp_path, "--database-url", postgres_url, code=1)
    assert "animora.posts shows no posts" in refused.stderr


def test_an_empty_store_lists_nothing(run, tmp_path):
    assert json.loads(run("list", "--json", "--store", tmp_path / "none").stdout) == []
