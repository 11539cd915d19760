import json
import math
import platform

import pytest
import torch

from animora_training.errors import InvalidInput
from animora_training.pipeline.record import Host, RunRecord, Software
from tests.training.records import epoch, run_record


def test_a_record_round_trips():
    record = run_record(parent="20261122T204000Z-aaaaaa")
    text = record.to_json()
    assert RunRecord.parse(text) == record
    assert RunRecord.parse(text).to_json() == text
    assert json.loads(text)["epochs"][0]["stage"] == "factorisation"


def test_settings_keep_their_types():
    settings = {"hidden": [64, 32], "embeddings": True, "factors": 8, "rate": 1.0, "decay": None, "loss": "x"}
    read = RunRecord.parse(run_record(configuration=settings).to_json()).configuration
    assert read == settings
    assert [type(value) for value in read.values()] == [type(value) for value in settings.values()]


def test_a_fit_that_diverged_has_a_record_too():
    record = run_record(
        epochs=(epoch("hold-out", 1, loss=math.nan), epoch("refit", 1, loss=math.inf)),
        qualities={"NeuCF": {"ndcg@10": math.nan, "auc": 0.5}},
    )
    text = record.to_json()
    json.loads(text, parse_constant=pytest.fail)  # NaN is not JSON
    read = RunRecord.parse(text)
    assert [str(one.loss) for one in read.epochs] == ["nan", "inf"]
    assert math.isnan(read.qualities["NeuCF"]["ndcg@10"])
    assert read.measured("ndcg@10") == {}
    assert read.measured("auc") == {"NeuCF": 0.5}


def test_epochs_are_recorded_by_stage():
    record = run_record()
    assert [one.epoch for one in record.stage("refit")] == list(range(1, 12))
    assert len(record.stage("factorisation")) + len(record.stage("hold-out")) + 11 == len(record.epochs)


def test_fields_of_a_newer_writer_are_ignored():
    document = json.loads(run_record().to_json())
    document["invented_later"] = {"x": 1}
    assert RunRecord.parse(json.dumps(document).encode()) == run_record()


@pytest.mark.parametrize(
    ("text", "named"),
    [(b"not json", "the document"), (b"{}", "version"), (b'{"version": 3}', "version")],
)
def test_a_malformed_record_is_refused_by_name(text, named):
    with pytest.raises(InvalidInput, match=named):
        RunRecord.parse(text)


def test_a_record_describes_the_process_without_naming_the_machine():
    assert Software.here().python == platform.python_version()
    assert Software.here().torch == torch.__version__
    host = Host.here(torch.device("cpu"))
    assert host.cpus >= 1
    assert host.device.startswith("CPU, ")
    assert platform.node() not in host.device
