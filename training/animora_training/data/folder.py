"""A data set in a folder: `.npy` files, and `dataset.json`, which is written last and describes them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from animora_artifact.durability import sync_file
from animora_training.data.arrays import map_array, replace_file
from animora_training.data.dataset import Dataset, Interactions, Posts
from animora_training.errors import InvalidInput

FORMAT = "animora-dataset-1"
DESCRIPTION = "dataset.json"
# In the order of removal: without the description the folder is not a data set.
FILES = (
    DESCRIPTION,
    *("user_ids.npy", "blocks.npy"),
    *("post_ids.npy", "post_authors.npy", "post_created.npy", "post_deleted.npy"),
    *("post_image.npy", "post_caption.npy"),
    *("event_offsets.npy", "event_posts.npy", "event_times.npy"),
    *("pair_offsets.npy", "pair_posts.npy", "pair_times.npy"),
)


@dataclass(frozen=True, slots=True)
class Description:
    """Description of a data set's folder.

    Attributes:
        format: FORMAT.
        read_at: Time of the database snapshot.
        users: Number of users.
        posts: Number of posts.
        events: Number of likes and comments.
        pairs: Number of distinct pairs.
        blocks: Number of blocks, each counted in both directions.
        image: Width of image embeddings.
        caption: Width of caption embeddings.
        digest: SHA-256 of the ids and of the pairs, in hexadecimal digits.
        left_out: Numbers of rows left out, by view and reason, such as "posts.missing".
    """

    format: str
    read_at: datetime
    users: int
    posts: int
    events: int
    pairs: int
    blocks: int
    image: int
    caption: int
    digest: str
    left_out: Mapping[str, int] = field(default_factory=dict)

    def arrays(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Dtype and shape of each array, by its file's name without `.npy`."""
        return {
            "user_ids": ("int64", (self.users,)),
            "post_ids": ("int64", (self.posts,)),
            "post_authors": ("int64", (self.posts,)),
            "post_created": ("float64", (self.posts,)),
            "post_deleted": ("bool", (self.posts,)),
            "post_image": ("float16", (self.posts, self.image)),
            "post_caption": ("float16", (self.posts, self.caption)),
            "event_offsets": ("int64", (self.users + 1,)),
            "event_posts": ("int32", (self.events,)),
            "event_times": ("float64", (self.events,)),
            "pair_offsets": ("int64", (self.users + 1,)),
            "pair_posts": ("int32", (self.pairs,)),
            "pair_times": ("float64", (self.pairs,)),
            "blocks": ("int64", (self.blocks, 2)),
        }


def finish(folder: Path, read_at: datetime, left_out: Mapping[str, int]) -> Dataset:
    """Writes the description of a folder whose arrays are complete, and opens the data set.

    Raises:
        CannotWrite: The disk is full, or failed.
    """
    names = ("user_ids", "post_ids", "pair_offsets", "pair_posts", "pair_times")
    user_ids, post_ids, offsets, pair_posts, times = (map_array(folder / f"{name}.npy") for name in names)
    digest = hashlib.sha256()
    for array in (user_ids, post_ids, offsets, pair_posts, times):
        digest.update(array.data)
    description = Description(
        format=FORMAT,
        read_at=read_at,
        users=len(user_ids),
        posts=len(post_ids),
        events=len(map_array(folder / "event_posts.npy")),
        pairs=len(pair_posts),
        blocks=len(map_array(folder / "blocks.npy")),
        image=map_array(folder / "post_image.npy").shape[1],
        caption=map_array(folder / "post_caption.npy").shape[1],
        digest=digest.hexdigest(),
        left_out=left_out,
    )
    fields = {**asdict(description), "read_at": read_at.isoformat()}
    with replace_file(folder / DESCRIPTION) as file:
        for name in description.arrays():
            sync_file(folder / f"{name}.npy")
        file.write(json.dumps(fields, indent=2).encode() + b"\n")
    return open_dataset(folder)


def describe(folder: Path) -> Description:
    """Reads the description of a folder.

    Raises:
        InvalidInput: The folder holds no data set, or an incomplete one.
    """
    path = folder / DESCRIPTION
    try:
        description = TypeAdapter(Description).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InvalidInput(f"{folder}: holds no data set, or an incomplete one: read it again") from None
    except (OSError, ValidationError) as error:
        raise InvalidInput(f"{path}: does not describe a data set: {error}") from error
    if description.format != FORMAT:
        raise InvalidInput(f"{path}: has the format {description.format!r}, not {FORMAT!r}: read it again")
    return description


def open_dataset(folder: Path) -> Dataset:
    """Opens the data set in a folder, memory-mapped and read-only.

    Raises:
        InvalidInput: The folder holds no data set, an incomplete one, or one that was changed.
    """
    arrays = {}
    for name, (dtype, shape) in describe(folder).arrays().items():
        path = folder / f"{name}.npy"
        try:
            array = map_array(path)
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{path}: cannot be read: {error}: read the data set again") from error
        if array.dtype != dtype or array.shape != shape:
            raise InvalidInput(
                f"{path}: holds {array.dtype} {array.shape}, but {DESCRIPTION} says {dtype} {shape}: "
                "read the data set again"
            )
        arrays[name] = array
    return Dataset(
        user_ids=arrays["user_ids"],
        posts=Posts(
            ids=arrays["post_ids"],
            authors=arrays["post_authors"],
            created=arrays["post_created"],
            deleted=arrays["post_deleted"],
            image=arrays["post_image"],
            caption=arrays["post_caption"],
        ),
        events=Interactions(arrays["event_offsets"], arrays["event_posts"], arrays["event_times"]),
        pairs=Interactions(arrays["pair_offsets"], arrays["pair_posts"], arrays["pair_times"]),
        blocks=arrays["blocks"],
    )
