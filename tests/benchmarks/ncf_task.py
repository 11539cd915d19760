"""A data set in the NCF format, and the ranks of its held-out pairs before the first step of training."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from animora_artifact import Artifact, Manifest
from animora_training.data.dataset import Dataset, IntArray
from animora_training.data.split import HeldOut
from animora_training.errors import NothingToLearn
from animora_training.evaluation.network_ranking import PostScorer, rank_held_out
from animora_training.importers.ncf_evaluation import read_held_out
from animora_training.importers.ncf_import import read_feed
from animora_training.modeling.config import FitConfig
from animora_training.modeling.training_set import training_set
from animora_training.pipeline.export import FoldedNeuCF
from tests.benchmarks.served import ServedRanks
from tests.benchmarks.trainers import new_trainer
from tests.support.datasets import as_dataset


@dataclass(frozen=True, slots=True)
class NcfTask:
    """A data set in the NCF format, and its held-out pairs.

    Attributes:
        dataset: The data set as the database shows it.
        held_out: The test pairs with a negative, in the order of the file.
        left_out: Number of test pairs without a negative.
    """

    dataset: Dataset
    held_out: HeldOut
    left_out: int

    @classmethod
    def of(cls, folder: Path) -> "NcfTask":
        """Reads a folder.

        Raises:
            InvalidInput: The folder is not in the format.
            NothingToLearn: No test pair has a negative.
        """
        dataset = as_dataset(read_feed(folder))
        everything = read_held_out(folder, dataset).held_out
        held_out = everything.with_negatives(1)
        if not len(held_out.users):
            raise NothingToLearn(f"{folder}: no test pair has another item to be ranked among")
        return cls(dataset, held_out, len(everything.users) - len(held_out.users))

    def initial_ranks(self, artifact: Artifact, served: ServedRanks) -> IntArray:
        """Ranks int64 (m) of the held-out posts by a version's network before its first step.

        Pairs that the server ranked by the heuristic keep that rank.
        """
        config = config_of(artifact.manifest)
        dataset = self.dataset if config.embeddings else self.dataset.without_embeddings()
        data = training_set(dataset, dataset.pairs)
        network = FoldedNeuCF(new_trainer(data, config).network()).eval()
        scores = PostScorer(network, data.vocabulary, dataset).candidates(self.held_out)
        return np.where(served.personal, rank_held_out(dataset.posts, scores, self.held_out), served.ranks)


def config_of(manifest: Manifest) -> FitConfig:
    """The recipe of a version, with the ALS settings that its fit chose."""
    names = [field.name for field in fields(FitConfig)]
    values = {name: value for name, value in manifest.hyperparameters.items() if name in names}
    return TypeAdapter(FitConfig).validate_python(values)
