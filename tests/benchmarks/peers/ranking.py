"""The ranker that every peer serves: top-k of a user's candidates by the artifact's network.

It runs in each peer's environment, so it imports NumPy and PyTorch and nothing of Animora.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

CANDIDATES = 200  # of a request
BEST = 10  # posts of a ranking


class PostRanker:
    """An artifact with its posts encoded, on one thread.

    Args:
        folder: Holds the artifact's model.ts and vocabulary.npz, and posts.npz: ids int64 (n), image float16
            (n, w) and caption float16 (n, w).
    """

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        network = torch.jit.load(str(folder / "model.ts"), map_location="cpu").eval()
        self._network = torch.jit.freeze(network, preserved_attrs=["encode_posts", "score"])
        vocabulary, posts = np.load(folder / "vocabulary.npz"), np.load(folder / "posts.npz")
        ids = posts["ids"]
        self._user_rows = _rows(vocabulary["user_ids"], first=1)  # row 0 is the unknown user
        self._post_rows = _rows(ids, first=0)
        in_vocabulary = _rows(vocabulary["post_ids"], first=1, highest=int(ids.max()))
        with torch.inference_mode():
            self._table = self._network.encode_posts(
                torch.from_numpy(in_vocabulary[ids]),
                torch.from_numpy(posts["image"].astype(np.float32)),
                torch.from_numpy(posts["caption"].astype(np.float32)),
            )

    @torch.inference_mode()
    def rank(self, users: IntArray, posts: IntArray) -> tuple[IntArray, FloatArray]:
        """The BEST posts int64 (b, BEST) of each user, best first, and their probabilities float32.

        Args:
            users: int64 (b), known ids.
            posts: int64 (b, k), known ids, BEST or more for each user.
        """
        requests, candidates = posts.shape
        logits = self._network.score(
            torch.from_numpy(self._user_rows[users]),
            torch.arange(requests).repeat_interleave(candidates),
            self._table,
            torch.from_numpy(self._post_rows[posts.reshape(-1)]),
        )
        best = torch.topk(logits.view(requests, candidates), BEST)
        chosen: IntArray = np.take_along_axis(posts, best.indices.numpy(), axis=1)
        probabilities: FloatArray = torch.sigmoid(best.values).numpy()
        return chosen, probabilities


def from_bytes(body: bytes) -> IntArray:
    """The users of a raw body and their candidates, int64 (n, 1 + CANDIDATES)."""
    return np.frombuffer(body, np.int64).reshape(-1, 1 + CANDIDATES)


def as_bytes(posts: IntArray, scores: FloatArray) -> list[bytes]:
    """Raw rankings: each user's posts, then their scores."""
    answers = np.concatenate((posts.view(np.uint8), scores.view(np.uint8)), axis=1)
    return [answer.tobytes() for answer in answers]


def _rows(ids: IntArray, first: int, highest: int = 0) -> IntArray:
    """The row of each id up to the highest, int64; a dense table, since ids are small."""
    rows = np.zeros(max(int(ids.max()), highest) + 1, np.int64)
    rows[ids] = np.arange(first, first + len(ids))
    return rows
