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


def test_a_fit_goes_on_in_the_folder_that_outlives_its_pod(documents, pod, container):
    command, *words = container["args"]
    # The rest comes from the environment.
    options = get_group(app).commands[command].make_context(command, [*words, "--database-url", "…"]).params
    assert options["resume"]
    assert options["activate"]
    assert options["warm_start"] == options["run_dir"]
    # A folder of its own in the volume, whose root is not the fit's to empty.
    folder = options["run_dir"].parent
    (volume,) = (mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == str(folder))
    claims = {
        one["name"]: one["persistentVolumeClaim"]["claimName"]
        for one in pod["volumes"]
        if "persistentVolumeClaim" in one
    }
    assert claims[volume] == documents["PersistentVolumeClaim"]["metadata"]["name"]


def test_no_two_fits_write_to_one_folder(documents, job):
    assert documents["CronJob"]["spec"]["concurrencyPolicy"] == "Forbid"
    assert job.get("parallelism", 1) == job.get("completions", 1) == 1


def test_what_died_is_tried_again_and_a_wrong_option_is_not(job, pod, container):
    assert job["backoffLimit"] > 0
    assert pod["restartPolicy"] == "Never"  # which podFailurePolicy needs
    wrong_option, disruption = job["podFailurePolicy"]["rules"]
    assert wrong_option == {
        "action": "FailJob",
        "onExitCodes": {"containerName": container["name"], "operator": "In", "values": [2, 3]},
    }
    assert disruption["action"] == "Ignore"
    assert disruption["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]


def test_it_has_ended_when_precompute_begins(documents, job, checkout):
    precompute = yaml.safe_load((checkout / "deploy/kubernetes/precompute-job.yaml").read_text())
    begins = _second_of_the_day(documents["CronJob"]["spec"]["schedule"])
    ends = begins + job["activeDeadlineSeconds"]
    assert ends <= _second_of_the_day(precompute["spec"]["schedule"])


def test_it_publishes_to_the_store_that_precompute_reads(pod, container, precompute_job):
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    store = environment["ANIMORA_MODELS_STORE"]
    (mount,) = (mount for mount in container["volumeMounts"] if mount["mountPath"] == store)
    assert not mount.get("readOnly")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    theirs = {volume["name"]: volume for volume in precompute_job["template"]["spec"]["volumes"]}
    claim = volumes[mount["name"]]["persistentVolumeClaim"]["claimName"]
    assert claim == theirs["models"]["persistentVolumeClaim"]["claimName"]


def test_it_takes_the_database_from_the_secret_and_names_no_password(container):
    (database,) = (one for one in container["env"] if one["name"] == "ANIMORA_DATABASE_URL")
    assert database == {
        "name": "ANIMORA_DATABASE_URL",
        "valueFrom": {"secretKeyRef": {"name": "animora", "key": "database-url"}},
    }


def test_it_has_a_thread_for_each_processor_that_it_asks_for(container):
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert environment["OMP_NUM_THREADS"] == container["resources"]["requests"]["cpu"]


def test_it_runs_without_rights_and_writes_to_its_volumes_alone(pod, container, precompute_job):
    assert pod["securityContext"] == precompute_job["template"]["spec"]["securityContext"]
    assert pod["automountServiceAccountToken"] is False
    (theirs,) = precompute_job["template"]["spec"]["containers"]
    assert container["securityContext"] == theirs["securityContext"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/models", "/fit", "/tmp"}


def test_it_uses_the_image_whose_program_it_is(container, compose, checkout):
    assert container["image"] == compose["services"]["trainer"]["image"]
    text = (checkout / "deploy/trainer.Dockerfile").read_text()
    entrypoint = next(line for line in text.splitlines() if line.startswith("ENTRYPOINT"))
    assert json.loads(entrypoint.removeprefix("ENTRYPOINT"))[-1] == "animora-train"


def _second_of_the_day(schedule):
    minute, hour, *rest = schedule.split()
    assert rest == ["*", "*", "*"]
    return 3600 * int(hour) + 60 * int(minute)
