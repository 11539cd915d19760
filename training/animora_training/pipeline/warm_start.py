"""Warm starts: the state that a fit saves, and the initialization of a later fit with new users and posts."""

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
from animora_training.data.arrays import explain_write_errors, replace_file
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
# A warm start has few epochs. On MovieLens 1M, doubling the learning rate of 0.001 came closer to a fit from
# scratch than keeping or quadrupling it.
WARM_RATE = 2.0
HIGHEST_RATE = 0.01
# Enough ALS iterations to take in the interactions of a day.
WARM_ALS_ITERATIONS = 3


@dataclass(frozen=True, slots=True)
class WarmStartState:
    """Trained state of a fit, from which a later fit can start.

    Attributes:
        version: The version that the fit made.
        factorisation: The factorisation that training started from; None without one.
        vocabulary: Id → row.
        start: Trained tables and layers, on the CPU; user rows do not include the histories.
    """

    version: str
    factorisation: Factorisation | None
    vocabulary: Vocabulary
    start: Initialization

    def write(self, path: Path) -> None:
        """Writes an `.npz` file, atomically.

        Raises:
            CannotWrite: The disk is full, or failed.
        """
        network = self.start.network
        layers = {f"{LAYER}{name}": value.detach().numpy() for name, value in network.named_parameters()}
        factors: dict[str, npt.NDArray[Any]] = {}
        if self.factorisation is not None:
            factors = {
                "strength": np.array(astuple(self.factorisation.settings), np.float64),
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
        with replace_file(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy types its own keyword as positional

    @classmethod
    def read(cls, path: Path) -> "WarmStartState":
        """Reads a file from `write`. Nothing is unpickled; the archive has a checksum for each array.

        Raises:
            InvalidInput: The file is missing, damaged or of another kind.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
                arrays = {name: kept[name] for name in kept.files}
            vocabulary = Vocabulary(arrays["user_ids"], arrays["post_ids"])
            shape = TypeAdapter(NetworkShape).validate_json(str(arrays["shape"]))
            if (shape.users, shape.posts) != (len(vocabulary.user_ids) + 1, len(vocabulary.post_ids) + 1):
                raise ValueError("the number of ids differs from the number of rows")
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
            reason = " ".join(str(error).split())  # PyTorch's text may have several lines
            raise InvalidInput(f"{path}: cannot be started from: {reason}") from error


@dataclass(frozen=True, slots=True)
class ParentVersion:
    """An earlier fit to start from.

    Attributes:
        state: Trained state of the earlier fit.
        seen: The pairs that it was trained on.
    """

    state: WarmStartState
    seen: SeenPairs

    @classmethod
    def read(cls, folder: Path) -> "ParentVersion":
        """Reads a folder from `copy_warm_start_files`.

        Raises:
            InvalidInput: A file is damaged.
        """
        return cls(WarmStartState.read(folder / NETWORK), SeenPairs.open(folder))

    def initialization_for(
        self, data: TrainingSet, config: FitConfig, group: ProcessGroup
    ) -> tuple[Initialization, Factorisation | None]:
        """Initializes a network for new data from the tables of the earlier fit.

        Known users and posts keep their rows. The factorisation is updated to the data by a few ALS
        iterations, and the change of the factors is added to the GMF branch, so that what training added is
        kept. New users get their factors and otherwise a random row; new posts get their factors and
        otherwise the unknown row.

        Args:
            data: Training data, with embeddings of the earlier fit's widths.
            config: The recipe, with the earlier fit's widths.
            group: The processes that share the user rows.

        Returns:
            The initialization with this process's user rows, and the factorisation of the data; None if the
            earlier fit had none or the recipe has none.
        """
        fresh, theirs = new_initialization(data, config, group=group), self.state.start.network
        users = _rows(self.state.vocabulary.user_ids, data.vocabulary.user_ids)
        posts = _rows(self.state.vocabulary.post_ids, data.vocabulary.post_ids)
        new_users, new_posts = users == UNKNOWN_ROW, posts == UNKNOWN_ROW
        my_new = group.own_rows(new_users)
        user_rows = torch.where(
            my_new[:, None], fresh.network.user_table, theirs.user_table[group.own_rows(users)]
        )
        post_rows = theirs.post_table[posts]
        history = self.state.start.history[posts].masked_fill(new_posts[:, None], 0.0)
        factorisation, earlier = None, self.state.factorisation
        if earlier is not None and config.factorisation == "als":
            # New users and posts have zeros.
            before = Factorisation(earlier.users[users], earlier.posts[posts], earlier.settings)
            factorisation = group.on_rank_zero(
                lambda: factorize(data, config, before.settings, before, group.threads)
            )
            gmf = slice(config.factors)
            user_rows[my_new, gmf] = 0.0
            post_rows[new_posts, gmf] = 0.0
            post_rows[UNKNOWN_ROW] = theirs.post_table[UNKNOWN_ROW]
            user_rows[:, gmf] += group.own_rows(factorisation.users - before.users) * math.sqrt(LOGITS)
            post_rows[:, gmf] += (factorisation.posts - before.posts) * math.sqrt(LOGITS)
        layers = {name: value.detach().clone() for name, value in theirs.named_parameters()}
        shape = replace(theirs.shape, users=data.users, posts=len(data.counts))
        return _start(shape, layers, user_rows, post_rows, history), factorisation

    def require_recipe(self, config: FitConfig) -> None:
        """Checks that a recipe has the widths of the earlier fit's network.

        Raises:
            InvalidOption: A width differs.
        """
        theirs = self.state.start.network.shape
        for name in ("factors", "mlp_embedding", "hidden", "feature_width"):
            mine, parents = getattr(config, name), getattr(theirs, name)
            if mine != parents:
                raise InvalidOption(
                    "--warm-start",
                    f"{self.state.version} has {name}={parents}, this fit {name}={mine}: "
                    "give both the same by --set, or fit from scratch",
                )

    def require_widths(self, dataset: Dataset) -> None:
        """Checks that the posts' embeddings have the widths of the earlier fit's network.

        Raises:
            WidthMismatch: A width differs.
        """
        theirs = self.state.start.network.shape
        for name, embeddings in (("image", dataset.posts.image), ("caption", dataset.posts.caption)):
            mine, parents = embeddings.shape[1], getattr(theirs, name)
            if mine != parents:
                raise WidthMismatch(
                    f"{self.state.version} takes {name} embeddings that are {parents} wide, "
                    f"those of the data are {mine} wide (0: there are none)"
                )


def warm_recipe(config: FitConfig) -> FitConfig:
    """The recipe of a warm start: `warm_epochs` epochs without early stopping, few ALS iterations."""
    rate = max(min(config.learning_rate * WARM_RATE, HIGHEST_RATE), config.learning_rate)
    epochs = config.warm_epochs
    iterations = min(config.als_iterations, WARM_ALS_ITERATIONS)
    return replace(config, max_epochs=epochs, patience=epochs, learning_rate=rate, als_iterations=iterations)


def copy_warm_start_files(network: Path, data: Path, folder: Path) -> None:
    """Links or copies the files that a warm start needs from a finished run into a folder, replacing it.

    Args:
        network: The run's `network.npz`.
        data: The run's data folder.
        folder: The target.

    Raises:
        InvalidInput: A file is missing.
        CannotWrite: The disk is full, or the folder is not writable.
    """
    staging = folder.with_name(f"{folder.name}.new")
    sources = [network, *(data / name for name in PAIRS)]
    if missing := [source for source in sources if not os.path.exists(source)]:  # Path's own may raise
        raise InvalidInput(
            f"--warm-start: there is no {missing[0]}: name the --run-dir of a fit that has ended"
        )
    with explain_write_errors(folder):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        for source in sources:
            _link(source, staging / source.name)
        sync_folder(staging)
        shutil.rmtree(folder, ignore_errors=True)
        replace_durably(staging, folder)


def _link(source: Path, target: Path) -> None:
    """Hard-links an immutable file; copies it if the file system cannot link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        sync_file(target)


def _rows(known: npt.NDArray[np.int64], ids: npt.NDArray[np.int64]) -> Tensor:
    """Earlier rows int64 (1 + n) of the unknown row and of ids (n); UNKNOWN_ROW for new ids."""
    return torch.from_numpy(np.append(UNKNOWN_ROW, RowIndex(known).rows(ids)))


def _start(
    shape: NetworkShape, layers: dict[str, Tensor], user_rows: Tensor, post_rows: Tensor, history: Tensor
) -> Initialization:
    """Raises RuntimeError or ValueError if a tensor has another shape or is not finite."""
    network = NeuCF.holding(shape, {**layers, "user_table": user_rows, "post_table": post_rows})
    if history.shape != post_rows.shape:
        raise ValueError("the shapes of history and post rows differ")
    _check_finite(*layers.values(), user_rows, post_rows, history)
    return Initialization(network, history)


def _factorisation(arrays: dict[str, npt.NDArray[Any]], shape: NetworkShape) -> Factorisation | None:
    """Raises KeyError or ValueError if an array is missing, has another shape, or is not finite."""
    if "strength" not in arrays:
        return None
    users, posts = _floats(arrays, "user_factors"), _floats(arrays, "post_factors")
    if (users.shape, posts.shape) != ((shape.users, shape.factors), (shape.posts, shape.factors)):
        raise ValueError("the shapes of factors and rows differ")
    _check_finite(users, posts)
    return Factorisation(users, posts, AlsSettings(*arrays["strength"].tolist()))


def _check_finite(*tensors: Tensor) -> None:
    if not all(torch.isfinite(values).all() for values in tensors):
        raise ValueError("some numbers are not finite")


def _floats(arrays: dict[str, npt.NDArray[Any]], name: str) -> Tensor:
    """A float32 array as a tensor. Raises KeyError or ValueError for a missing array or another dtype."""
    if arrays[name].dtype != np.float32:
        raise ValueError(f"{name} is {arrays[name].dtype}")
    return torch.from_numpy(arrays[name])
