"""TensorBoard events of a fit: scalars of each epoch and stage, hyper-parameters, metrics."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from animora_training.data.arrays import explain_write_errors
from animora_training.pipeline.record import EpochRecord, RunRecord, Stage


class EventWriter:
    """Writes event files into a folder, for `tensorboard --logdir`.

    Each stage (`hold-out`, `refit`) is a separate TensorBoard run, so that their epochs share an axis.
    `close` adds a row to the table of hyper-parameters.

    Call `epoch` before the checkpoint of the epoch is written: a fit that is killed in between repeats the
    epoch, and readers drop the events of the first attempt.
    """

    def __init__(self, folder: Path, done: Iterable[EpochRecord] = ()) -> None:
        """Starts new event files, or continues those of a resumed fit.

        Args:
            folder: Folder of the events; created on the first write.
            done: Epochs that a resumed fit does not repeat; readers drop the events of later epochs.
        """
        self._folder = folder
        self._done: Counter[Stage] = Counter(epoch.stage for epoch in done)
        self._writers: dict[Stage, SummaryWriter] = {}

    def epoch(self, epoch: EpochRecord) -> None:
        """Writes an epoch's scalars; they are on disk when it returns.

        Raises:
            CannotWrite: The disk is full, or failed.
        """
        scalars = {
            "loss": epoch.loss,
            "learning_rate": epoch.learning_rate,
            "hr@10": epoch.hr10,
            "ndcg@10": epoch.ndcg10,
            "seconds": epoch.seconds,
            "pairs_per_second": epoch.pairs_per_second,
        }
        with explain_write_errors(self._folder):
            writer = self._writer(epoch.stage)
            for tag, value in scalars.items():
                if value is not None:
                    writer.add_scalar(tag, value, epoch.epoch)
            writer.flush()

    def close(self, record: RunRecord | None = None) -> None:
        """Closes the event files, and writes hyper-parameters and metrics if the record is given.

        Raises:
            CannotWrite: The disk is full, or failed.
        """
        with explain_write_errors(self._folder):
            self._close(record)

    def _close(self, record: RunRecord | None) -> None:
        for writer in self._writers.values():
            writer.close()
        if record is None:
            return
        settings = {
            name: value if isinstance(value, int | float | str) else str(value)
            for name, value in {**record.configuration, "seed": record.seed}.items()
        }
        metrics = {
            f"{name}/{metric}": value
            for name, quality in record.qualities.items()
            for metric, value in quality.items()
        }
        # A fit killed right before its end writes these twice; readers drop the first.
        with SummaryWriter(str(self._folder), purge_step=0) as writer:
            writer.add_hparams(settings, metrics, run_name=".", global_step=record.chosen_epoch)

    def _writer(self, stage: Stage) -> SummaryWriter:
        if stage not in self._writers:
            folder = self._folder / stage
            # Readers drop what an earlier process wrote from this step on.
            self._writers[stage] = SummaryWriter(str(folder), purge_step=self._done[stage] + 1)
        return self._writers[stage]
