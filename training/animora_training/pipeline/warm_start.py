"""What a fit leaves for a later one, and the start that it gives where users and posts have come since."""

import json
import math
import os
import shutil
import zipfile
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter
from torch import Tensor

from animora_artifact import Vocabulary
from animora_artifact.durability import replace_durably, sync_file, sync_folder
from animora_artifact.vocabulary import UNKNOWN_ROW, RowIndex
from animora_training.data.arrays import explained, replacing
from animora_training.data.dataset import Dataset
from animora_training.errors import InvalidInput, InvalidOption, WidthMismatch
from animora_training.modeling.config import FitConfig
from animora_training.modeling.factorisation import AlsSettings, Factorisation, factorize
from animora_training.modeling.initialization import LOGITS, Initialization, new_initialization
from animora_training.modeling.network import NetworkShape, NeuCF
from animora_training.modeling.process_group import ProcessGroup
from animora_training.modeling.training_set import TrainingSet
from animora_training.pipeline.seen_pairs import PAIRS, SeenPairs

NETWORK = "network.npz"
LAYER = "layer."
# A few epochs must move what many have learnt: on MovieLens 1M, twice the learning rate 0.001 came nearer to
# a fit from scratch than once or four times it.
WARM_RATE = 2.0
HIGHEST_RATE = 0.01
# What a day changes of a factorisation, so many iterations find, nearly.
WARM_ALS_ITERATIONS = 3


