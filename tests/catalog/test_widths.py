import numpy as np
import pytest

from animora_server.catalog import WidthPreference, Widths

NULL = -1


def chosen(found, serving=0, wanted=0, kept=0):
    images = np.array(found, np.int32)
    preference = WidthPreference(Widths(serving), Widths(wanted))
    return preference.choose(images, np.empty(0, np.int32), Widths(kept, 3))


def test_the_most_frequent_width_is_kept_without_a_model():
    assert chosen([17, 8, 8, NULL, 0, 0, 0, NULL]) == Widths(8, 3)


def test_the_width_of_the_active_model_is_kept():
    assert chosen([16, 16, 16, 8], serving=8).image == 8
    assert chosen([16, 16], serving=8).image == 8


@pytest.mark.parametrize(("found", "image"), [([16, 16, 8], 16), ([16, 8], 8), ([8, 8, 16], 8), ([8], 8)])
def test_the_wanted_width_replaces_the_active_models_once_most_embeddings_have_it(found, image):
    assert chosen(found, serving=8, wanted=16).image == image


@pytest.mark.parametrize(("found", "image"), [([8, 8, 16], 16), ([8, 8, 8], 8), ([NULL, 0], 5)])
def test_the_wanted_width_is_kept_without_an_active_model_if_any_embedding_has_it(found, image):
    assert chosen(found, wanted=16, kept=5).image == image


def test_without_embeddings_the_widths_are_unchanged():
    assert chosen([NULL, NULL, 0], serving=8, wanted=16, kept=5) == Widths(5, 3)
