"""A method of random gates, whose expected number is penalized."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import ndtr

from iterand_jax import masks
from iterand_jax.distributions import DISTRIBUTIONS, placed_as
from iterand_jax.keys import leaf_key
from iterand_jax.methods.method import Method, check_number, check_ranks_nothing
from iterand_jax.methods.scores import edge_popup
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.trees import map_pair, map_paths

__all__ = ["relaxed_bernoulli"]

PyTree = Any


def relaxed_bernoulli(
    subnetwork: Subnetwork, *, gate_penalty: float, gate_noise: float = 0.5
) -> Method:
    """Training of one noisy gate for each weight, without straight-through gradients.

    In training the effective weight is w z with z = clip(mu + e, 0, 1) and e ~ N(0,
    sigma^2), drawn for each weight and step; mu has the gradient of z, which is 0 where
    z is clipped. The loss has the term lambda * sum Phi(mu / sigma), the expected
    number of gates that are not 0 (continuously relaxed Bernoulli gates, Tsayag and
    Lindenbaum 2026, arXiv 2603.08914; the formulas are those that the first author
    gives of it). How much is removed emerges.

    Not at hand were how a gate becomes a bit (here, for evaluation and tickets, 1 where
    mu >= 1/2), how gates start (here at 1/2), sigma (1/2 is that of stochastic gates,
    Yamada et al. 2020) and lambda.

    Args:
      subnetwork: how the network is initialized; it has the sparsity 0.
      gate_penalty: lambda, at least 0.
      gate_noise: sigma, above 0.

    Raises:
      ValueError: a number outside these, or a subnetwork with a sparsity, a scope,
        coats, a pattern, or `ranked_by` or `values` of its own: nothing is ranked.

    >>> method = relaxed_bernoulli(Subnetwork(sparsity=0.0), gate_penalty=0.1)
    >>> gates = {"kernel": jnp.array([1.5, 0.4, 0.0])}
    >>> weights = {"kernel": jnp.array([1.0, 2.0, 4.0])}
    >>> method.params(gates, weights, 0)["kernel"].tolist()
    [1.0, 0.0, 0.0]
    >>> round(float(method.penalty(gates)), 4)  # 0.9987 + 0.7881 + 0.5 gates
    0.2287
    """
    check_ranks_nothing(
        subnetwork, "relaxed_bernoulli", "what it removes follows from its penalty"
    )
    check_number(gate_penalty, "gate_penalty", or_zero=True)
    check_number(gate_noise, "gate_noise")

    def init(key, params):
        scores, weights = subnetwork.init(key, params)
        return jax.tree.map(lambda s: jnp.full_like(s, 0.5), scores), weights

    def find_masks(gates, weights, step):
        del weights, step
        return jax.tree.map(lambda mu: (mu >= 0.5).astype(mu.dtype), gates)

    def gated(multipliers, weights):
        return map_pair(lambda path, z, w: masks.masked(w, z), multipliers, weights)

    def noisy(key, gates, weights, step):
        del step
        return gated(_opened(key, gates, gate_noise), weights)

    def penalty(gates):
        expected = (jnp.sum(ndtr(mu / gate_noise)) for mu in jax.tree.leaves(gates))
        return gate_penalty * sum(expected, start=0.0)

    return dataclasses.replace(
        edge_popup(subnetwork),
        init=init,
        params=lambda gates, weights, step: gated(
            find_masks(gates, weights, step), weights
        ),
        masks=find_masks,
        noisy=noisy,
        penalty=penalty,
    )


def _opened(key: Array, gates: PyTree, gate_noise: float) -> PyTree:
    """The gates with noise of a step's key, clipped."""
    normal = DISTRIBUTIONS["kaiming_normal"].sample

    def gate(path, mu):
        own = leaf_key(key, path, "gates")  # fan-in 2: of variance 1
        noise = placed_as(mu, normal, own, mu.shape, 2, mu.dtype)
        return jnp.clip(mu + gate_noise * noise, 0, 1)

    return map_paths(gate, gates)