@dataclass(frozen=True, slots=True)
class WarmStartState:
    """What a fit has learnt.

    Attributes:
        version: The version that it made.
        factorisation: What its training started from; None where that was chance.
        vocabulary: Id → row.
        start: On the CPU; users' rows are without their histories.
    """

    version: str
    factorisation: Factorisation | None
    vocabulary: Vocabulary
    start: Initialization

    def write(self, path: Path) -> None:
        """Writes an `.npz` file in place of one that is there.

        Raises:
            CannotWrite: The disk is full, or failed.
        """
        network = self.start.network
        layers = {f"{LAYER}{name}": value.detach().numpy() for name, value in network.named_parameters()}
        factors: dict[str, npt.NDArray[Any]] = {}
        if self.factorisation is not None:
            factors = {
                "strength": np.array(astuple(self.factorisation.strength), np.float64),
                "user_factors": self.factorisation.users.numpy(),
                "post_factors": self.factorisation.posts.numpy(),
            }
        arrays: dict[str, npt.NDArray[Any]] = {
            "version": np.array(self.version),
            "shape": np.array(json.dumps(asdict(network.shape))),
            "user_ids": self.vocabulary.user_ids,
            "post_ids": self.vocabulary.post_ids,
            "user_rows": network.user_table.numpy(),
            "post_rows": network.post_table.numpy(),
            "history_rows": self.start.history.numpy(),
            **layers,
            **factors,
        }
        with replacing(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy types its own keyword as positional

    @classmethod
    def read(cls, path: Path) -> "WarmStartState":
        """Reads what `write` wrote; nothing is unpickled, and every array has a checksum.

        Raises:
            InvalidInput: It is not that, or was damaged.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
                arrays = {name: kept[name] for name in kept.files}
            vocabulary = Vocabulary(arrays["user_ids"], arrays["post_ids"])
            shape = TypeAdapter(NetworkShape).validate_json(str(arrays["shape"]))
            if (shape.users, shape.posts) != (len(vocabulary.user_ids) + 1, len(vocabulary.post_ids) + 1):
                raise ValueError("the ids are not those of the rows")
            names = [name for name in arrays if name.startswith(LAYER)]
            layers = {name.removeprefix(LAYER): _floats(arrays, name) for name in names}
            tables = (_floats(arrays, name) for name in ("user_rows", "post_rows", "history_rows"))
            start = _start(shape, layers, *tables)
            return cls(str(arrays["version"]), _factorisation(arrays, shape), vocabulary, start)
        except (
            OSError,
            ValueError,
            TypeError,
            KeyError,
            EOFError,
            RuntimeError,
            zipfile.BadZipFile,
        ) as error:
            reason = " ".join(str(error).split())  # PyTorch's may have several lines
            raise InvalidInput(f"{path}: cannot be started from: {reason}") from error


@dataclass(frozen=True, slots=True)
class ParentVersion:
    """An earlier fit to start from.

    Attributes:
        learnt: What it has learnt.
        seen: From which pairs.
    """

    learnt: WarmStartState
    seen: SeenPairs

    @classmethod
    def read(cls, folder: Path) -> "ParentVersion":
        """The one in a folder that `keep` made.

        Raises:
            InvalidInput: It is damaged.
        """
        return cls(WarmStartState.read(folder / NETWORK), SeenPairs.open(folder))

    def grown(
        self, data: TrainingSet, config: FitConfig, ranks: ProcessGroup
    ) -> tuple[Initialization, Factorisation | None]:
        """What has been learnt, with a row for each of the data's posts, and of its users this process's.

        Who is known keeps the row, but for what has changed in the factorisation: this is brought up to the
        data in a few iterations, for small steps would take many epochs, and what training had changed of
        the GMF branch is kept. The rest of a new user is as in any fit, that of a new post as the unknown
        post's.

        Args:
            data: What to go on with, with embeddings of the earlier fit's widths.
            config: The recipe, of the earlier fit's widths.
            ranks: The processes that share the user rows.

        Returns:
            The start, and the data's factorisation; None where there was none before, or is to be none.

        """
        fresh, theirs = new_initialization(data, config, ranks=ranks), self.learnt.start.network
        users = _rows(self.learnt.vocabulary.user_ids, data.vocabulary.user_ids)
        posts = _rows(self.learnt.vocabulary.post_ids, data.vocabulary.post_ids)
        new_users, new_posts = users == UNKNOWN_ROW, posts == UNKNOWN_ROW
        my_new = ranks.share(new_users)
        user_rows = torch.where(
            my_new[:, None], fresh.network.user_table, theirs.user_table[ranks.share(users)]
        )
        post_rows = theirs.post_table[posts]
        history = self.learnt.start.history[posts].masked_fill(new_posts[:, None], 0.0)
        factorisation, earlier = None, self.learnt.factorisation
        if earlier is not None and config.factorisation == "als":
            # With zeros for who is new.
            before = Factorisation(earlier.users[users], earlier.posts[posts], earlier.strength)
            factorisation = ranks.once(
                lambda: factorize(data, config, before.strength, before, ranks.threads)
            )
            gmf = slice(config.factors)
            user_rows[my_new, gmf] = 0.0
            post_rows[new_posts, gmf] = 0.0
            post_rows[UNKNOWN_ROW] = theirs.post_table[UNKNOWN_ROW]
            user_rows[:, gmf] += ranks.share(factorisation.users - before.users) * math.sqrt(LOGITS)
            post_rows[:, gmf] += (factorisation.posts - before.posts) * math.sqrt(LOGITS)
        layers = {name: value.detach().clone() for name, value in theirs.named_parameters()}
        shape = replace(theirs.shape, users=data.users, posts=len(data.counts))
        return _start(shape, layers, user_rows, post_rows, history), factorisation

    def require_recipe(self, config: FitConfig) -> None:
        """Checks that a recipe makes a network of the widths that the earlier fit's has.

        Raises:
            InvalidOption: It does not.
        """
        theirs = self.learnt.start.network.shape
        for name in ("factors", "mlp_embedding", "hidden", "feature_width"):
            mine, parents = getattr(config, name), getattr(theirs, name)
            if mine != parents:
                raise InvalidOption(
                    "--warm-start",
                    f"{self.learnt.version} has {name}={parents}, this fit {name}={mine}: "
                    "give both the same by --set, or fit from scratch",
                )

    def require_widths(self, dataset: Dataset) -> None:
        """Checks that the posts' embeddings are as wide as the earlier fit's network takes them.

        Raises:
            WidthMismatch: They are not.
        """
        theirs = self.learnt.start.network.shape
        for name, embeddings in (("image", dataset.posts.image), ("caption", dataset.posts.caption)):
            mine, parents = embeddings.shape[1], getattr(theirs, name)
            if mine != parents:
                raise WidthMismatch(
                    f"{self.learnt.version} takes {name} embeddings that are {parents} wide, "
                    f"those of the data are {mine} wide (0: there are none)"
                )


def warm_recipe(config: FitConfig) -> FitConfig:
    """How a fit with a parent trains: a few epochs and all of them, over which the learning rate falls.

    Its factorisation takes a few iterations, too.
    """
    rate = max(min(config.learning_rate * WARM_RATE, HIGHEST_RATE), config.learning_rate)
    epochs = config.warm_epochs
    iterations = min(config.als_iterations, WARM_ALS_ITERATIONS)
    return replace(config, max_epochs=epochs, patience=epochs, learning_rate=rate, als_iterations=iterations)


def keep(network: Path, data: Path, folder: Path) -> None:
    """Puts what a later fit needs of a finished one into a folder of its own, in place of what is there.

    Raises:
        InvalidInput: A file is not there.
        CannotWrite: The disk is full, or the folder may not be written.
    """
    staging = folder.with_name(f"{folder.name}.new")
    sources = [network, *(data / name for name in PAIRS)]
    if missing := [source for source in sources if not os.path.exists(source)]:  # Path's own may raise
        raise InvalidInput(
            f"--warm-start: there is no {missing[0]}: name the --run-dir of a fit that has ended"
        )
    with explained(folder):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        for source in sources:
            _link(source, staging / source.name)
        sync_folder(staging)
        shutil.rmtree(folder, ignore_errors=True)
        replace_durably(staging, folder)


def _link(source: Path, target: Path) -> None:
    """A second name for a file that nobody writes to any more; a copy where its disk cannot do that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        sync_file(target)


def _rows(known: npt.NDArray[np.int64], ids: npt.NDArray[np.int64]) -> Tensor:
    """The rows int64 (1 + n) of the unknown row and of ids (n) among known ones; UNKNOWN_ROW of new ones."""
    return torch.from_numpy(np.append(UNKNOWN_ROW, RowIndex(known).rows(ids)))


def _start(
    shape: NetworkShape, layers: dict[str, Tensor], user_rows: Tensor, post_rows: Tensor, history: Tensor
) -> Initialization:
    """Raises RuntimeError or ValueError where something is not of the shape, or not finite."""
    network = NeuCF.holding(shape, {**layers, "user_table": user_rows, "post_table": post_rows})
    if history.shape != post_rows.shape:
        raise ValueError("the history's rows are not those of the posts")
    _check_finite(*layers.values(), user_rows, post_rows, history)
    return Initialization(network, history)


def _factorisation(arrays: dict[str, npt.NDArray[Any]], shape: NetworkShape) -> Factorisation | None:
    """Raises KeyError or ValueError where something is missing, not of the shape, or not finite."""
    if "strength" not in arrays:
        return None
    users, posts = _floats(arrays, "user_factors"), _floats(arrays, "post_factors")
    if (users.shape, posts.shape) != ((shape.users, shape.factors), (shape.posts, shape.factors)):
        raise ValueError("the factors are not those of the rows")
    _check_finite(users, posts)
    return Factorisation(users, posts, AlsSettings(*arrays["strength"].tolist()))


def _check_finite(*tensors: Tensor) -> None:
    if not all(torch.isfinite(values).all() for values in tensors):
        raise ValueError("not all its numbers are finite")


def _floats(arrays: dict[str, npt.NDArray[Any]], name: str) -> Tensor:
    """An array of 32-bit numbers. Raises KeyError or ValueError where it is none."""
    if arrays[name].dtype != np.float32:
        raise ValueError(f"{name} is {arrays[name].dtype}")
    return torch.from_numpy(arrays[name])
