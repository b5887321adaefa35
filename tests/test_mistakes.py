"""Simple mistakes raise errors of one line that names the value or the path."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax import (
    OUTPUTS_FIRST_RULES,
    Rule,
    Subnetwork,
    apply_masks,
    edge_popup,
    fixed_mask,
    iterand,
    sgd,
    topk_mask,
)
from iterand_jax.masks import order_keys, threshold, topk_masks, topk_masks_of_slices
from iterand_jax.methods import unfilled_mask

KEY = jax.random.key(0)
PARAMS = {"a": {"kernel": jnp.zeros((4, 3)), "bias": jnp.ones(3)}}
HALF = Subnetwork(0.5)
SCORES, WEIGHTS = HALF.init(KEY, PARAMS)
OTHER = {"a": {"kernel": jnp.zeros((3, 4)), "bias": None}}
DEEPER = {"a": {"kernel": {"w": jnp.zeros((4, 3))}, "bias": None}}
MORE = {**WEIGHTS, "b": {"kernel": jnp.zeros((4, 3))}}


def of_dtype(dtype):
    return {"Dense_0": {"kernel": jnp.zeros((4, 3), dtype)}}


def unpartitioned():
    return eqx.nn.MLP(2, 2, 4, 1, key=KEY)


MISTAKES = {
    "key and params swapped": (lambda: HALF.init(PARAMS, KEY), "key, .*; got a dict"),
    "a seed for a key": (lambda: HALF.init(0, PARAMS), "key, .*; got 0"),
    "keys of a batch": (
        lambda: HALF.init(jax.random.split(KEY, 2), PARAMS),
        r"one jax.random.key; got an array of key<fry> \(2,\)",
    ),
    "scores for a key": (
        lambda: HALF.rerandomize(SCORES, KEY, WEIGHTS, 0.5),
        "key, .*; got a dict",
    ),
    "an unpartitioned model": (
        lambda: Subnetwork(rules=OUTPUTS_FIRST_RULES).init(KEY, unpartitioned()),
        "the leaf 'activation' is the function .* not an array; .*equinox.filter",
    ),
    "a number among the arrays": (
        lambda: HALF.init(KEY, {**PARAMS, "scale": 2.0}),
        "the leaf 'scale' is 2.0 and not an array",
    ),
    "int8": (lambda: HALF.init(KEY, of_dtype("int8")), "'Dense_0/kernel' of int8"),
    "bool": (lambda: HALF.init(KEY, of_dtype("bool")), "'Dense_0/kernel' of bool"),
    "complex": (
        lambda: HALF.init(KEY, of_dtype("complex64")),
        "'Dense_0/kernel' of complex64 cannot be drawn; possible: float16, bfloat16",
    ),
    "float8, which rounds a large fan-in to zero": (
        lambda: HALF.init(KEY, of_dtype("float8_e4m3fn")),
        "'Dense_0/kernel' of float8_e4m3fn cannot be drawn; possible: float16, ",
    ),
    "a list for scores": (
        lambda: topk_mask([0.5, 1.0], 0.5),
        r"scores must be a floating point array; got \[0.5, 1.0\]",
    ),
    "scores and sparsity swapped": (
        lambda: topk_mask(0.5, jnp.ones(3)),
        "scores must be a floating point array; got 0.5",
    ),
    "a number for the threshold's scores": (
        lambda: threshold(0.5, 0.5),
        "scores must be a floating point array; got 0.5",
    ),
    "a list for a stack of scores": (
        lambda: topk_masks_of_slices([[0.5], [1.0]], (0,), 0.5),
        r"scores must be a floating point array; got \[\[0.5\], \[1.0\]\]",
    ),
    "a number for keys": (
        lambda: order_keys(0.5),
        "scores must be a floating point array; got 0.5",
    ),
    "one sparsity for two leaves": (
        lambda: topk_masks([jnp.ones(3), jnp.ones(2)], 0.5),
        "2 sparsities are needed, one for each leaf or group; got 0.5",
    ),
    "scores of 8 bits": (
        lambda: topk_mask(jnp.ones(3, "float8_e8m0fnu"), 0.5),
        "scores must be floating point, got float8_e8m0fnu; possible: float16, ",
    ),
    "scores of no dtype": (
        lambda: Subnetwork(scores_dtype="float99"),
        "scores_dtype is 'float99'; possible: float16, ",
    ),
    "a distribution in a list": (
        lambda: Subnetwork(distribution=["signed_constant"]),
        r"unknown distribution \['signed_constant'\]; possible: ",
    ),
    "no rules": (lambda: Subnetwork(rules=None), "sequence of Rule objects; got None"),
    "a rule's fields swapped": (
        lambda: Rule(True, "*/kernel"),
        "pattern, before prune, is the text of a path; got True",
    ),
    "a text for whether to prune": (
        lambda: Rule("*/kernel", "no"),
        r"the rule '\*/kernel': prune is True or False; got 'no'",
    ),
    "a sparsity by a number": (
        lambda: Subnetwork({0: 0.5}),
        "pattern is the text of a path; got 0",
    ),
    "scores for fixed masks": (
        lambda: fixed_mask(SCORES),
        "the mask of the leaf 'a/kernel' has other values than 1 for kept and 0 ",
    ),
    "scores for masks": (
        lambda: apply_masks(WEIGHTS, SCORES),
        "the mask of the leaf 'a/kernel' has other values than 1 for kept and 0 ",
    ),
    "scores for masks that a traced function uses": (
        lambda: jax.jit(lambda weights: apply_masks(weights, SCORES))(WEIGHTS),
        "the mask of the leaf 'a/kernel' has other values than 1 for kept and 0 ",
    ),
    "two leaves of one path": (
        lambda: HALF.init(KEY, {**PARAMS, "a/kernel": jnp.zeros((4, 3))}),
        "two leaves of the tree have the path 'a/kernel'",
    ),
    "scores of one path": (
        lambda: HALF.masks({**SCORES, "a/kernel": SCORES["a"]["kernel"]}),
        "two leaves of the tree have the path 'a/kernel'",
    ),
    "a pair of one path": (
        lambda: apply_masks({**WEIGHTS, "a/bias": jnp.ones(3)}, {"a": None}),
        "two leaves of the tree have the path 'a/bias'",
    ),
    "scores of integers": (
        lambda: Subnetwork(scores_dtype="int8"),
        "scores must be floating point, got int8",
    ),
    "weights for scores": (
        lambda: HALF.prune(WEIGHTS, SCORES),
        "'a/bias' has a score and no weight",
    ),
    "another shape": (
        lambda: HALF.prune(OTHER, WEIGHTS),
        r"'a/kernel' has scores \(3, 4\) and weights \(4, 3\)",
    ),
    "another depth": (
        lambda: HALF.prune(DEEPER, WEIGHTS),
        "'a/kernel/w' has a score and is not in the tree of weights",
    ),
    "a missing leaf": (
        lambda: HALF.prune(SCORES, MORE),
        "'b/kernel' has a weight, and the tree of scores has neither a score nor None",
    ),
    "a missing mask": (
        lambda: apply_masks(MORE, HALF.masks(SCORES)),
        "'b/kernel' has a weight, and the tree of masks has neither a mask nor None",
    ),
    "redrawn by another tree": (
        lambda: HALF.rerandomize(KEY, SCORES, MORE, 0.5),
        "'b/kernel' has a weight",
    ),
    "another container": (
        lambda: HALF.prune([SCORES["a"]], (WEIGHTS["a"],)),
        "the trees of scores and weights differ in structure: ",
    ),
    "a score that is no array": (
        lambda: HALF.masks({"kernel": 1.5}),
        "the leaf 'kernel' is 1.5 and not an array",
    ),
    "rules as text": (
        lambda: Subnetwork(rules="*/kernel"),
        r"rules is a sequence of Rule objects; got '\*/kernel'",
    ),
    "rules of text": (
        lambda: Subnetwork(rules=("*/kernel",)),
        r"rules are Rule objects; got '\*/kernel'",
    ),
    "one rule": (lambda: Subnetwork(rules=Rule("*", True)), "rules is a sequence of"),
    "sparsity as a list": (lambda: Subnetwork([0.5]), r"in \[0, 1\); got \[0.5\]"),
    "sparsity None": (lambda: Subnetwork(None), r"in \[0, 1\); got None"),
    "sparsity as text": (lambda: Subnetwork("0.5"), r"in \[0, 1\); got '0.5'"),
    "sparsity as text of a pattern": (lambda: Subnetwork({"*": "0.5"}), "got '0.5'"),
    "sparsities in an array": (
        lambda: topk_mask(jnp.ones(3), np.full(3, 0.5)),
        r"got an array of float64 \(3,\)",
    ),
    "traced sparsities in an array": (
        lambda: jax.jit(lambda p: topk_mask(jnp.ones(3), p))(jnp.full(3, 0.5)),
        r"got an array of float32 \(3,\)",
    ),
    "a rate as text": (
        lambda: HALF.rerandomize(KEY, SCORES, WEIGHTS, "0.1"),
        r"sampling_rate .* in \[0, 1\]; got '0.1'",
    ),
    "half a period": (
        lambda: iterand(HALF, k_per=1.5, sampling_rate=0.1),
        "k_per is the period in steps and must be an integer of at least 1; got 1.5",
    ),
    "a period that is true": (
        lambda: iterand(HALF, k_per=True, sampling_rate=0.1),
        "at least 1; got True",
    ),
    "masks for a subnetwork": (lambda: fixed_mask(HALF), "fixed_mask takes a tree"),
} | {
    f"a number for {method.__name__}": (
        lambda method=method: method(0.5),
        "a method takes a Subnetwork first, .*; got 0.5",
    )
    for method in (sgd, edge_popup, unfilled_mask)
}


@pytest.mark.smoke
@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_of_hand_is_one_line(name):
    make, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_number_for_iterand_is_named_before_its_fields():
    with pytest.raises(ValueError, match=r"takes a Subnetwork first, .*; got 0.5"):
        iterand(0.5, k_per=3, sampling_rate=0.1)


def test_what_only_looks_like_a_mistake_is_taken():
    """Numbers of NumPy, a filtered model, raw keys, masks that stop above a subtree."""
    Subnetwork(np.float32(0.5), rules=[Rule("*", True)])
    wide = HALF.init(KEY, {"kernel": np.zeros((4, 3), np.float64)})  # without a warning
    assert {leaf["kernel"].dtype for leaf in wide} == {jnp.dtype("float32")}
    iterand(HALF, k_per=np.int64(3), sampling_rate=np.float64(1))
    model = eqx.filter(unpartitioned(), eqx.is_inexact_array)
    Subnetwork(rules=OUTPUTS_FIRST_RULES).init(np.array([0, 1], np.uint32), model)
    integers = {**PARAMS, "steps": jnp.zeros(3, jnp.int32)}
    assert HALF.init(KEY, integers)[1]["steps"].dtype == jnp.int32  # is not drawn
    weights = {"a": jnp.ones(3), "b": {"c": jnp.ones(2)}}
    pruned = apply_masks(weights, {"a": jnp.array([1, 0, 1]), "b": None})
    np.testing.assert_array_equal(pruned["a"], [1, 0, 1])


def test_a_traced_function_may_use_masks_from_outside():
    masks = HALF.masks(SCORES)

    @jax.jit
    def of_weights(weights):
        trainable, frozen = fixed_mask(masks).init(KEY, weights)
        return apply_masks(weights, masks), trainable, frozen

    applied, trainable, frozen = of_weights(WEIGHTS)
    expected = WEIGHTS["a"]["kernel"] * masks["a"]["kernel"]
    for found in (applied, trainable):
        np.testing.assert_array_equal(found["a"]["kernel"], expected)
    np.testing.assert_array_equal(frozen["a"]["kernel"], masks["a"]["kernel"])
    jax.jit(apply_masks)(WEIGHTS, SCORES)  # traced masks cannot be checked
