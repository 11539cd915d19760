import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import plugin_data_pb2

from animora_training.pipeline.tensorboard import EventWriter
from tests.training.records import epoch, run_record


def scalars(folder, tag):
    """Events for TensorBoard: steps and values."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, pytest.approx(event.value)) for event in accumulator.Scalars(tag)]


def runs(folder):
    return set(EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload().Runs())


def write(folder, epochs, done=()):
    events = EventWriter(folder, done)
    for one in epochs:
        events.epoch(one)
    events.close()


def test_every_epoch_is_a_step_of_its_stages_run(tmp_path):
    record = run_record()
    write(tmp_path / "events", record.epochs)
    assert runs(tmp_path / "events") == {"factorisation", "hold-out", "refit"}
    judged = record.stage("hold-out")
    folder = tmp_path / "events/hold-out"
    assert scalars(folder, "ndcg@10") == [(one.epoch, one.ndcg10) for one in judged]
    assert scalars(folder, "hr@10") == [(one.epoch, one.hr10) for one in judged]
    assert scalars(folder, "pairs_per_second") == [(one.epoch, one.pairs_per_second) for one in judged]
    folder = tmp_path / "events/refit"
    for tag in ("loss", "learning_rate", "seconds"):
        assert scalars(folder, tag) == [(one.epoch, getattr(one, tag)) for one in record.stage("refit")]


def test_a_missing_value_of_an_epoch_has_no_point(tmp_path):
    write(tmp_path, [epoch("refit", 1)])
    with pytest.raises(KeyError):
        scalars(tmp_path / "refit", "ndcg@10")


def test_an_epoch_can_be_watched_before_the_fit_ends(tmp_path):
    events = EventWriter(tmp_path)
    events.epoch(epoch("hold-out", 1))
    assert len(scalars(tmp_path / "hold-out", "loss")) == 1
    events.close()


def test_a_resumed_fit_repeats_no_step(tmp_path):
    hold_out = [epoch("hold-out", n, loss=0.5 / n) for n in range(1, 6)]
    killed = EventWriter(tmp_path)
    for one in hold_out[:3]:
        killed.epoch(one)
    # The third epoch was written as an event, but the checkpoint holds two.
    repeated = [one.model_copy(update={"loss": 0.7 / one.epoch}) for one in hold_out[2:]]
    write(tmp_path, repeated, done=hold_out[:2])
    killed.close()
    expected = [(one.epoch, one.loss) for one in [*hold_out[:2], *repeated]]
    assert scalars(tmp_path / "hold-out", "loss") == expected


def test_resuming_in_the_refit_leaves_the_hold_outs_run_unchanged(tmp_path):
    record = run_record()
    before = [*record.stage("hold-out"), *record.stage("refit")[:2]]
    write(tmp_path, before)
    write(tmp_path, record.stage("refit")[2:], done=before)
    for stage in ("hold-out", "refit"):
        steps = [step for step, _ in scalars(tmp_path / stage, "loss")]
        assert steps == [one.epoch for one in record.stage(stage)]


def test_a_kill_in_the_middle_of_a_record_loses_that_record_only(tmp_path):
    write(tmp_path, [epoch("refit", 1), epoch("refit", 2)])
    (file,) = (tmp_path / "refit").iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    write(tmp_path, [epoch("refit", 2), epoch("refit", 3)], done=[epoch("refit", 1)])
    assert [step for step, _ in scalars(tmp_path / "refit", "pairs_per_second")] == [1, 2, 3]


def test_the_end_of_a_fit_writes_settings_and_metrics(tmp_path):
    record = run_record(configuration={"factors": 64, "hidden": [64, 32], "embeddings": True, "decay": None})
    events = EventWriter(tmp_path)
    events.close(record)
    events.close(record)  # a fit that was killed before its last event, and resumed
    assert scalars(tmp_path, "NeuCF/ndcg@10") == [(record.chosen_epoch, record.qualities["NeuCF"]["ndcg@10"])]
    assert len(scalars(tmp_path, "popularity/hr@10")) == 1
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    content = accumulator.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["factors"].number_value == 64
    assert settings["embeddings"].number_value == 1
    assert settings["decay"].string_value == "None"
    assert settings["hidden"].string_value == "[64, 32]"
    assert settings["seed"].number_value == record.seed


def test_a_loss_of_nan_is_written_as_nan(tmp_path):
    write(tmp_path, [epoch("hold-out", 1, loss=math.nan)])
    accumulator = EventAccumulator(str(tmp_path / "hold-out"))
    accumulator.Reload()
    assert math.isnan(accumulator.Scalars("loss")[0].value)
