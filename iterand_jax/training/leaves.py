"""What a run does with single leaves: not pruned, trained, fixed, or given.

`config.unpruned` lists patterns of leaves that have neither scores nor masks. Each may
say what becomes of them; the first pattern that matches a leaf counts:

    "Dense_0/kernel"           as the method does: methods that train scores keep it as
                               it was initialized, methods that train weights train it
    "Dense_0/kernel=trained"   trained as weights, whatever the method trains
    "Dense_0/kernel=fixed"     never changed, whatever the method trains

All of them start as the network initializes them, or as `config.network.vectors` gives
them; D_param is for leaves that the rules prune.

A method keeps its trees: `treated` only moves such a leaf from one to the other. In a
method that trains scores, a trained leaf is in the trainable tree, in place of the None
that a leaf without scores has there, and None in the frozen one.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from iterand_jax.methods import Method
from iterand_jax.rules import Rule
from iterand_jax.rules.patterns import literal, matches
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.trees import leaves_of, map_paths, path_string

__all__ = [
    "TREATMENTS",
    "Treatment",
    "check_patterns",
    "learned",
    "parse",
    "treated",
]

PyTree = Any
TREATMENTS = ("trained", "fixed")


class Treatment(NamedTuple):
    """One entry of `config.unpruned`: a pattern, and "trained", "fixed" or ""."""

    pattern: str
    how: str = ""

    @property
    def rule(self) -> Rule:
        """The rule that leaves of this pattern are not pruned."""
        return Rule(self.pattern, prune=False)


class _Apart(NamedTuple):
    """The frozen tree of a method that trains weights, and the leaves it is not to."""

    own: PyTree
    fixed: dict[str, Any]


def parse(entries: Iterable[str]) -> list[Treatment]:
    """The entries of `config.unpruned`.

    Raises:
      ValueError: one that is no text, or says something else than `TREATMENTS`.

    >>> parse(["*/bias", "Embed_0/embedding=trained"])[1]
    Treatment(pattern='Embed_0/embedding', how='trained')
    >>> parse(["Embed_0/embedding=scored"])
    Traceback (most recent call last):
    ...
    ValueError: unpruned: 'Embed_0/embedding=scored' is not possible; possible: \
