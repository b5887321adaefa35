"""The proof of Theorem A.1 as an algorithm: a random network pruned to a target.

Each target layer becomes two random ones (see `resampling`). The result carries weights
and masks, flags of success, a certificate of its error and the network as a function.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from iterand_jax.theory.bounds import (
    corrected_widths_thm,
    improved_widths_thm,
    layer_tolerances,
)
from iterand_jax.theory.certificate import Certificate, certify
from iterand_jax.theory.probabilities import window_half_width
from iterand_jax.theory.published import paper_widths_thm
from iterand_jax.theory.resampling import (
    MAX_DRAWS,
    ConstructedLayer,
    check_widths,
    count_draws,
    prune_layer,
)
from iterand_jax.theory.validation import (
    BoolArray,
    FloatArray,
    check_count,
    check_integer,
    check_open_unit,
    check_option,
    check_target,
    target_dims,
)

Tree = dict[str, dict[str, jax.Array]]


class ConstructionError(RuntimeError):
    """A strict construction missed a window within its R draws."""


@dataclass(frozen=True, eq=False)
class Construction:
    """A target network and the pruned random network g_M that approximates it.

    `success` implies sup over ||x||_2 <= 1 of ||f(x) - g(x)||_2 <= eps.
    """

    target: list[FloatArray]
    eps: float
    seed: int
    layers: list[ConstructedLayer]

    @property
    def G(self) -> list[FloatArray]:
        """Returns the 2 l random matrices after resampling, each (outputs, inputs)."""
        return [
            matrix for layer in self.layers for matrix in (layer.hidden, layer.output)
        ]

    @property
    def M(self) -> list[BoolArray]:
        """Returns the 2 l masks, shaped as `G`."""
        return [
            mask
            for layer in self.layers
            for mask in (layer.hidden_mask, layer.output_mask)
        ]

    @property
    def n_used(self) -> list[NDArray[np.int64]]:
        """Returns at which of its draws, 1..R, each element of `G` got its value."""
        return [
            draws
            for layer in self.layers
            for draws in (layer.hidden_draws, layer.output_draws)
        ]

    @property
    def ok(self) -> list[BoolArray]:
        """Returns per target layer which (output, column, side) was approximated."""
        return [layer.ok for layer in self.layers]

    @property
    def success(self) -> bool:
        """Returns whether every window was hit (greedy: every entry close enough)."""
        return all(bool(ok.all()) for ok in self.ok)

    @cached_property
    def certificate(self) -> Certificate:
        """Returns rigorous upper and adversarial lower bounds of the sup error."""
        return certify(self.target, self.G, self.M, self.eps, seed=self.seed)

    @cached_property
    def weights(self) -> Tree:
        """Returns the random weights as the parameters of a bias-free Flax MLP.

        {"Dense_0": {"kernel": (inputs, outputs)}, ...}, float32.
        """
        return _as_tree(self.G, np.float32)

    @cached_property
    def masks(self) -> Tree:
        """Returns the masks in the structure of `weights`, boolean, True = kept."""
        return _as_tree(self.M, np.bool_)

    def g(self, x: ArrayLike) -> jax.Array:
        """Returns the pruned network at x, shape (..., d_0), in JAX float32.

        >>> network = construct([[[0.6, -0.3]]], 0.5, 0.01, R=100, seed=0)
        >>> bool(abs(network.g([1.0, 0.0])[0] - 0.6) < 0.5)
        True
        """
        return pruned_network(self.weights, self.masks, jnp.asarray(x, jnp.float32))


@jax.jit
def pruned_network(weights: Tree, masks: Tree, x: jax.Array) -> jax.Array:
    """Returns g_M(x) (Eq. 3) for weights and masks as `Construction` holds them.

    >>> weights = {"Dense_0": {"kernel": jnp.array([[2.0, 3.0]])}}
    >>> masks = {"Dense_0": {"kernel": jnp.array([[True, False]])}}
    >>> pruned_network(weights, masks, jnp.ones((1, 1)))
    Array([[2., 0.]], dtype=float32)
    """
    for k in range(len(weights)):
        name = f"Dense_{k}"
        kernel = weights[name]["kernel"] * masks[name]["kernel"]
        x = jnp.matmul(jax.nn.relu(x) if k else x, kernel, precision="highest")
    return x


def construct(
    F: Sequence[ArrayLike],
    eps: float,
    delta: float,
    R: int,
    *,
    seed: int,
    analysis: str = "paper",
    widths: Sequence[int] | str | None = None,
    choice: str = "window",
    one_sided: bool = False,
    strict: bool = False,
    norm: str = "fro",
    max_draws: int = MAX_DRAWS,
) -> Construction:
    """Returns a pruned random network that approximates the ReLU network F_1, ..., F_l.

    Layer i's windows have half-width eta_i = tol_i / (2 d_(i-1) sqrt(d_i)), tol_i =
    eps / (2 l) for `analysis` "paper" and `improved_tol` sqrt(d_(i-1)) for "improved".
    `widths`: D_1, ..., D_l, or "paper", or "corrected" (also None): those of (A) or (B)
    for delta. `choice` "window" keeps a value's first hit and never goes back (Lemma
    A.6; the failure probability is `thm_window_fail`), "greedy" recalls the best of R.
    `one_sided` omits half J from layers i >= 2, whose inputs are non-negative. Surplus
    neurons of a width that is no multiple of 2 d_(i-1) are masked.

    Raises ValueError for eps or delta outside (0, 1), a target that `check_target`
    rejects, a width below 2 d_(i-1), a negative seed, an unknown option, or more than
    `max_draws` draws; TypeError for a non-integer; `ConstructionError` if `strict` and
    an entry was missed.

    >>> network = construct([[[0.6, -0.3]]], 0.5, 0.01, R=100, seed=0)
    >>> network.success, network.certificate.verdict
    (True, 'proved')
    """
    eps, delta = check_open_unit("eps", eps), check_open_unit("delta", delta)
    R, seed = check_integer("R", R), check_integer("seed", seed, 0)
    check_option("analysis", analysis, ("paper", "improved"))
    check_option("choice", choice, ("window", "greedy"))
    target = check_target(F, norm)
    dims = target_dims(target)
    sides = [1 if one_sided and i else 2 for i in range(len(target))]
    if widths is None or isinstance(widths, str):
        widths = _named_widths(
            widths or "corrected", dims, eps, delta, R, analysis, one_sided
        )
    plan = list(zip(target, check_widths(widths, dims, sides), sides, strict=True))
    draws = sum(count_draws(W.shape, width, R, side) for W, width, side in plan)
    check_count("draws", draws, max_draws)
    layers = []
    tolerances = layer_tolerances(dims, eps, analysis)
    for i, ((W, width, side), tol) in enumerate(zip(plan, tolerances, strict=True)):
        eta, greedy = window_half_width(W.shape, tol), choice == "greedy"
        layers.append(
            prune_layer(W, eta, R, width, (seed, i), greedy=greedy, sides=side)
        )
    result = Construction(target, eps, seed, layers)
    if strict and not result.success:
        missed = sum(int((~ok).sum()) for ok in result.ok)
        total = sum(ok.size for ok in result.ok)
        raise ConstructionError(f"{missed} of {total} entries missed in R = {R} draws")
    return result


def _named_widths(
    name: str,
    dims: Sequence[int],
    eps: float,
    delta: float,
    R: int,
    analysis: str,
    one_sided: bool,
) -> list[int]:
    check_option("widths", name, ("paper", "corrected"))
    if name == "paper":
        return paper_widths_thm(dims, eps, delta, R)
    bound = corrected_widths_thm if analysis == "paper" else improved_widths_thm
    return bound(dims, eps, delta, R, one_sided=one_sided)


def _as_tree(matrices: Sequence[NDArray], dtype: type) -> Tree:
    return {
        f"Dense_{k}": {"kernel": jnp.asarray(matrix.T.astype(dtype))}
        for k, matrix in enumerate(matrices)
    }
