"""TensorBoard events of a fit: scalars an epoch for each stage, its hyper-parameters, its qualities."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from animora_training.data.arrays import explained
from animora_training.pipeline.record import EpochRecord, RunRecord, Stage


class EventWriter:
    """Writes below a folder, for `tensorboard --logdir`.

    Each stage is a run of its own (`hold-out`, `refit`), so that their epochs share an axis; `close` adds a
    row to the table of hyper-parameters.

    Call `epoch` before the checkpoint that holds the epoch is written: a fit that is killed between the two
    repeats the epoch, and its first events are dropped.
    """

    def __init__(self, folder: Path, done: Iterable[EpochRecord] = ()) -> None:
        """Starts, or goes on.

        Args:
            folder: Where to; need not exist.
            done: The epochs that a resumed fit need not repeat. Events of later ones are dropped by readers.
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
        with explained(self._folder):
            writer = self._writer(epoch.stage)
            for tag, value in scalars.items():
                if value is not None:
                    writer.add_scalar(tag, value, epoch.epoch)
            writer.flush()

    def close(self, record: RunRecord | None = None) -> None:
        """Ends the events; with the record of a fit that came to its end, also writes what it was.

        Raises:
            CannotWrite: The disk is full, or failed.
        """
        with explained(self._folder):
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
        # Of a fit that was killed at its very end, these are not the first.
        with SummaryWriter(str(self._folder), purge_step=0) as writer:
            writer.add_hparams(settings, metrics, run_name=".", global_step=record.chosen_epoch)

    def _writer(self, stage: Stage) -> SummaryWriter:
        if stage not in self._writers:
            folder = self._folder / stage
            # Whatever an earlier process wrote from this step on is void.
            self._writers[stage] = SummaryWriter(str(folder), purge_step=self._done[stage] + 1)
        return self._writers[stage]
