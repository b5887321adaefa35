"""Evaluations of images that are decoded while they are read."""

import jax
import pytest

from iterand_jax.training.evaluation import Evaluator
from tests import helpers


@pytest.mark.slow
def test_an_evaluation_counts_all_but_bad_images(streamed_config):
    bad = set()
    built = helpers.build(streamed_config(), helpers.numbered_source(bad=bad))
    evaluate = Evaluator(built)
    state = jax.jit(built.init_state)(built.root)
    assert evaluate(state, "test").examples == 10
    bad.add(3)
    assert evaluate(state, "test").examples == 9
    bad.update(range(10))
    with pytest.raises(ValueError, match="no example of the test split can be read"):
        evaluate(state, "test")
