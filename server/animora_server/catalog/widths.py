"""Which widths of embeddings the catalog keeps, of those that the database has."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FoundWidths = npt.NDArray[np.int32]  # 0 where an embedding cannot be used, negative where it is null


@dataclass(frozen=True, slots=True)
class Widths:
    """How many numbers an image embedding and a caption embedding have; 0 for none at all."""

    image: int = 0
    caption: int = 0


NO_WIDTHS = Widths()


@dataclass(frozen=True, slots=True)
class WidthPreference:
    """What the models take.

    Attributes:
        serving: The widths of the version that answers; 0 where there is none, or it takes none.
        wanted: The widths of a version that was refused because the catalog has others.
    """

    serving: Widths = NO_WIDTHS
    wanted: Widths = NO_WIDTHS

    def choose(self, images: FoundWidths, captions: FoundWidths, kept: Widths) -> Widths:
        """The widths to keep of embeddings int32 (n) each; without embeddings those that were kept.

        A serving version decides, unless most embeddings have the width that another one wants. Where none
        serves, a width that is wanted is taken if any embedding has it, and else that of most embeddings.
        """
        return Widths(
            _chosen(images, self.serving.image, self.wanted.image) or kept.image,
            _chosen(captions, self.serving.caption, self.wanted.caption) or kept.caption,
        )


NO_PREFERENCE = WidthPreference()


def _chosen(found: FoundWidths, serving: int, wanted: int) -> int:
    """See WidthPreference.choose; 0 without embeddings."""
    widths, counts = np.unique(found[found > 0], return_counts=True)
    if not len(widths):
        return 0
    of_wanted = int(counts[widths == wanted].sum())
    if of_wanted and (not serving or 2 * of_wanted > counts.sum()):
        return wanted
    return serving or int(widths[counts.argmax()])
