"""A method whose masks keep a weight, remove it, or turn its sign."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array

from iterand_jax import masks
from iterand_jax.methods.method import Method, check_number, check_ranks_nothing
from iterand_jax.methods.scores import edge_popup
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.trees import map_pair

__all__ = ["signed_supermask"]


def signed_supermask(subnetwork: Subnetwork, *, threshold: float = 0.01) -> Method:
    """Training of masks that keep a weight, remove it, or turn its sign.

    The effective weight is w sign(m) where |m| is above the threshold, else 0, and the
    gradient of m is that of the effective weight times w (Koster, Grothe and Rettinger
    2022). How much is removed emerges. The masks m start as the scores of every
    method here: the paper's own initialization was not at hand.

    Raises:
      ValueError: a threshold that is not above 0, or a subnetwork with a sparsity, a
        scope, coats, a pattern, or `ranked_by` or `values` of its own: nothing is
        ranked.

    >>> method = signed_supermask(Subnetwork(sparsity=0.0), threshold=0.1)
    >>> m = {"kernel": jnp.array([0.3, -0.2, 0.05])}
    >>> weights = {"kernel": jnp.array([1.0, 2.0, 4.0])}
    >>> method.params(m, weights, 0)["kernel"].tolist()
    [1.0, -2.0, 0.0]
    """
    check_number(threshold, "threshold")
    check_ranks_nothing(
        subnetwork, "signed_supermask", "what it removes follows from its threshold"
    )

    def signs(trained):
        return jax.tree.map(lambda m: _signed(threshold, m), trained)

    def params(trained, weights, step):
        del step
        return map_pair(
            lambda path, mask, leaf: masks.masked(leaf, mask),
            signs(trained),
            jax.lax.stop_gradient(weights),
        )

    return dataclasses.replace(
        edge_popup(subnetwork),
        params=params,
        masks=lambda trained, weights, step: signs(trained),
        rescales=True,
        ranked=lambda trained: jax.tree.map(jnp.abs, trained),
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _signed(threshold: float, m: Array) -> Array:
    return jnp.sign(m) * (jnp.abs(m) > threshold).astype(m.dtype)


@_signed.defjvp
def _derivative_is_that_of_m(threshold, primals, tangents):
    return _signed(threshold, *primals), tangents[0]
