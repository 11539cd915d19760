"""Run folders of failed fits: nothing trained is lost, and later runs succeed."""

import asyncio
import json
import resource
import sys
from dataclasses import replace

import asyncpg
import numpy as np
import pytest
import torch
from filelock import FileLock

from animora_artifact import FolderStore, Manifest, Package, StoreUnavailable, read_folder
from animora_training.commands.delivery import Delivery
from animora_training.commands.single_fit import FitOptions, run_fit
from animora_training.data.database import Database
from animora_training.errors import CannotWrite, InvalidInput, WorseThanActive
from animora_training.modeling.config import FitConfig
from animora_training.pipeline.checkpoint import Checkpoints, FitState
from tests.training.pipeline import fits
from tests.training.pipeline.fits import CHOICES, checkpoints
from tests.training.records import hold_out

SHORT = ("--set", "max_epochs=1", "--set", "users_per_step=64")


class KilledStore(FolderStore):
    """A store whose publisher is killed right after a publication."""

    def add(self, package: Package) -> Manifest:
        super().add(package)
        raise KeyboardInterrupt


@pytest.fixture
def options(environment, tmp_path) -> FitOptions:
    return FitOptions(
        database=Database(environment["ANIMORA_DATABASE_URL"]),
        config=FitConfig.from_choices([word for word in (*CHOICES, *SHORT) if word != "--set"], 0),
        device=torch.device("cpu"),
        world_size=1,
        run_dir=tmp_path / "run",
        resume=True,
        warm_start=None,
        compiler="",
        delivery=Delivery(FolderStore(tmp_path / "store"), None, activate=True),
    )


@pytest.fixture
def change(environment):
    """Executes a statement."""

    def execute(statement):
        async def run():
            connection = await asyncpg.connect(environment["ANIMORA_DATABASE_URL"])
            await connection.execute(statement)
            await connection.close()

        asyncio.run(run())

    return execute


def fit(environment, *arguments, code=0):
    return fits.fit(environment, *SHORT, *arguments, code=code)


def nothing() -> None:
    pass


def trained_again() -> None:
    pytest.fail("it trains again")


def record(folder):
    return json.loads((folder / "run.json").read_text())


def test_an_undelivered_version_is_delivered_by_the_next_run_without_training(options, tmp_path):
    store, run = tmp_path / "store", tmp_path / "run"

    def break_the_store():
        if checkpoints(run):
            store.touch()

    with pytest.raises(StoreUnavailable, match=r"--store: .*deliver it with --resume, or publish ") as failed:
        run_fit(options, break_the_store)
    (kept,) = (run / "version").iterdir()
    assert str(failed.value).endswith(f"publish {kept}")
    assert read_folder(kept).manifest.metrics
    assert not (run / "run.json").exists()
    with pytest.raises(StoreUnavailable, match=str(kept)):
        run_fit(options, trained_again)
    with pytest.raises(InvalidInput, match="continue it with --resume"):
        run_fit(replace(options, resume=False), trained_again)
    with pytest.raises(InvalidInput, match="to other data or another configuration"):
        run_fit(replace(options, config=replace(options.config, seed=5)), trained_again)

    store.unlink()
    run_fit(options, trained_again)
    assert FolderStore(store).active() == kept.name == record(run)["version"]
    assert not (run / "version").exists()
    assert not checkpoints(run)
    assert {"run.json", "report.html", "network.npz", "data", "events"} <= {
        path.name for path in run.iterdir()
    }


def test_a_version_that_was_published_before_a_kill_is_published_once(options, tmp_path):
    store = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        run_fit(replace(options, delivery=Delivery(KilledStore(store), None, activate=True)), nothing)
    for _ in range(2):
        (version,) = FolderStore(store).listing().manifests
        if not (tmp_path / "run" / "run.json").exists():
            run_fit(options, trained_again)
    assert FolderStore(store).pointer().names == (version.version,)


