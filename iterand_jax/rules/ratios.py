"""Sparsities that follow a rule: what each layer keeps of a total, by its shape.

    uniform      every layer keeps the same fraction
    equal_edges  every layer keeps the same number of weights; a layer that has fewer
                 keeps all, and the others share what is left (edges per layer, Price
                 and Tanner 2021; Otsuka et al. 2025)
    erk          the fraction that a layer keeps is in proportion to (inputs + outputs +
                 window) / (inputs * outputs * window), sums and products of the sizes
                 of these axes; a layer that would keep more than all keeps all, and the
                 others share what is left (Erdos-Renyi-Kernel, Evci et al. 2020)
    balanced     every layer keeps the same number of weights, and a layer that has
                 fewer is refused
    pyramidal    the l-th of the layers keeps the fraction q^l, with one q for all, so
                 that the deepest are the sparsest

Balanced and pyramidal are named by Gadhikar et al. (2023). What is said here of the two
is the definition that is followed; the paper's own text was not at hand to compare.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from iterand_jax.rules.rule import Axes

__all__ = ["RATIOS", "Layer", "balanced", "equal_edges", "erk", "pyramidal", "ratios"]


class Layer(NamedTuple):
    """What a rule knows of a pruned leaf: its shape, and what its axes are."""

    shape: tuple[int, ...]
    axes: Axes

    @property
    def size(self) -> int:
        """The number of its weights."""
        return math.prod(self.shape)


Densities = list[float]


def ratios(name: str, sparsity: float, layers: Mapping[str, Layer]) -> dict[str, float]:
    """The sparsity of each layer, so that all together have this one.

    Args:
      name: one of `RATIOS`.
      sparsity: the fraction removed of the weights of all layers, in [0, 1).
      layers: by path, from the first to the last.

    Raises:
      ValueError: in one line, an unknown name, or a layer that would keep more weights
        than it has, or none.

    >>> axes = Axes(inputs=(0,), outputs=(1,), stack=(), window=())
    >>> layers = {"a": Layer((10, 40), axes), "b": Layer((20, 10), axes)}
    >>> ratios("equal_edges", 0.5, layers)
    {'a': 0.625, 'b': 0.25}
    >>> ratios("balanced", 0.1, layers)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: layer_sparsities=balanced, sparsity=0.1: 'b' of 200 weights would ...
    """
    if name not in RATIOS:
        raise ValueError(
            f"unknown layer_sparsities {name!r}; possible: {', '.join(RATIOS)}"
        )
    found = {}
    densities = RATIOS[name](sparsity, [*layers.values()])
    for (path, layer), density in zip(layers.items(), densities, strict=True):
        # A sum of floats may miss 1 by a few roundings.
        kept = 1.0 if math.isclose(density, 1, rel_tol=1e-12) else density
        if not 0.5 <= kept * layer.size <= layer.size:
            raise ValueError(
                f"layer_sparsities={name}, sparsity={sparsity:g}: {path!r} of "
                f"{layer.size:,} weights would keep {kept * layer.size:.4g}; possible: "
                f"from 1 to all of them, by another sparsity or rule of "
                f"{', '.join(RATIOS)}"
            )
        found[path] = 1 - kept
    return found


def equal_edges(sparsity: float, layers: Sequence[Layer]) -> Densities:
    """The fraction that each layer keeps if all keep equally many weights.

    >>> axes = Axes(inputs=(0,), outputs=(1,), stack=(), window=())
    >>> equal_edges(0.5, [Layer((10, 40), axes), Layer((1, 10), axes)])
    [0.4875, 1.0]
    """
    return _shared(sparsity, layers, [1 / layer.size for layer in layers])


def erk(sparsity: float, layers: Sequence[Layer]) -> Densities:
    """The fraction that each layer keeps by Erdos-Renyi-Kernel.

    >>> axes = Axes(inputs=(0,), outputs=(1,), stack=(), window=())
    >>> found = erk(0.74, [Layer((20, 20), axes), Layer((20, 5), axes)])
    >>> [round(density, 12) for density in found]
    [0.2, 0.5]
    """
    return _shared(sparsity, layers, [_sum_over_product(layer) for layer in layers])


def balanced(sparsity: float, layers: Sequence[Layer]) -> Densities:
    """The fraction that each layer keeps, with as many weights as every other.

    It may be above 1: `ratios` refuses that.

    >>> axes = Axes(inputs=(0,), outputs=(1,), stack=(), window=())
    >>> balanced(0.5, [Layer((10, 40), axes), Layer((20, 10), axes)])
    [0.375, 0.75]
    """
    total = sum(layer.size for layer in layers)
    return [(1 - sparsity) * total / len(layers) / layer.size for layer in layers]


def pyramidal(sparsity: float, layers: Sequence[Layer]) -> Densities:
    """The fraction that each layer keeps: q, q^2, q^3 and so on.

    >>> axes = Axes(inputs=(0,), outputs=(1,), stack=(), window=())
    >>> found = pyramidal(0.625, [Layer((10, 10), axes), Layer((10, 10), axes)])
    >>> [round(density, 12) for density in found]
    [0.5, 0.25]
    """
    total = sum(layer.size for layer in layers)
    low, high = 0.0, 1.0
    for _ in range(100):  # to the last bit
        q = (low + high) / 2
        kept = sum(q**depth * x.size for depth, x in enumerate(layers, start=1))
        low, high = (q, high) if kept < (1 - sparsity) * total else (low, q)
    return [high**depth for depth in range(1, len(layers) + 1)]


def _uniform(sparsity: float, layers: Sequence[Layer]) -> Densities:
    return [1 - sparsity for _ in layers]


def _sum_over_product(layer: Layer) -> float:
    """(inputs + outputs + window) / their product, of one slice of a stack."""
    axes = layer.axes
    maps = [math.prod(layer.shape[a] for a in x) for x in (axes.inputs, axes.outputs)]
    sizes = [*maps, *(layer.shape[axis] for axis in axes.window)]
    return sum(sizes) / math.prod(sizes)


def _shared(
    sparsity: float, layers: Sequence[Layer], weights: Sequence[float]
) -> Densities:
    """Densities in proportion to weights; what is above 1 goes to the others."""
    densities = [1.0 for _ in layers]
    free, left = {*range(len(layers))}, (1 - sparsity) * sum(x.size for x in layers)
    while free:
        factor = left / sum(weights[i] * layers[i].size for i in free)
        full = {i for i in free if factor * weights[i] >= 1}
        if not full:
            return [
                factor * weights[i] if i in free else 1.0 for i in range(len(layers))
            ]
        free, left = free - full, left - sum(layers[i].size for i in full)
    return densities


RATIOS: Mapping[str, Callable[[float, Sequence[Layer]], Densities]] = {
    "uniform": _uniform,
    "equal_edges": equal_edges,
    "erk": erk,
    "balanced": balanced,
    "pyramidal": pyramidal,
}
"""(the fraction removed of all, layers in order) -> the fraction that each keeps."""
