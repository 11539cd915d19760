"""What NeuCF starts from, judged like NeuCF: the factorisation that a version's fit began with."""

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
from tests.benchmarks.trainers import start
from tests.support.datasets import as_dataset


@dataclass(frozen=True, slots=True)
class Beginnings:
    """A data set in the NCF format, and its held-out pairs.

    Attributes:
        dataset: What the database shows of it.
        held_out: Its test pairs that have something to be ranked among, in their order.
        left_out: How many have not.
    """

    dataset: Dataset
    held_out: HeldOut
    left_out: int

    @classmethod
    def of(cls, folder: Path) -> "Beginnings":
        """Reads a folder.

        Raises:
            InvalidInput: It is not in the format.
            NothingToLearn: No pair has anything to be ranked among.
        """
        dataset = as_dataset(read_feed(folder))
        everything = read_held_out(folder, dataset).held_out
        held_out = everything.with_negatives(1)
        if not len(held_out.users):
            raise NothingToLearn(f"{folder}: no test pair has another item to be ranked among")
        return cls(dataset, held_out, len(everything.users) - len(held_out.users))

    def ranks(self, artifact: Artifact, served: ServedRanks) -> IntArray:
        """Ranks int64 (m) of the held-out posts by a version's network before its first step.

        Whoever the server's heuristic ranked for keeps the rank.
        """
        config = config_of(artifact.manifest)
        dataset = self.dataset if config.embeddings else self.dataset.without_embeddings()
        data = training_set(dataset, dataset.pairs)
        network = FoldedNeuCF(start(data, config).network()).eval()
        scores = PostScorer(network, data.vocabulary, dataset).candidates(self.held_out)
        return np.where(served.personal, rank_held_out(dataset.posts, scores, self.held_out), served.ranks)


def config_of(manifest: Manifest) -> FitConfig:
    """The recipe of a version, with the strength of the factorisation that its fit chose."""
    names = [field.name for field in fields(FitConfig)]
    values = {name: value for name, value in manifest.hyperparameters.items() if name in names}
    return TypeAdapter(FitConfig).validate_python(values)
