"""State dicts that are no ours become tickets, or are refused by name.

These tests need no PyTorch; `test_torch_states` compares with its networks.
"""

import re

import numpy as np
import pytest

from iterand_jax.tickets import names
from iterand_jax.tickets.conversion import Pruning
from tests.tickets.plain_states import (
    CLASSES,
    SHAPES,
    SIDE,
    converted,
    drawn,
    kernels,
    scored,
)

SCORED = Pruning(sparsity=0.5, ranked_by="score")


def literal(array, pixels=1):
    """A kernel in Flax's layout, by indices."""
    if array.ndim == 4:
        return np.moveaxis(array, (0, 1), (3, 2))
    outputs, inputs = array.shape
    found, channels = np.zeros((inputs, outputs), array.dtype), inputs // pixels
    for channel in range(channels):
        for pixel in range(pixels):
            found[pixel * channels + channel] = array[:, channel * pixels + pixel]
    return found


def expected(tensors):
    pixels = {"classifier.0.weight": 16}
    layers = zip(
        ("Conv_0", "Conv_1", "Dense_0", "Dense_1", "Dense_2"), SHAPES, strict=True
    )
    return {ours: literal(tensors[n], pixels.get(n, 1)) for ours, n in layers}


@pytest.mark.smoke
def test_weights_alone_are_a_ticket_without_masks():
    tensors = drawn()
    ticket, notes = converted(tensors)
    assert notes == []
    assert not any(mask is not None for mask in kernels(ticket.masks).values())
    for name, kernel in expected(tensors).items():
        np.testing.assert_array_equal(ticket.params[name]["kernel"], kernel)
    assert ticket.description.inputs == (((1, SIDE, SIDE, 3), "float32"),)
    assert ticket.description.network["num_classes"] == CLASSES
    assert ticket.description.network["affine"] is False
    assert ticket.apply(np.zeros((2, SIDE, SIDE, 3))).shape == (2, CLASSES)


REMOVED = {  # of n weights at sparsity 0.37
    "count": lambda n: round(0.37 * n),
    "quantile": lambda n: round(0.37 * (n - 1)),
    "floor": lambda n: int(0.37 * n),
}


@pytest.mark.parametrize("ranked_by", ["score", "magnitude"])
@pytest.mark.parametrize("rank", list(REMOVED))
def test_scores_keep_the_largest_of_each_layer(rank, ranked_by):
    tensors = scored()
    pruning = Pruning(sparsity=0.37, ranked_by=ranked_by, rank=rank)
    ticket, notes = converted(tensors, pruning)
    assert notes == []
    wanted = {}
    for name in SHAPES:
        own = tensors[name.replace("weight", "scores")]
        own = np.abs(own) if ranked_by == "magnitude" else own
        mask = np.ones(own.size, bool)
        mask[np.argsort(own.ravel())[: REMOVED[rank](own.size)]] = False
        wanted[name] = mask.reshape(own.shape)
    sizes = [np.prod(shape) for shape in SHAPES.values()]
    assert len({tuple(f(n) for n in sizes) for f in REMOVED.values()}) == 3
    for name, mask in expected(wanted).items():
        np.testing.assert_array_equal(ticket.masks[name]["kernel"], mask)
        kernel = expected(tensors)[name] * mask
        np.testing.assert_array_equal(ticket.params[name]["kernel"], kernel)


@pytest.mark.parametrize("form", ["mask", "weight_mask", "pruned"])
def test_masks_are_of_the_weights_beside_them(form):
    rng, tensors = np.random.default_rng(2), drawn()
    given = {name: rng.random(shape) < 0.4 for name, shape in SHAPES.items()}
    if form == "pruned":  # as torch.nn.utils.prune
        stored = {f"{name}_orig": x for name, x in tensors.items()}
        stored |= {f"{n}_mask": m.astype(np.float32) for n, m in given.items()}
    else:
        stored = tensors | {n.replace("weight", form): m for n, m in given.items()}
    ticket, notes = converted(stored)
    assert notes == []
    for name, mask in expected(given).items():
        np.testing.assert_array_equal(ticket.masks[name]["kernel"], mask)
        kernel = expected(tensors)[name] * mask
        np.testing.assert_array_equal(ticket.params[name]["kernel"], kernel)


def test_what_a_mask_makes_of_weights():
    tensors = scored()
    binary, _ = converted(
        tensors, Pruning(sparsity=0.5, ranked_by="score", values="binary")
    )
    scaled, _ = converted(
        tensors, Pruning(sparsity=0.5, ranked_by="score", values="scaled")
    )
    plain, _ = converted(tensors, SCORED)
    for name, kernel in kernels(plain.params).items():
        kept = kernel[kernel != 0].astype(np.float64)
        size = np.float32(np.abs(kept).mean())
        np.testing.assert_array_equal(
            kernels(binary.params)[name], size * np.sign(kernel)
        )
        share = kept.size / kernel.size
        wide = np.float32(kernel.astype(np.float64) / np.sqrt(share))
        np.testing.assert_allclose(kernels(scaled.params)[name], wide, 1e-6)


