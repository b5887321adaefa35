"""Widths and numbers of resamplings as the paper publishes them (`paper_*`).

R = 1 is the setting without resampling, so Lemma A.3 is `paper_width_A4` with R = 1;
Lemmas A.4 and A.5 are A.6 with d0 = 1 (and d2 = 1). For R >= 2 the proofs of Lemmas A.4
to A.6 and of Theorem A.1 count wrongly; `bounds` says how, and holds what is valid.
"""

import itertools
import math
from collections.abc import Sequence

from iterand_jax.theory.validation import check_counts, check_dims, check_open_unit


def paper_n_A2(eps: float, delta: float) -> int:
    """Returns the number of draws of Lemma A.2 (the paper's, correct).

    n >= (2 / eps) log(1 / delta) draws of U[-1, 1] contain, with probability at least
    1 - delta, one within eps of a given a in [-1, 1]. Raises ValueError unless eps and
    delta lie in (0, 1).

    >>> paper_n_A2(0.1, 0.01)
    93
    """
    eps, delta = check_open_unit("eps", eps), check_open_unit("delta", delta)
    return math.ceil(2.0 / eps * math.log(1.0 / delta))


def paper_width_A6(eps: float, delta: float, R: int, d0: int = 1, d2: int = 1) -> int:
    """Returns the hidden width of Lemma A.6 as published (its proof fails for R >= 2).

    d1 = 2 d0 ceil((16 d0^2 d2 / (eps^2 R^2)) log(2 d0 d2 / delta)) for W in
    [-1, 1]^(d2 x d0), max-norm inputs and 2-norm error eps. Raises ValueError unless
    eps and delta lie in (0, 1) and R, d0, d2 >= 1; TypeError for a non-integer.

    >>> [paper_width_A6(0.1, 0.01, R, d0=2, d2=3) for R in (1, 10)]
    [544520, 5448]
    """
    eps, delta = check_open_unit("eps", eps), check_open_unit("delta", delta)
    R, d0, d2 = check_counts(R, d0, d2)
    log_term = math.log(2.0 * d0 * d2 / delta)
    return 2 * d0 * math.ceil(16.0 * d0**2 * d2 / (eps * R) ** 2 * log_term)


def paper_width_A5(eps: float, delta: float, R: int, d2: int) -> int:
    """Returns the hidden width of Lemma A.5 as published: Lemma A.6 with d0 = 1.

    d1 = 2 ceil((16 d2 / (eps^2 R^2)) log(2 d2 / delta)), one input and d2 outputs.
    False as stated for R >= 2 and small delta. Errors as `paper_width_A6`.

    >>> paper_width_A5(0.1, 0.01, R=10, d2=3)
    616
    """
    return paper_width_A6(eps, delta, R, 1, d2)


def paper_width_A4(eps: float, delta: float, R: int = 1) -> int:
    """Returns the hidden width of Lemma A.4 as published, and of Lemma A.3 at R = 1.

    d = 2 ceil((16 / (eps^2 R^2)) log(2 / delta)), one weight w in [-1, 1]. Lemma A.3 is
    correct, Lemma A.4 false as stated for small delta. Errors as `paper_width_A6`.

    >>> paper_width_A4(0.1, 0.01), paper_width_A4(0.1, 0.01, R=10)
    (16956, 170)
    """
    return paper_width_A6(eps, delta, R)


def paper_R_A6(
    eps: float, delta: float, d0: int = 1, d2: int = 1, d_prime: int = 1
) -> float:
    """Returns the real R at which Lemma A.6 as published asks for width 2 d0 d_prime.

    R = (4 d0 / eps) sqrt((d2 / d_prime) log(2 d0 d2 / delta)); take the ceiling.
    The paper's count, so too small. Errors as `paper_width_A6`.

    >>> round(paper_R_A6(0.1, 0.01, d0=2, d2=3), 1)
    369.0
    """
    eps, delta = check_open_unit("eps", eps), check_open_unit("delta", delta)
    d_prime, d0, d2 = check_counts(d_prime, d0, d2, "d_prime")
    log_term = math.log(2.0 * d0 * d2 / delta)
    return 4.0 * d0 / eps * math.sqrt(d2 * log_term / d_prime)


def paper_R_A4(eps: float, delta: float, d_prime: int = 1) -> float:
    """Returns the real R at which Lemma A.4 as published asks for width 2 d_prime.

    R = (4 / eps) sqrt(log(2 / delta) / d_prime). Errors as `paper_R_A6`.

    >>> round(paper_R_A4(0.1, 0.01), 1)
    92.1
    """
    return paper_R_A6(eps, delta, d_prime=d_prime)


def paper_widths_thm(
    dims: Sequence[int], eps: float, delta: float, R: int
) -> list[int]:
    """Returns the hidden widths D_1, ..., D_l of Theorem A.1 as published.

    D_i = 2 d_(i-1) ceil((64 l^2 d_(i-1)^2 d_i / (eps^2 R^2)) log(2 l d_(i-1) d_i /
    delta)), which is Lemma A.6 with eps / (2 l) and delta / l. Errors as
    `paper_width_A6`, and ValueError for fewer than two dims.

    >>> paper_widths_thm([4, 3, 2], 0.1, 0.01, R=100)
    [8336, 2154]
    """
    eps, delta = check_open_unit("eps", eps), check_open_unit("delta", delta)
    dims = check_dims(dims)
    depth = len(dims) - 1
    return [
        paper_width_A6(eps / (2 * depth), delta / depth, R, d0, d2)
        for d0, d2 in itertools.pairwise(dims)
    ]


def paper_R_thm(
    dims: Sequence[int], eps: float, delta: float, d_prime: int = 1
) -> float:
    """The real R at which Theorem A.1 as published asks D_i = 2 d_(i-1) d_prime.

    R = max_i (8 l d_(i-1) / eps) sqrt((d_i / d_prime) log(2 l d_(i-1) d_i / delta)),
    at d_prime = 1 the "in particular" clause. Errors as `paper_widths_thm`.

    >>> round(paper_R_thm([4, 3, 2], 0.1, 0.01), 1)
    3227.3
    """
    eps, delta = check_open_unit("eps", eps), check_open_unit("delta", delta)
    dims = check_dims(dims)
    depth = len(dims) - 1
    return max(
        paper_R_A6(eps / (2 * depth), delta / depth, d0, d2, d_prime)
        for d0, d2 in itertools.pairwise(dims)
    )
