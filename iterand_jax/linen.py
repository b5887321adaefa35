"""Linen modules that hold their scores and frozen weights themselves.

Scores are in the collection "params", so that any Flax training loop trains them;
frozen weights are in the collection "weights" under the same paths. These modules can
be mixed with ordinary ones.

    variables = model.init(key, x)
    logits = model.apply(variables, x)
    variables = rerandomize(Subnetwork(sparsity=0.5), key, variables, sampling_rate=0.1)
"""

import math
from collections.abc import Mapping

from flax import linen as nn
from jax import Array

from iterand_jax import layers
from iterand_jax.subnetwork import Subnetwork

__all__ = ["Conv", "Dense", "LSTMCell", "rerandomize"]

_OF_SCORES = Subnetwork(distribution="kaiming_uniform").drawn_from


def _kernel(module, name: str, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """(scores, weights) of a module's kernel, whose outputs are on the last axis."""
    fan_in = math.prod(shape[:-1])
    distribution = Subnetwork(distribution=module.distribution).drawn_from
    weights = module.variable(
        "weights",
        name,
        lambda: distribution.sample(module.make_rng("params"), shape, fan_in),
    )
    scores = module.param(
        name,
        lambda key: _OF_SCORES.sample(key, shape, fan_in),
    )
    return scores, weights.value


def rerandomize(
    subnetwork: Subnetwork, key: Array, variables: Mapping, sampling_rate: float | Array
) -> dict:
    """`Subnetwork.rerandomize` of a model's "weights", given the scores in "params".

    The subnetwork's sparsity and distribution must be those of the modules. For modules
    stacked by `nn.scan` or `nn.vmap`, its rules must be those of the model,
    `iterand_jax.rules_of(model, x)`: the default ones refuse what is stacked once.

    Args:
      subnetwork: how the weights were sampled.
      key: of this re-randomization alone, as one that the step was folded into.
      variables: of the model, with the collections "params" and "weights".
      sampling_rate: r, the fraction of the pruned weights that is resampled, in [0, 1].

    Returns:
      The variables, with new "weights".

    Raises:
      ValueError: as `Subnetwork.rerandomize`.

    >>> import jax, jax.numpy as jnp
    >>> model, key = Dense(3, sparsity=0.5), jax.random.key(0)
    >>> variables = model.init(key, jnp.ones((1, 4)))
    >>> new = rerandomize(Subnetwork(sparsity=0.5), key, variables, sampling_rate=1.0)
    >>> x = jnp.ones((1, 4))
    >>> bool((model.apply(new, x) == model.apply(variables, x)).all())
    True
    """

    def scores_of(params, weights):
        if not isinstance(weights, Mapping):
            return params
        return {name: scores_of(params[name], weights[name]) for name in weights}

    weights = variables["weights"]
    scores = scores_of(variables["params"], weights)
    new = subnetwork.rerandomize(key, scores, weights, sampling_rate)
    return {**variables, "weights": new}


class Dense(nn.Module):
    """`layers.dense` as a module: (..., inputs) to (..., features).

    >>> import jax, jax.numpy as jnp
    >>> variables = Dense(3).init(jax.random.key(0), jnp.ones((1, 4)))
    >>> sorted(variables), variables["params"]["kernel"].shape
    (['params', 'weights'], (4, 3))
    """

    features: int
    sparsity: float = 0.5
    distribution: str = "signed_constant"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Applies the pruned layer."""
        kernel = _kernel(self, "kernel", (x.shape[-1], self.features))
        return layers.dense(x, *kernel, sparsity=self.sparsity)


class Conv(nn.Module):
    """`layers.conv` as a module: (N, H, W, inputs) to (N, H', W', features).

    >>> import jax, jax.numpy as jnp
    >>> images = jnp.ones((2, 8, 8, 1))
    >>> Conv(5, strides=(2, 2)).init_with_output(jax.random.key(0), images)[0].shape
    (2, 4, 4, 5)
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: str = "SAME"
    sparsity: float = 0.5
    distribution: str = "signed_constant"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Applies the pruned layer."""
        kernel = _kernel(
            self, "kernel", (*self.kernel_size, x.shape[-1], self.features)
        )
        return layers.conv(
            x,
            *kernel,
            sparsity=self.sparsity,
            strides=self.strides,
            padding=self.padding,
        )


class LSTMCell(nn.Module):
    """`layers.lstm_cell` as a module, for `flax.linen.scan`.

    >>> import jax, jax.numpy as jnp
    >>> carry = jnp.zeros((2, 4)), jnp.zeros((2, 4))
    >>> cell = LSTMCell(4)
    >>> variables = cell.init(jax.random.key(0), carry, jnp.ones((2, 3)))
    >>> sorted(variables["params"])
    ['input/kernel', 'recurrent/kernel']
    """

    features: int
    sparsity: float = 0.5
    distribution: str = "signed_constant"

    @nn.compact
    def __call__(
        self, carry: tuple[Array, Array], x: Array
    ) -> tuple[tuple[Array, Array], Array]:
        """One step: ((cell, hidden), x) to ((cell, hidden), hidden)."""
        inputs = _kernel(self, "input/kernel", (x.shape[-1], 4 * self.features))
        recurrent = _kernel(
            self, "recurrent/kernel", (self.features, 4 * self.features)
        )
        return layers.lstm_cell(carry, x, *inputs, *recurrent, sparsity=self.sparsity)