def test_one_threshold_for_all():
    tensors = scored()
    pruning = Pruning(sparsity=0.9, ranked_by="magnitude", scope=("*",))
    ticket, _ = converted(tensors, pruning)
    scores = [np.abs(tensors[n.replace("weight", "scores")]).ravel() for n in SHAPES]
    whole = np.concatenate(scores)
    kept = {name: mask.sum() for name, mask in kernels(ticket.masks).items()}
    least = np.sort(whole)[round(0.9 * whole.size)]
    assert [*kept.values()] == [np.sum(own >= least) for own in scores]


def test_ties_and_rounding_are_reported():
    tensors = scored()
    tensors["classifier.4.scores"][:] = 1
    _, notes = converted(tensors, SCORED)
    assert notes == ["40 more weights are kept, with scores that equal a threshold"]
    _, notes = converted(drawn() | {"features.0.weight": np.full((4, 3, 3, 3), 0.1)})
    assert notes == ["rounded to float32: Conv_0/kernel"]


def test_biases_are_kept_where_they_do_anything():
    biases = {n.replace("weight", "bias"): np.zeros(s[0]) for n, s in SHAPES.items()}
    ticket, _ = converted(drawn() | biases)
    assert ticket.description.network["affine"] is False
    biases["features.2.bias"][1] = 2
    del biases["classifier.4.bias"]  # a layer without is one of zeros
    ticket, _ = converted(scored() | biases, SCORED)
    assert ticket.description.network["affine"] is True
    np.testing.assert_array_equal(ticket.params["Conv_1"]["bias"], [0, 2, 0, 0])
    assert not ticket.params["Dense_2"]["bias"].any()
    assert ticket.masks["Conv_1"]["bias"] is None


def test_prefixes_that_all_names_share_are_left_out_and_others_are_renamed():
    tensors = {f"module.net.{name}": x for name, x in scored("score").items()}
    ticket, _ = converted(
        tensors | {"module.net.steps.num_batches_tracked": np.array(3)},
        SCORED,
        rename=["score=scores", "features=convs"],
    )
    wanted, _ = converted(scored(), SCORED)
    for name, kernel in kernels(wanted.params).items():
        np.testing.assert_array_equal(ticket.params[name]["kernel"], kernel)


def without(name):
    return {n: x for n, x in drawn().items() if n != name}


