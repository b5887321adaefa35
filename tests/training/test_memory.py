"""The memory report counts the state to the byte and reports the compiler's peak."""

import re

import jax
import numpy as np
import pytest

from iterand_jax.configs import imagenet_resnet50_x2, imagenet_resnet101
from iterand_jax.training import building, loop, memory
from iterand_jax.training.config import resolve
from tests import helpers


@pytest.mark.slow
def test_the_report_is_printed_before_the_first_step_when_asked(
    tiny_config, tmp_path, capsys
):
    config = tiny_config(epochs=1, report_memory=True, **{"network.width": 0.25})
    built = helpers.build(config)
    loop.train_and_evaluate(built, tmp_path)
    printed = capsys.readouterr().out
    weights = sum(leaf.size for leaf in jax.tree.leaves(built.weights(built.abstract)))
    shown = f"{4 * weights / 2**20:,.1f} MiB"
    assert f"trainable {shown}, frozen {shown}, opt_state {shown}" in printed
    assert "batch_stats" not in printed
    assert "together" in printed
    assert "evaluation" in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        # The 44,549,160 of PyTorch's, less normalization's and the last bias.
        (imagenet_resnet101, 44_549_160 - 2 * 52_672 - 1000),
        # ResNet50's, with the inner kernels fourfold; the first one is not widened.
        (imagenet_resnet50_x2, 4 * 23_445_504 - 32_768 - 8_192 + 9_408 + 4_096_000),
    ],
)
def test_the_state_of_a_large_network_is_thrice_its_parameters(config, parameters):
    model = building.describe(resolve(config.get_config()))
    each = f"{4 * parameters / 2**20:,.1f} MiB"
    report = memory.report([model.abstract], [])
    assert f"trainable {each}, frozen {each}, opt_state {each}, batch_stats 0" in report


def test_values_inside_a_program_count():
    """The sort's buffer is allocated until the product has read it.

    A sort, since jax 0.12 fuses a chain of products, which then holds nothing.
    """
    x = np.ones((512, 512), np.float32)
    chain = jax.jit(lambda x: (jax.numpy.sort(x, axis=0) @ x).sum())
    analysis = chain.lower(x).compile().memory_analysis()
    assert memory.peak(analysis) >= 2 * x.nbytes


def test_the_largest_step_is_reported(tiny_config):
    built = helpers.build(tiny_config())
    state = jax.jit(built.init_state)(built.root)
    steps = [
        jax.jit(lambda x: x @ x).lower(np.ones((n, n))).compile() for n in (9, 512)
    ]
    report = memory.report([state], steps, steps[1:])
    assert "together     2.0 MiB per device" in report
    assert re.search(r"evaluation   2\.\d MiB per device, the state included", report)
