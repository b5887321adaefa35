"""How far a pruned network is from its target: a rigorous bound and an attack.

Networks without biases are positively homogeneous, so the supremum of the error over a
ball is attained on its boundary. In the construction each hidden neuron reads a single
input, so a layer's error is linear in each orthant: E+ x_c for x_c > 0, E- |x_c| below.
All of it is float64 NumPy; "rigorous" is up to its rounding.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iterand_jax.theory.validation import BoolArray, FloatArray, check_integer

_EXACT_INPUTS = 8
_REFINED = 8
_REFINEMENTS = 30


class Certificate(NamedTuple):
    """Bounds lower <= sup over ||x||_2 <= 1 of ||f(x) - g(x)||_2 <= upper."""

    lower: float
    upper: float
    eps: float

    @property
    def verdict(self) -> str:
        """Returns "proved" (upper <= eps), "refuted" (lower > eps) or "undecided"."""
        if self.upper <= self.eps:
            return "proved"
        return "refuted" if self.lower > self.eps else "undecided"


def layer_errors(
    F: FloatArray, hidden: FloatArray, output: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Returns (E+, E-), the errors of output s(hidden x) against F x per unit |x_c|.

    E+ = F - A+ and E- = -F - A-, where A+ (A-) sums V u (V |u|) over the neurons of the
    column with u > 0 (u < 0). `hidden` (D, d0) and `output` (d2, D) are masked weights.
    Raises ValueError if a hidden neuron reads more than one input.

    >>> hidden, output = np.array([[1.0], [-0.5]]), np.array([[0.5, -0.8]])
    >>> layer_errors(np.array([[0.5]]), hidden, output)
    (array([[0.]]), array([[-0.1]]))
    """
    if (np.count_nonzero(hidden, axis=1) > 1).any():
        raise ValueError("every hidden neuron must read a single input, got one of two")
    active_above = output @ np.maximum(hidden, 0.0)
    active_below = output @ np.maximum(-hidden, 0.0)
    return F - active_above, -F - active_below


def layer_sup_box(E_plus: FloatArray, E_minus: FloatArray) -> float:
    """Returns the supremum of a layer's 2-norm error over ||x||_inf <= 1 (Lemma A.6).

    Exact for up to 8 inputs: the error is convex on each orthant, so its maximum over
    the box is at one of the 3^d0 vertices {-1, 0, 1}^d0. Beyond, the upper bound
    || max(|E+|, |E-|) 1 ||_2.

    >>> layer_sup_box(np.array([[0.25, 0.25]]), np.array([[0.0, -0.1]]))
    0.5
    """
    inputs = E_plus.shape[1]
    if inputs > _EXACT_INPUTS:
        return float(np.linalg.norm(_larger(E_plus, E_minus).sum(axis=1)))
    x = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=inputs)))
    errors = np.maximum(x, 0.0) @ E_plus.T + np.maximum(-x, 0.0) @ E_minus.T
    return float(np.linalg.norm(errors, axis=1).max())


def layer_sup_ball(
    E_plus: FloatArray, E_minus: FloatArray, *, nonnegative: bool = False
) -> float:
    """Returns an upper bound of a layer's error over ||x||_2 <= 1.

    || max(|E+|, |E-|) ||_op, or ||E+||_op if only x >= 0 can occur.
    """
    errors = E_plus if nonnegative else _larger(E_plus, E_minus)
    return float(np.linalg.norm(errors, 2))


def certify(
    F: Sequence[FloatArray],
    G: Sequence[FloatArray],
    M: Sequence[BoolArray],
    eps: float,
    *,
    seed: int = 0,
    points: int = 256,
) -> Certificate:
    """Returns the certificate of the pruned network g_M against the target f.

    Upper: e_k = ||F_k||_op e_(k-1) + t_k (B_(k-1) + e_(k-1)), B_k = ||F_k||_op B_(k-1),
    e_0 = 0, B_0 = 1, t_k from `layer_sup_ball`. Lower: `adversarial`. Both are exact
    for one input. Raises as `adversarial` and `layer_errors`.

    >>> F = [np.array([[0.5]])]
    >>> G = [np.array([[1.0], [-0.5]]), np.array([[0.5, -0.8]])]
    >>> M = [np.ones(g.shape, bool) for g in G]
    >>> certify(F, G, M, eps=0.2).verdict
    'proved'
    """
    pruned = [weights * mask for weights, mask in zip(G, M, strict=True)]
    lower, _ = adversarial(F, pruned, seed=seed, points=points)
    if F[0].shape[1] == 1:
        return Certificate(lower, lower, eps)
    error, size = 0.0, 1.0
    for k, matrix in enumerate(F):
        errors = layer_errors(matrix, pruned[2 * k], pruned[2 * k + 1])
        # Behind a ReLU the inputs of f and of g are non-negative.
        t = layer_sup_ball(*errors, nonnegative=k > 0)
        norm = float(np.linalg.norm(matrix, 2))
        error = norm * error + t * (size + error)
        size *= norm
    return Certificate(lower, max(lower, error), eps)


def adversarial(
    F: Sequence[FloatArray],
    pruned: Sequence[FloatArray],
    *,
    seed: int = 0,
    points: int = 256,
) -> tuple[float, FloatArray]:
    """Returns the largest error found over ||x||_2 = 1 and the x that attains it.

    Axes and `points` random directions, then the best 8 are refined by x <- J^T J x /
    |J^T J x| with J the Jacobian of f - g in x's linear region. `pruned` holds g's
    masked weights. Raises ValueError unless points >= 256 and seed >= 0.

    >>> F = [np.array([[0.5]])]
    >>> G = [np.array([[1.0], [-0.5]]), np.array([[0.5, -0.8]])]
    >>> error, x = adversarial(F, G)
    >>> round(error, 6), x
    (0.1, array([-1.]))
    """
    rng = np.random.default_rng(check_integer("seed", seed, 0))
    inputs = F[0].shape[1]
    directions = rng.standard_normal((check_integer("points", points, 256), inputs))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    x = np.vstack([np.eye(inputs), -np.eye(inputs), directions])
    errors = np.linalg.norm(network(F, x) - network(pruned, x), axis=1)
    order = np.argsort(errors)[::-1][:_REFINED]
    best_error, best = float(errors[order[0]]), x[order[0]]
    for start in x[order]:
        current = start
        for _ in range(_REFINEMENTS):
            J = jacobian(F, current) - jacobian(pruned, current)
            ascent = J.T @ (J @ current)
            length = np.linalg.norm(ascent)
            if length == 0.0:
                break
            current = ascent / length
            difference = network(F, current) - network(pruned, current)
            error = float(np.linalg.norm(difference))
            if error > best_error:
                best_error, best = error, current
    return best_error, best


def network(matrices: Sequence[NDArray[Any]], x: FloatArray) -> FloatArray:
    """Returns the ReLU network of `matrices` at x, shape (..., inputs), in float64."""
    for k, matrix in enumerate(matrices):
        x = (np.maximum(x, 0.0) if k else x) @ matrix.T
    return x


def jacobian(matrices: Sequence[FloatArray], x: FloatArray) -> FloatArray:
    """Returns the network's Jacobian (outputs, inputs) in the linear region of x."""
    J = np.eye(x.shape[-1])
    for k, matrix in enumerate(matrices):
        if k:
            active = x > 0.0
            x, J = x * active, J * active[:, None]
        x, J = matrix @ x, matrix @ J
    return J


def _larger(E_plus: FloatArray, E_minus: FloatArray) -> FloatArray:
    return np.maximum(np.abs(E_plus), np.abs(E_minus))
