"""The files of deploy/, parsed."""

from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def checkout():
    """The root of the checkout, which images are built from."""
    return CHECKOUT


@pytest.fixture(scope="session")
def compose():
    return yaml.safe_load((CHECKOUT / "deploy/compose.yaml").read_text())


@pytest.fixture(scope="session")
def precompute_job():
    """The job that the cron job makes."""
    document = yaml.safe_load((CHECKOUT / "deploy/kubernetes/precompute-job.yaml").read_text())
    assert (document["apiVersion"], document["kind"]) == ("batch/v1", "CronJob")
    return document["spec"]["jobTemplate"]["spec"]
