"""A network that checks its arguments before it calls TorchScript, and scores a pair alike in any batch."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from animora_artifact.manifest import Dimensions
from animora_artifact.network import Network

Rows = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]

# On a CPU, the libraries behind PyTorch compute the rows of a matrix product in blocks, and the remainder by
# other instructions, which sum in another order. Batches are filled up with row 0 to whole blocks, so that
# the bits of a pair's logit do not depend on other pairs. 16 rows suffice for one thread, 64 for several.
BLOCK = 64


class CheckedNetwork:
    """A Network that checks shapes, dtypes and, on the CPU, row ranges, before it calls another network.

    On a CPU, `encode_posts` and `score` return the same bits for a post or a pair in any batch, if PyTorch's
    threads are a power of two: with others it splits products within a block.

    On a GPU the range check would wait for the device: callers check rows before copying them.

    Each method raises ValueError for a wrong shape or dtype, and IndexError for a row out of range.

    Args:
        network: The network to call.
        dimensions: Dimensions of the network.
    """

    def __init__(self, network: Network, dimensions: Dimensions) -> None:
        self._network = network
        self._dimensions = dimensions

    def encode_posts(self, post_rows: Tensor, image: Tensor, caption: Tensor) -> Tensor:
        """See Network."""
        sizes = self._dimensions
        _require_rows("post_rows", post_rows, sizes.posts)
        _require_shape("image", image, (post_rows.shape[0], sizes.image))
        _require_shape("caption", caption, (post_rows.shape[0], sizes.caption))
        count = len(post_rows)
        if post_rows.device.type == "cpu" and (missing := -count % BLOCK):
            post_rows = functional.pad(post_rows, (0, missing))
            image = functional.pad(image, (0, 0, 0, missing))
            caption = functional.pad(caption, (0, 0, 0, missing))
        return _first(self._network.encode_posts(post_rows, image, caption), count, len(post_rows))

    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        """See Network."""
        self._require_pairs(user_rows, segments, post_table, post_index)
        count = len(post_index)
        if post_index.device.type == "cpu" and (missing := -count % BLOCK):
            segments = functional.pad(segments, (0, missing))
            post_index = functional.pad(post_index, (0, missing))
        logits = self._network.score(user_rows, segments, post_table, post_index)
        return _first(logits, count, len(post_index))

    def score_arrays(self, user_rows: Rows, segments: Rows, post_table: Tensor, post_index: Rows) -> Logits:
        """`score` on the CPU with NumPy arrays, which are faster to check. Call it in inference mode."""
        require_rows("user_rows", user_rows, self._dimensions.users)
        require_rows("segments", segments, len(user_rows))
        _require_width(post_table, self._dimensions.post_vector)
        require_rows("post_index", post_index, post_table.shape[0])
        count = len(post_index)
        if len(segments) != count:
            raise ValueError(f"segments has {len(segments)} pairs; must be {count}")
        segments, post_index = _in_blocks(segments), _in_blocks(post_index)
        logits = self._network.score(
            torch.from_numpy(user_rows), torch.from_numpy(segments), post_table, torch.from_numpy(post_index)
        )
        values: Logits = _first(logits, count, len(post_index)).float().numpy()
        return values

    def explain(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        """See Network."""
        self._require_pairs(user_rows, segments, post_table, post_index)
        return self._network.explain(user_rows, segments, post_table, post_index)

    def __getattr__(self, name: str) -> object:
        """Forwards further attributes of the network, such as `compiled_tensors`."""
        return getattr(self._network, name)

    def _require_pairs(
        self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor
    ) -> None:
        _require_rows("user_rows", user_rows, self._dimensions.users)
        _require_rows("segments", segments, user_rows.shape[0])
        _require_width(post_table, self._dimensions.post_vector)
        _require_rows("post_index", post_index, post_table.shape[0])
        _require_shape("segments", segments, tuple(post_index.shape))


def _in_blocks(rows: Rows) -> Rows:
    """Rows int64 (m), filled up with row 0 to whole blocks."""
    count = len(rows)
    if count % BLOCK == 0:
        return rows
    filled = np.zeros(count - count % BLOCK + BLOCK, np.int64)
    filled[:count] = rows
    return filled


def _first(values: Tensor, count: int, filled: int) -> Tensor:
    """The values of the first `count` rows of a batch of `filled`; a wrong length is left to the caller."""
    return values[:count] if filled > count and len(values) == filled else values


def _require_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; must be {shape}")


def _require_width(post_table: Tensor, width: int) -> None:
    if post_table.ndim != 2 or post_table.shape[1] != width:
        raise ValueError(f"post_table has shape {tuple(post_table.shape)}; must be {width} wide")


def _require_rows(name: str, rows: Tensor, size: int) -> None:
    """Checks rows int64 (n) of a table of `size` rows; the range on the CPU only."""
    if rows.dtype != torch.int64 or rows.ndim != 1:
        raise ValueError(f"{name} is {rows.dtype} with {rows.ndim} dimensions; must be int64 with 1")
    if rows.device.type == "cpu":
        require_rows(name, rows.numpy(), size)


def require_rows(name: str, rows: Rows, size: int) -> None:
    """Checks that rows int64 (n) are in [0, size). Raises IndexError."""
    if not len(rows):
        return
    unsigned = rows.view(np.uint64)  # negative rows become large: one pass checks both bounds
    if unsigned.item(unsigned.argmax()) >= size:  # twice as fast as max
        raise IndexError(f"{name} must be in [0, {size})")
