import json

import pytest
import yaml
from typer.main import get_group

from animora_training.commands.cli import app


@pytest.fixture(scope="module")
def documents(checkout):
    text = (checkout / "deploy/kubernetes/fit-cronjob.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


@pytest.fixture(scope="module")
def job(documents):
    return documents["CronJob"]["spec"]["jobTemplate"]["spec"]


@pytest.fixture(scope="module")
def pod(job):
    return job["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod):
    (container,) = pod["containers"]
    return container


def test_the_run_folder_is_on_a_persistent_volume(documents, pod, container):
    command, *words = container["args"]
    # The rest comes from the environment.
    options = get_group(app).commands[command].make_context(command, [*words, "--database-url", "…"]).params
    assert options["resume"]
    assert options["activate"]
    assert options["warm_start"] == options["run_dir"]
    # A folder in the volume, since a fit empties its run folder.
    folder = options["run_dir"].parent
    (volume,) = (mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == str(folder))
    claims = {
        one["name"]: one["persistentVolumeClaim"]["claimName"]
        for one in pod["volumes"]
        if "persistentVolumeClaim" in one
    }
    assert claims[volume] == documents["PersistentVolumeClaim"]["metadata"]["name"]


def test_two_fits_never_run_at_once(documents, job):
    assert documents["CronJob"]["spec"]["concurrencyPolicy"] == "Forbid"
    assert job.get("parallelism", 1) == job.get("completions", 1) == 1


def test_a_killed_fit_is_retried_and_a_wrong_option_is_not(job, pod, container):
    assert job["backoffLimit"] > 0
    assert pod["restartPolicy"] == "Never"  # required by podFailurePolicy
    wrong_option, disruption = job["podFailurePolicy"]["rules"]
    assert wrong_option == {
        "action": "FailJob",
        "onExitCodes": {"containerName": container["name"], "operator": "In", "values": [2, 3]},
    }
    assert disruption["action"] == "Ignore"
    assert disruption["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]


def test_the_fit_ends_before_precompute_begins(documents, job, checkout):
    precompute = yaml.safe_load((checkout / "deploy/kubernetes/precompute-job.yaml").read_text())
    begins = _second_of_the_day(documents["CronJob"]["spec"]["schedule"])
    ends = begins + job["activeDeadlineSeconds"]
    assert ends <= _second_of_the_day(precompute["spec"]["schedule"])


def test_the_fit_publishes_to_the_store_that_precompute_reads(pod, container, precompute_job):
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    store = environment["ANIMORA_MODELS_STORE"]
    (mount,) = (mount for mount in container["volumeMounts"] if mount["mountPath"] == store)
    assert not mount.get("readOnly")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    theirs = {volume["name"]: volume for volume in precompute_job["template"]["spec"]["volumes"]}
    claim = volumes[mount["name"]]["persistentVolumeClaim"]["claimName"]
    assert claim == theirs["models"]["persistentVolumeClaim"]["claimName"]


def test_the_database_url_comes_from_a_secret(container):
    (database,) = (one for one in container["env"] if one["name"] == "ANIMORA_DATABASE_URL")
    assert database == {
        "name": "ANIMORA_DATABASE_URL",
        "valueFrom": {"secretKeyRef": {"name": "animora", "key": "database-url"}},
    }


def test_the_fit_has_a_thread_for_each_requested_cpu(container):
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert environment["OMP_NUM_THREADS"] == container["resources"]["requests"]["cpu"]


def test_the_pod_is_unprivileged_and_writes_to_its_volumes_only(pod, container, precompute_job):
    assert pod["securityContext"] == precompute_job["template"]["spec"]["securityContext"]
    assert pod["automountServiceAccountToken"] is False
    (theirs,) = precompute_job["template"]["spec"]["containers"]
    assert container["securityContext"] == theirs["securityContext"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/models", "/fit", "/tmp"}


def test_the_pod_uses_the_image_of_its_program(container, compose, checkout):
    assert container["image"] == compose["services"]["trainer"]["image"]
    text = (checkout / "deploy/trainer.Dockerfile").read_text()
    entrypoint = next(line for line in text.splitlines() if line.startswith("ENTRYPOINT"))
    assert json.loads(entrypoint.removeprefix("ENTRYPOINT"))[-1] == "animora-train"


def _second_of_the_day(schedule):
    minute, hour, *rest = schedule.split()
    assert rest == ["*", "*", "*"]
    return 3600 * int(hour) + 60 * int(minute)