def test_a_version_damaged_before_delivery_is_exported_again(options, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_fit(
            replace(options, delivery=Delivery(KilledStore(tmp_path / "first"), None, activate=False)),
            nothing,
        )
    (kept,) = (tmp_path / "run" / "version").iterdir()
    (kept / "model.ts").write_bytes(b"")
    run_fit(options, nothing)
    assert record(tmp_path / "run")["version"] == FolderStore(tmp_path / "store").active()


def test_a_refused_version_stays_in_the_run_folder_until_the_next_run(options, tmp_path):
    run = tmp_path / "run"
    chance = replace(options, config=replace(options.config, factorisation="none", learning_rate=1e-6))
    run_fit(replace(options, config=replace(options.config, factors=16, als_iterations=12)), nothing)
    with pytest.raises(WorseThanActive) as refused:
        run_fit(chance, nothing)
    (kept,) = (run / "version").iterdir()
    assert f"the version is in {kept}" in str(refused.value)
    assert record(run)["version"] == kept.name
    run_fit(replace(options, resume=False, delivery=replace(options.delivery, force=True)), nothing)
    assert not (run / "version").exists()


def test_a_run_folder_in_use_is_refused(environment, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with FileLock(run / ".lock"):
        refused = fit(environment, "--run-dir", run, "--output", tmp_path / "out", "--resume", code=1)
    assert f"--run-dir: another fit uses {run}: wait for its end" in refused.stderr
    assert [path.name for path in run.iterdir()] == [".lock"]
    fit(environment, "--run-dir", run, "--output", tmp_path / "out")


def test_an_output_folder_overrides_the_store_of_the_environment(environment, tmp_path):
    store = tmp_path / "store"
    variable = {**environment, "ANIMORA_MODELS_STORE": str(store)}
    assert "wrote " in fit(variable, "--output", tmp_path / "out").stdout
    assert not store.exists()
    assert "published " in fit(environment, "--output", tmp_path / "two", "--store", store).stdout
    assert "activated " in fit(variable, "--output", tmp_path / "three", "--activate", "--force").stdout


def test_a_fit_that_fails_early_leaves_an_empty_run_folder(environment, change, tmp_path):
    command = ("--run-dir", tmp_path / "run", "--output", tmp_path / "out")
    change("alter view animora.blocks rename to gone")
    assert "blocks" in fit(environment, *command, code=1).stderr
    change("alter view animora.gone rename to blocks")
    change("create table kept as select * from animora_app.likes; delete from animora_app.likes")
    change("create table kept_comments as select * from animora_app.comments")
    change("delete from animora_app.comments")
    assert "fewer than two users" in fit(environment, *command, code=1).stderr
    change("insert into animora_app.likes select * from kept")
    fit(environment, *command)
    again = (*command, "--warm-start", tmp_path / "run")
    refused = fit(environment, *again, "--set", "feature_width=16", code=2)
    assert "--warm-start: " in refused.stderr
    assert "feature_width=32, this fit feature_width=16: give both the same" in refused.stderr
    fit(environment, *again)
    assert record(tmp_path / "run")["parent"] is not None


def test_other_embedding_widths_restart_from_scratch_once_and_then_warm_start_again(
    environment, change, tmp_path
):
    run = tmp_path / "run"
    nightly = ("--run-dir", run, "--output", tmp_path / "out", "--warm-start", run, "--resume")
    fit(environment, *nightly)
    change("update animora_app.posts set image_embedding = image_embedding[1:4]")
    changed = fit(environment, *nightly).stdout
    assert "cannot start from the earlier fit: " in changed
    assert "those of the data are 4 wide" in changed
    assert record(run)["parent"] is None
    fit(environment, *nightly)
    assert record(run)["parent"] is not None


def test_a_damaged_parent_is_ignored(environment, tmp_path):
    run = tmp_path / "run"
    nightly = ("--run-dir", run, "--output", tmp_path / "out", "--warm-start", run, "--resume")
    fit(environment, *nightly)
    content = bytearray((run / "network.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (run / "network.npz").write_bytes(content)
    assert "fitting from scratch" in fit(environment, *nightly).stdout
    assert record(run)["parent"] is None
    np.save(run / "data" / "pair_offsets.npy", np.arange(3))
    assert "do not belong together: fitting from scratch" in fit(environment, *nightly).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="a file's size can be limited on Linux")
def test_a_full_disk_is_reported_and_keeps_the_previous_checkpoint(tmp_path):
    kept = Checkpoints(tmp_path, "a fit")
    kept.save(FitState(epochs=list(hold_out())), None)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(CannotWrite, match=r"checkpoint-2-0-of-1\.pt: cannot be written: File too large"):
            kept.save(FitState(stage="refit", epochs=list(hold_out()) * 100), None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1-0-of-1.pt"]
    assert Checkpoints(tmp_path, "a fit").load().epochs == list(hold_out())


def test_a_file_with_a_name_like_a_checkpoint_is_ignored(tmp_path):
    kept = Checkpoints(tmp_path, "a fit")
    kept.save(FitState(epochs=list(hold_out())), None)
    for name in ("checkpoint-1.pt", "checkpoint-1-0-of-1 (copy).pt", "checkpoint-x-0-of-1.pt"):
        (tmp_path / name).touch()
    assert Checkpoints(tmp_path, "a fit").load().epochs == list(hold_out())
