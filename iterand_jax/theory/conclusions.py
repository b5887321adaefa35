"""Exact probabilities of the conclusion (C) for one weight w = 1 and two neurons.

|w| = 1 is the hard case: u v is close to 1 only in the corner where both are. Here the
approximation may use any of the drawn values and any mask, so a failure larger than
delta refutes the published *statement*, not only its proof.
"""

import numpy as np

from iterand_jax.theory.validation import (
    FloatArray,
    check_integer,
    check_open_unit,
)

_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(400)


def conclusion_fail_d2(eps: float, R: int) -> tuple[float, float, float]:
    """(q, r, fail) of Lemma A.4's conclusion for w = 1, d = 2, best of R values.

    With c = 1 - eps, q = P(max u max v < c) is the failure of one neuron on one given
    side and r that of one neuron on both sides; fail = 2 q^2 + 2 r + r^2 - 4 q r, since
    the two neurons must serve different sides. Exact up to Gauss-Legendre quadrature.
    Raises ValueError unless 0 < eps < 1 and R >= 1; TypeError for a non-integer R.

    >>> [round(p, 4) for p in conclusion_fail_d2(0.1, R=20)]
    [0.7229, 0.5189, 0.8517]
    """
    c, R = 1.0 - check_open_unit("eps", eps), check_integer("R", R)
    x, dx = _quadrature(c)
    density = 0.5 * R * _power(x, R - 1)
    q = _power(c, R) + dx @ (density * _power(c / x, R))
    both = 0.5 * R * ((x + c) / 2.0) ** (R - 1) * _power(c / x, R)
    corner = 0.0
    if R > 1:
        sums = (x[:, None] + x) / 2.0
        ratios = (c / x[:, None] + c / x) / 2.0
        corner = R * (R - 1) / 4.0 * float(dx @ (sums ** (R - 2) * ratios**R) @ dx)
    r = c**R + 2.0 * (dx @ both) + corner
    return float(q), float(r), float(2 * q**2 + 2 * r + r**2 - 4 * q * r)


def seq_side_fail(eps: float, R: int) -> float:
    """Returns one side's failure without recall: the best "u, then v" stopping policy.

    A value replaced is gone. u is kept as soon as the success 1 - ((1 + c / u) / 2)^R
    that it leaves to v, c = 1 - eps, is at least the value of drawing on; v is kept at
    its first hit of [c / u, 1]. For w = 1 and a neuron whose side is fixed; with recall
    it is the q of `conclusion_fail_d2`. Errors as `conclusion_fail_d2`.

    >>> round(seq_side_fail(0.1, R=20), 4)
    0.7446
    """
    c, R = 1.0 - check_open_unit("eps", eps), check_integer("R", R)
    fail_on = 1.0
    for _ in range(R):
        # Above t, keeping u fails no more than fail_on >= 2^-R, so t is positive.
        t = min(1.0, max(c, c / (2.0 * fail_on ** (1.0 / R) - 1.0)))
        x, dx = _quadrature(t)
        fail_on = fail_on * (1.0 + t) / 2.0 + float(dx @ _power(c / x, R)) / 2.0
    return fail_on


def _quadrature(low: float) -> tuple[FloatArray, FloatArray]:
    """Returns Gauss-Legendre nodes and weights on [low, 1]."""
    half = 0.5 * (1.0 - low)
    return low + half * (_NODES + 1.0), half * _NODE_WEIGHTS


def _power(x: FloatArray | float, R: int) -> FloatArray:
    """Returns P(max of R draws of U[-1, 1] < x) = ((1 + x) / 2)^R."""
    return np.exp(R * np.log1p((np.asarray(x) - 1.0) / 2.0))