PATTERN, PATTERN=trained, PATTERN=fixed
    """
    parsed = []
    for entry in entries:
        pattern, sign, how = str(entry).partition("=")
        known = how in TREATMENTS if sign else True
        if not (isinstance(entry, str) and pattern and known):
            possible = ", ".join(f"PATTERN={how}" for how in TREATMENTS)
            raise ValueError(
                f"unpruned: {entry!r} is not possible; possible: PATTERN, {possible}"
            )
        parsed.append(Treatment(pattern, how))
    return parsed


def check_patterns(treatments: Sequence[Treatment], params: PyTree) -> None:
    """Raises ValueError for a pattern that is the first to match none of the leaves."""
    paths = leaves_of(params)
    found = {_first(treatments, path) for path in paths}
    for treatment in treatments:
        if treatment not in found:
            raise ValueError(
                f"unpruned: {treatment.pattern!r} is the first to match no leaf; "
                f"possible: {', '.join(paths)}"
            )


def learned(params: PyTree, subnetwork: Subnetwork, network: str) -> list[Treatment]:
    """That all leaves which the rules of a network do not prune are trained.

    Args:
      params: of the network.
      subnetwork: with the network's own rules.
      network: its name, for the error.

    Raises:
      ValueError: there are none.

    >>> params = {"kernel": jax.numpy.zeros((2, 2)), "bias": jax.numpy.zeros(2)}
    >>> learned(params, Subnetwork(), "mine")
    [Treatment(pattern='bias', how='trained')]
    """
    pruned = subnetwork.fan_ins(params)
    own = [path for path in leaves_of(params) if path not in pruned]
    if not own:
        raise ValueError(
            f"affine=True: the network {network} has no biases or scales to train"
        )
    return [Treatment(literal(path), "trained") for path in own]


def treated(
    method: Method, treatments: Sequence[Treatment], given: Sequence[str] = ()
) -> Method:
    """A method that trains and fixes leaves as they are to be.

    Args:
      method: any whose trainable tree has the structure of the network's parameters
        and, where it trains scores, the weights in its frozen tree too.
      treatments: which leaves are not pruned; `method` prunes none of them.
      given: paths of leaves whose weights start as the network has them, pruned or not,
        instead of drawn.

    Raises:
      ValueError: when it is initialized, a method with other trees.
    """

    wanted = "fixed" if method.trains_weights else "trained"
    moving = any(treatment.how == wanted for treatment in treatments)
    if not (moving or given):
        return method

    def is_moved(path: str) -> bool:
        first = _first(treatments, path)
        return first is not None and first.how == wanted

    started = dataclasses.replace(method, init=_given(method, given))
    if not moving:
        return started
    of = _with_fixed if method.trains_weights else _with_trained
    return of(started, is_moved)


def _first(treatments: Iterable[Treatment], path: str) -> Treatment | None:
    return next((t for t in treatments if matches(t.pattern, path)), None)


def _given(method: Method, paths: Sequence[str]) -> Callable[..., Any]:
    """The init of a method, in which these weights are those of the parameters."""

    def init(key, params):
        trainable, frozen = method.init(key, params)
        leaves = {path: leaves_of(params)[path] for path in paths}
        if method.trains_weights:
            return _put(trainable, leaves), frozen
        return trainable, method.on_weights(lambda w: _put(w, leaves), frozen)

    return init


def _with_trained(method: Method, is_moved: Callable[[str], bool]) -> Method:
    """A method that trains scores, and the weights of these leaves."""

    def removed(frozen, moved):
        return method.on_weights(lambda weights: _without(weights, moved), frozen)

    def init(key, params):
        scores, frozen = method.init(key, params)
        weights = leaves_of(method.weights(scores, frozen))
        moved = {p: w for p, w in weights.items() if is_moved(p)}
        scored = leaves_of(scores).keys() & moved.keys()
        if scored or leaves_of(params).keys() != weights.keys():
            raise _other_trees("scores")
        return _put(scores, moved), removed(frozen, moved)

    def apart(trainable):
        moved = {p: w for p, w in leaves_of(trainable).items() if is_moved(p)}
        return _without(trainable, moved), moved

    def joined(trainable, frozen):
        scores, moved = apart(trainable)
        put = method.on_weights(lambda weights: _put(weights, moved), frozen)
        return scores, put, moved

    def params(trainable, frozen, step):
        scores, whole, moved = joined(trainable, frozen)
        # A method stops gradients at the weights that it does not train.
        return _replaced(method.params(scores, whole, step), moved)

    def masks(trainable, frozen, step):
        assert method.masks is not None
        scores, whole, _ = joined(trainable, frozen)
        return method.masks(scores, whole, step)

    def noisy(key, trainable, frozen, step):
        assert method.noisy is not None
        scores, whole, moved = joined(trainable, frozen)
        return _replaced(method.noisy(key, scores, whole, step), moved)

    def penalty(trainable):
        assert method.penalty is not None
        return method.penalty(apart(trainable)[0])

    def project(trainable):
        scores, moved = apart(trainable)
        return _put(method.project(scores), moved)

    def refresh(key, step, trainable, frozen):
        scores, whole, moved = joined(trainable, frozen)
        whole, redrawn = method.refresh(key, step, scores, whole)
        return removed(whole, moved), redrawn

    return dataclasses.replace(
        method,
        init=init,
        params=params,
        weights=lambda t, f: method.weights(*joined(t, f)[:2]),
        masks=None if method.masks is None else masks,
        refresh=refresh,
        noisy=None if method.noisy is None else noisy,
        penalty=None if method.penalty is None else penalty,
        project=project,
    )


def _with_fixed(method: Method, is_moved: Callable[[str], bool]) -> Method:
    """A method that trains weights, but not those of these leaves."""

    def init(key, params):
        weights, frozen = method.init(key, params)
        if not leaves_of(params).keys() == leaves_of(weights).keys():
            raise _other_trees("weights")
        fixed = {p: w for p, w in leaves_of(weights).items() if is_moved(p)}
        return _without(weights, fixed), _Apart(frozen, fixed)

    def of_whole(function):
        def call(weights, frozen, *step):
            return function(_put(weights, frozen.fixed), frozen.own, *step)

        return call

    def noisy(key, weights, frozen, step):
        assert method.noisy is not None
        return of_whole(functools.partial(method.noisy, key))(weights, frozen, step)

    def refresh(key, step, weights, frozen):
        whole = _put(weights, frozen.fixed)
        own, redrawn = method.refresh(key, step, whole, frozen.own)
        return frozen._replace(own=own), redrawn

    return dataclasses.replace(
        method,
        init=init,
        params=of_whole(method.params),
        weights=of_whole(method.weights),
        masks=None if method.masks is None else of_whole(method.masks),
        refresh=refresh,
        noisy=None if method.noisy is None else noisy,
    )


def _without(tree: PyTree, moved: Mapping[str, Any]) -> PyTree:
    return map_paths(lambda path, leaf: None if path in moved else leaf, tree)


def _replaced(tree: PyTree, leaves: Mapping[str, Any]) -> PyTree:
    return map_paths(lambda path, leaf: leaves.get(path, leaf), tree)


def _put(tree: PyTree, leaves: Mapping[str, Any]) -> PyTree:
    """The tree with these leaves, where it has others or None."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaves.get(path_string(path), leaf),
        tree,
        is_leaf=lambda leaf: leaf is None,
    )


def _other_trees(what: str) -> ValueError:
    return ValueError(
        f"unpruned, affine: the method does not train {what} in a tree of the "
        f"network's structure, so it cannot be said of single leaves what becomes of "
        f"them; possible: affine=None, and patterns without "
        f"{' and '.join(f'={how}' for how in TREATMENTS)}"
    )
