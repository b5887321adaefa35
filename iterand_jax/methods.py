"""Training methods as pure functions over pytrees.

    init(key, params)                      -> (trainable, frozen)
    params(trainable, frozen, step)        -> what the network sees, differentiable in
                                              the first argument
    masks(trainable, frozen, step)         -> what is kept, None for a method without
    weights(trainable, frozen)             -> what the masks are applied to
    refresh(key, step, trainable, frozen)  -> (frozen, redrawn)

A train step needs no more: it differentiates the loss of `params` with respect to
`trainable`, and every `refresh_every` steps the loop replaces `frozen` by its refresh.
`redrawn`, an int32 scalar, counts the weights that the refresh resampled. Evaluation,
mask churn, analysis and export call the same functions and never check the method's
name.

The argument order is the same in the whole library: trainable before frozen, so scores
before weights, and weights before fixed masks, since `jax.grad` differentiates with
respect to the first argument.

    method       trainable   frozen    refresh
    sgd          weights     nothing   -
    fixed_mask   weights     masks     -
    edge_popup   scores      weights   -
    iterand      scores      weights   each pruned weight with probability r
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from iterand_jax.checks import check_at_least, described
from iterand_jax.runtime.registry import Registry
from iterand_jax.subnetwork import Subnetwork, apply_masks, check_sampling_rate

__all__ = [
    "METHODS",
    "Method",
    "build_method",
    "edge_popup",
    "fixed_mask",
    "iterand",
    "method_fields",
    "register_method",
    "sgd",
    "unfilled_mask",
]

PyTree = Any


def _no_refresh(key, step, trainable, frozen):
    del key, step, trainable
    return frozen, jnp.int32(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """A training method; see the module's docstring.

    Attributes:
      init: (key, params) -> (trainable, frozen).
      params: (trainable, frozen, step) -> the parameters that the network sees. The
        step is an int32 scalar, traced in training: the number of steps done.
      weights: (trainable, frozen) -> all weights, kept and pruned.
      masks: (trainable, frozen, step) -> a tree of the structure of the weights,
        nonzero for kept, None for leaves that are not pruned; or None for a method
        that prunes nothing. params are weights * masks.
      refresh: (key, step, trainable, frozen) -> (frozen, redrawn).
      refresh_every: steps between refreshes, 0 for a method without them.
      trains_weights: whether it trains weights, not scores. If so, the networks of the
        paper have biases and normalization scales.
      masks_change: whether masks change while it trains, so that there is churn to log.
      resampling: (K_per, r) if the weights are those that `Subnetwork` draws from the
        seed and resamples every K_per steps, (0, 0.0) if they are never resampled, so
        that a ticket need not store them; None for weights that are trained or
        initialized in another way.

    >>> subnetwork = Subnetwork(sparsity=0.5)
    >>> method = dataclasses.replace(edge_popup(subnetwork), trains_weights=True)
    >>> method.refresh_every
    0
    """

    init: Callable[[Array, PyTree], tuple[PyTree, PyTree]]
    params: Callable[[PyTree, PyTree, Any], PyTree]
    weights: Callable[[PyTree, PyTree], PyTree]
    masks: Callable[[PyTree, PyTree, Any], PyTree] | None = None
    refresh: Callable[[Array, Any, PyTree, PyTree], tuple[PyTree, Array]] = (
        dataclasses.field(default_factory=lambda: _no_refresh)
    )
    refresh_every: int = 0
    trains_weights: bool = False
    masks_change: bool = True
    resampling: tuple[int, float] | None = None


def _check_subnetwork(subnetwork: Any) -> None:
    if not isinstance(subnetwork, Subnetwork):
        raise ValueError(
            f"a method takes a Subnetwork first, Subnetwork(sparsity=0.5) say; got "
            f"{described(subnetwork)}"
        )


def sgd(subnetwork: Subnetwork) -> Method:
    """Ordinary training of a dense network drawn from the subnetwork's D_param.

    Leaves that edge-popup would prune (kernels) are drawn; biases and normalization
    keep the network's initial values. Everything trains; the sparsity is not used.

    >>> method = sgd(Subnetwork(distribution="kaiming_uniform"))
    >>> method.init(jax.random.key(0), {"kernel": jnp.zeros((2, 2))})[1]
    {}
    """

    _check_subnetwork(subnetwork)

    def init(key, params):
        _, weights = subnetwork.init(key, params)
        return weights, {}

    return Method(
        init=init,
        params=lambda weights, frozen, step: weights,
        weights=lambda weights, frozen: weights,
        trains_weights=True,
    )


def fixed_mask(mask_tree: PyTree) -> Method:
    """Training of the weights that a tree of masks keeps; the others stay zero.

    mask_tree has the structure of the parameters, with None for leaves without a mask.

    >>> method = fixed_mask({"kernel": jnp.array([1, 0]), "bias": None})
    >>> params = {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.array([5.0])}
    >>> weights, masks = method.init(jax.random.key(0), params)
    >>> pruned = method.params(weights, masks, 0)
    >>> pruned["kernel"], pruned["bias"]
    (Array([3., 0.], dtype=float32), Array([5.], dtype=float32))
    """

    if isinstance(mask_tree, Subnetwork):
        raise ValueError("fixed_mask takes a tree of masks; got a Subnetwork")

    def init(key, params):
        del key
        return apply_masks(params, mask_tree), mask_tree

    return Method(
        init=init,
        params=lambda weights, mask_tree, step: apply_masks(weights, mask_tree),
        weights=lambda weights, mask_tree: weights,
        masks=lambda weights, mask_tree, step: mask_tree,
        trains_weights=True,
        masks_change=False,
    )


def unfilled_mask(subnetwork: Subnetwork) -> Method:
    """`fixed_mask` for weights drawn by a subnetwork, with masks that keep all.

    Each stage of magnitude pruning replaces the masks in the frozen tree and the
    weights in the trainable one.

    >>> method = unfilled_mask(Subnetwork())
    >>> method.init(jax.random.key(0), {"kernel": jnp.zeros((1, 2))})[1]
    {'kernel': Array([[1., 1.]], dtype=float32)}
    """

    _check_subnetwork(subnetwork)

    def init(key, params):
        scores, weights = subnetwork.init(key, params)
        return weights, jax.tree.map(jnp.ones_like, scores)

    return dataclasses.replace(fixed_mask({}), init=init)


def edge_popup(subnetwork: Subnetwork) -> Method:
    """Training of the scores alone: the weights stay at their initial values.

    >>> method = edge_popup(Subnetwork(sparsity=0.5))
    >>> params = {"kernel": jnp.zeros((8, 2))}
    >>> scores, weights = method.init(jax.random.key(0), params)
    >>> int((method.params(scores, weights, 0)["kernel"] != 0).sum())
    8
    """
    _check_subnetwork(subnetwork)
    return Method(
        init=subnetwork.init,
        params=lambda scores, weights, step: subnetwork.prune(scores, weights),
        weights=lambda scores, weights: weights,
        masks=lambda scores, weights, step: subnetwork.masks(scores),
        resampling=None if subnetwork.distribution is None else (0, 0.0),
    )


def iterand(subnetwork: Subnetwork, *, k_per: int, sampling_rate: float) -> Method:
    """edge-popup, with a random part of the pruned weights resampled every K_per steps.

    With sampling_rate 0 it is edge-popup, bit for bit.

    Args:
      subnetwork: how the network is initialized and pruned.
      k_per: K_per, the randomization period in steps, at least 1.
      sampling_rate: r in [0, 1], the probability that a pruned weight is resampled.

    Raises:
      ValueError: k_per below 1, a sampling rate outside [0, 1], or a subnetwork of
        given weights (distribution=None), which nothing can resample.

    >>> method = iterand(Subnetwork(sparsity=0.5), k_per=300, sampling_rate=1.0)
    >>> params = {"kernel": jnp.zeros((8, 2))}
    >>> scores, weights = method.init(jax.random.key(0), params)
    >>> weights, redrawn = method.refresh(jax.random.key(0), 300, scores, weights)
    >>> method.refresh_every, int(redrawn)
    (300, 8)
    """
    _check_subnetwork(subnetwork)
    check_at_least(1, k_per, "k_per is the period in steps")
    check_sampling_rate(sampling_rate)
    subnetwork.drawn_from  # noqa: B018 - given weights are refused before training

    def refresh(key, step, scores, weights):
        key = jax.random.fold_in(key, step)
        return subnetwork.rerandomize_and_count(key, scores, weights, sampling_rate)

    return dataclasses.replace(
        edge_popup(subnetwork),
        refresh=refresh,
        refresh_every=k_per,
        resampling=(k_per, sampling_rate),
    )


def _as_factory(value: Any) -> Callable[..., Method]:
    if not callable(value):
        raise ValueError(f"{value!r} is not a function that takes a Subnetwork")
    return value


METHODS: Registry[Callable[..., Method]] = Registry(
    "method",
    {
        "sgd": sgd,
        "edge_popup": edge_popup,
        "iterand": iterand,
    },
    as_entry=_as_factory,
)
"""Methods by name: (subnetwork, *, the method's hyperparameters) -> Method."""

_OF_PROCEDURES: Mapping[str, Callable[..., Method]] = {"fixed_mask": unfilled_mask}
"""Methods that need the results of an earlier run, so that no config can name them."""


def register_method(name: str, factory: Callable[..., Method]) -> None:
    """Registers a method under a name, for configs and all commands.

    Args:
      name: the value of `config.method`; the config needs a recipe of that name.
      factory: takes a `Subnetwork`, and as keywords the method's own hyperparameters,
        which are the fields of its recipe: `def build(subnetwork, *, k_per)`.

    Raises:
      ValueError: the name is taken by another method.

    >>> register_method("edge_popup", edge_popup)  # the same function: no change
    """
    if name in _OF_PROCEDURES:
        raise ValueError(f"there is another method {name!r} already")
    METHODS.register(name, factory)


def _factory(name: str) -> Callable[..., Method]:
    return _OF_PROCEDURES.get(name) or METHODS.get(name)


def method_fields(name: str) -> dict[str, bool]:
    """The hyperparameters of a method, and whether each is required.

    Raises:
      ValueError: an unknown name.

    >>> method_fields("iterand")
    {'k_per': True, 'sampling_rate': True}
    """
    _, *own = inspect.signature(_factory(name)).parameters.values()
    for field in own:
        if field.kind in (field.VAR_KEYWORD, field.VAR_POSITIONAL):
            raise ValueError(
                f"the factory of the method {name!r} takes {field}; each "
                f"hyperparameter must be a named argument"
            )
    return {field.name: field.default is field.empty for field in own}


def build_method(name: str, subnetwork: Subnetwork, fields: Mapping) -> Method:
    """Builds the method of a registered name from those of the fields that it takes.

    Raises:
      ValueError: an unknown name, a missing field, or a value that it does not accept.

    >>> fields = {"k_per": 300, "sampling_rate": 0.1, "epochs": 100}
    >>> build_method("iterand", Subnetwork(), fields).refresh_every
    300
    """
    own = {}
    for field, needed in method_fields(name).items():
        if field in fields and fields[field] is not None:
            own[field] = fields[field]
        elif needed:
            raise ValueError(f"the method {name!r} needs a value for {field}")
    return _factory(name)(subnetwork, **own)