REFUSED = {  # tensors, options, words
    "left over": (drawn() | {"alpha": np.ones(1)}, {}, "left over: alpha"),
    "a layer's own scale": (
        scored() | {"features.0.scale": np.ones(1)},
        {"pruning": SCORED},
        "not of this network; left over: features.0.scale",
    ),
    "normalization": (
        drawn() | {"bn.weight": np.ones(4), "bn.bias": np.ones(4)},
        {},
        "left over: bn.bias, bn.weight",
    ),
    "missing": (
        {"conv1.weight": np.ones((64, 3, 3, 3)), "fc.weight": np.ones((5, 16))},
        {"name": "resnet20"},
        "missing: bn1.running_mean, bn1.running_var, layer1.0.bn1.running_mean",
    ),
    "too few": (
        without("features.2.weight"),
        {},
        "the network has 2 convolutions and the state dict 1: features.0",
    ),
    "no order": (
        without("features.2.weight") | {"second.weight": np.ones((4, 4, 3, 3))},
        {},
        "the convolutions second, features.0 have no order",
    ),
    "shapes": (
        drawn(),
        {"width": 1 / 32},
        "features.0.weight is of (4, 3, 3, 3) and not (2, 3, 3, 3), features.2.weight",
    ),
    "no square": (
        drawn() | {"classifier.0.weight": np.ones((16, 4 * 15), np.float32)},
        {},
        "classifier.0.weight reads 60 values, which are not those of 4 channels",
    ),
    "no outputs": (
        drawn() | {"classifier.4.weight": np.ones((0, 16), np.float32)},
        {},
        "the state dict has no values of classifier.4.weight",
    ),
    "nothing flat": (
        drawn() | {"classifier.0.weight": np.ones((16, 0), np.float32)},
        {},
        "the state dict has no values of classifier.0.weight",
    ),
    "a scope of nothing": (
        scored(),
        {"pruning": Pruning(sparsity=0.5, ranked_by="score", scope=("conv*",))},
        "the scope pattern 'conv*' is the first to match none of the pruned leaves",
    ),
    "image size": (drawn(), {"image_size": 32}, "square images of 32 pixels"),
    "integers": (
        drawn() | {"features.0.weight": np.ones((4, 3, 3, 3), np.int8)},
        {},
        "features.0.weight is of int8; possible: floats",
    ),
    "scores unsaid": (scored(), {}, "there are scores of 5 weights; which they keep"),
    "rank unsaid": (
        scored(),
        {"pruning": Pruning(sparsity=0.5)},
        "--ranked_by=score or",
    ),
    "no scores": (drawn(), {"pruning": SCORED}, "are of scores, and there are none"),
    "rank of no scores": (
        drawn(),
        {"pruning": Pruning(rank="quantile")},
        "--rank and --scope are of scores, and there are none",
    ),
    "no masks": (
        drawn(),
        {"pruning": Pruning(values="binary")},
        "kept_values=binary is of",
    ),
    "floor of all": (
        scored(),
        {
            "pruning": Pruning(
                sparsity=0.5, ranked_by="score", rank="floor", scope=("*",)
            )
        },
        "--rank=floor is of single layers",
    ),
    "all removed": (
        scored(),
        {"pruning": Pruning(sparsity=1.0, ranked_by="score")},
        "sparsity is the fraction of weights removed, a number in [0, 1); got 1",
    ),
    "NaN": (
        scored() | {"features.0.scores": np.full((4, 3, 3, 3), np.nan)},
        {"pruning": SCORED},
        "the scores of Conv_0/kernel are of float64 or have NaN",
    ),
    "not finite": (
        drawn() | {"features.0.weight": np.full((4, 3, 3, 3), 1e39)},
        {},
        "features.0.weight has values that are not finite in float32",
    ),
    "scores of a bias": (
        drawn() | {"bn.weight": np.ones(4), "bn.scores": np.ones(4)},
        {"pruning": SCORED},
        "left over: bn.weight",
    ),
    "half a mask": (
        drawn() | {"features.0.mask": np.full((4, 3, 3, 3), 0.5)},
        {},
        "the mask of features.0.weight has other values than 0 and 1",
    ),
    "shape of a mask": (
        drawn() | {"features.0.mask": np.ones((4, 3, 3, 1))},
        {},
        "of (4, 3, 3, 3), and there is a mask of it of (4, 3, 3, 1)",
    ),
    "a mask without weights": (
        drawn() | {"x.mask": np.ones(1)},
        {},
        "there is a mask and no weight of x.weight",
    ),
    "weights without their mask": (
        without("features.0.weight")
        | {"features.0.weight_orig": np.ones((4, 3, 3, 3))},
        {},
        "there is no mask of features.0.weight",
    ),
    "both": (
        scored() | {"features.0.mask": np.ones((4, 3, 3, 3))},
        {"pruning": SCORED},
        "scores and masks of features.0.weight; possible: one of them",
    ),
    "twice": (
        drawn() | {"features.0.mask": np.ones(1), "features.0.weight_mask": np.ones(1)},
        {},
        "two names of the state dict are of 'features.0.weight'",
    ),
    "rename": (drawn(), {"rename": ["shortcut=x"]}, "has the part shortcut"),
    "rename to nothing": (drawn(), {"rename": ["x"]}, "--rename=x; possible: OLD=NEW"),
    "rename to one": (drawn(), {"rename": ["0=2"]}, "makes two names the same"),
    "ignore": (drawn(), {"ignore": ["*.alpha"]}, "--ignore=*.alpha: no name"),
    "texts": (drawn(), {"name": "lstm"}, "read for Conv2 to Conv8, VGG and ResNets"),
    "unknown": (drawn(), {"name": "conv3"}, "unknown network 'conv3'"),
    "mean": (drawn(), {"mean": (0.5,)}, "possible: both, or none"),
    "two means": (
        drawn(),
        {"mean": (0.5, 0.5), "std": (1.0, 1.0)},
        "its mean is (0.5, 0.5), of 3 channels",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_does_not_fit_is_refused_by_name(case):
    tensors, options, words = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(words)) as refused:
        converted(tensors, **options)
    assert "\n" not in str(refused.value)


def test_half_a_normalization_is_missing_its_other_half():
    shapes = dict.fromkeys(["conv1", "layer1.0.conv1"], (16, 3, 3, 3))
    tensors = {f"{name}.weight": np.ones(shape) for name, shape in shapes.items()}
    tensors |= {"bn1.weight": np.ones(16), "fc.weight": np.ones((5, 64))}
    with pytest.raises(ValueError, match=r"missing: bn1\.bias, bn1\.running_mean"):
        converted(tensors, name="resnet20", width=1.0)


def test_layouts_are_each_others_inverses():
    rng = np.random.default_rng(0)
    for shape in ((3, 3, 2, 4), (6, 5)):
        leaf = rng.standard_normal(shape)
        back = names.outputs_last(names.outputs_first(leaf), leaf, (1, 1))
        np.testing.assert_array_equal(back, leaf)
    as_convolution = rng.standard_normal((5, 6, 1, 1))
    np.testing.assert_array_equal(
        names.outputs_last(as_convolution, np.zeros((6, 5)), (3, 1)),
        literal(as_convolution[:, :, 0, 0], 3),
    )
