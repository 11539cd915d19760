"""Chooses the embedding widths that the catalog keeps among those that the database has."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FoundWidths = npt.NDArray[np.int32]  # 0 for an unusable embedding, negative for null


@dataclass(frozen=True, slots=True)
class Widths:
    """The widths of image and caption embeddings; 0 if there are none."""

    image: int = 0
    caption: int = 0


NO_WIDTHS = Widths()


@dataclass(frozen=True, slots=True)
class WidthPreference:
    """The widths that the models take.

    Attributes:
        serving: The widths of the active version; 0 if there is none, or it takes no such embeddings.
        wanted: The widths of a version that was rejected because the catalog keeps other widths.
    """

    serving: Widths = NO_WIDTHS
    wanted: Widths = NO_WIDTHS

    def choose(self, images: FoundWidths, captions: FoundWidths, kept: Widths) -> Widths:
        """Chooses the widths to keep.

        The active version's width is kept unless most embeddings have the wanted width. Without an active
        version the wanted width is kept if any embedding has it, else the most frequent width.

        Args:
            images: int32 (n), the widths of all image embeddings.
            captions: int32 (n), the widths of all caption embeddings.
            kept: The widths kept so far, which stay for a column without embeddings.
        """
        return Widths(
            _choose(images, self.serving.image, self.wanted.image) or kept.image,
            _choose(captions, self.serving.caption, self.wanted.caption) or kept.caption,
        )


NO_PREFERENCE = WidthPreference()


def _choose(found: FoundWidths, serving: int, wanted: int) -> int:
    """Chooses one width, see WidthPreference.choose; 0 without embeddings."""
    widths, counts = np.unique(found[found > 0], return_counts=True)
    if not len(widths):
        return 0
    of_wanted = int(counts[widths == wanted].sum())
    if of_wanted and (not serving or 2 * of_wanted > counts.sum()):
        return wanted
    return serving or int(widths[counts.argmax()])
