"""Titles of figures."""

import pytest

from iterand_jax.runtime.pictures import new_figure, set_title


@pytest.mark.parametrize("words", [1, 30, 60])
def test_a_title_fits_in_one_line(words):
    figure = new_figure(8, 2)
    set_title(figure, "word " * words, size=11)
    title = figure._suptitle
    assert title.get_window_extent().width <= figure.bbox.width
    assert (title.get_fontsize() == 11) == (words == 1)
