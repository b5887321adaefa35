"""Masks of patterns n:m in tickets, and as the matrices that 2:4 formats take."""

import math
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors

import iterand_jax
from iterand_jax import Rule, Subnetwork, load_ticket, rules_of, save_ticket
from iterand_jax.masks import nm_mask, pattern_of
from iterand_jax.networks import build_network
from iterand_jax.rules import Axes
from iterand_jax.tickets import codes, container, formats, groups
from iterand_jax.tickets.packing import Leaf, pack, unpack
from tests import helpers
from tests.test_docs import of_page

KEY = jax.random.key(3)
PATTERNS = ("2:4", "1:4", "1:2", "3:4", "4:8", "2:8", "8:16", "1:16", "16:32")


def mask_of(pattern, shape, axis, seed=0):
    scores = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return np.asarray(nm_mask(scores, pattern, axis)) != 0


@pytest.mark.smoke
def test_a_literal_mask_has_literal_numbers():
    """01, 02, 12, 03, 13, 23 are 0 to 5; three groups are a number to the base 6."""
    rows = ["1100", "1010", "0110", "1001", "0101", "0011"]
    mask = np.array([[*map(int, row)] for row in rows], bool)
    found = groups.found_in(mask)
    assert found == groups.Groups(ones=2, of=4, stride=1)
    numbers = groups.numbers_of(mask, found)
    assert numbers.tolist() == [0 + 6 * 1 + 36 * 2, 3 + 6 * 4 + 36 * 5]
    code = np.frombuffer(found.header(11), np.uint8)
    assert code.tolist() == [11, 2, 4, 1, 0, 0, 0]
    back = groups.bits_of(code, numbers, mask.size)
    np.testing.assert_array_equal(back, mask.ravel())


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("shape", "axis"), [((3, 3, 32, 5), 2), ((7, 64), 1)])
def test_masks_come_back_along_any_axis(pattern, shape, axis):
    mask = mask_of(pattern, shape, axis)
    kept, of = pattern_of(pattern)
    found = groups.found_in(mask)
    assert found == groups.Groups(kept, of, math.prod(shape[axis + 1 :]))
    numbers = groups.numbers_of(mask, found)
    code = found.header(codes.IN_GROUPS) + codes.encode(numbers).tobytes()
    back = codes.decode_bits(np.frombuffer(code, np.uint8), mask.size)
    np.testing.assert_array_equal(back.reshape(shape), mask)


def test_two_of_four_take_log2_of_6_by_4_bits():
    mask = mask_of("2:4", (3, 3, 256, 512), 2)
    code = codes.encode_mask(mask)
    entropy = math.log2(6) / 4 * mask.size / 8
    assert code[0] == codes.IN_GROUPS
    assert entropy < code.size < 1.01 * entropy
    np.testing.assert_array_equal(codes.decode_bits(code, mask.size), mask.ravel())
    # Groups that prefer their first place have a smaller entropy, and a smaller code.
    scores = np.random.default_rng(1).standard_normal((3, 3, 256, 512), np.float32)
    scores[:, :, ::4] += 2
    preferred = np.asarray(nm_mask(scores, "2:4", 2)) != 0
    assert codes.encode_mask(preferred).size < 0.9 * code.size


def test_masks_without_groups_are_coded_as_before():
    rng = np.random.default_rng(2)
    for mask in (rng.random((64, 50)) < 0.5, np.ones((8, 8), bool), np.zeros(40, bool)):
        assert groups.found_in(mask) is None
        before = codes.filled(codes.encode_bits(mask), mask.size)
        np.testing.assert_array_equal(codes.encode_mask(mask), before)
    for shape in ((), (0,), (3, 0), (1,), (7,)):
        assert groups.found_in(np.zeros(shape, bool)) is None
    few = np.arange(16) % 2 == 0  # 1:2, but two bytes are less than a header
    assert next(iter(pack("k", Leaf(few.astype(np.float32), few)))) == "mask/k"


def test_signed_constants_of_a_pattern_are_a_mask_of_groups_and_signs():
    mask = mask_of("2:4", (96, 200), 0)
    signs = np.random.default_rng(0).choice(
        np.array([-0.5, 0.5], np.float32), mask.shape
    )
    leaf = Leaf(np.where(mask, signs, np.float32(0)), mask)
    packed = pack("k", leaf)
    assert [*packed] == ["mask_code/k", "sign/k", "scale/k"]
    like = jax.ShapeDtypeStruct(mask.shape, np.float32)
    found = unpack("k", like, packed)
    np.testing.assert_array_equal(found.mask, mask)
    assert found.weights.tobytes() == leaf.weights.tobytes()


TREE = {
    "conv": {"kernel": jnp.zeros((3, 3, 16, 20)), "bias": jnp.ones(20)},
    "stack": {"kernel": jnp.zeros((4, 16, 24))},
}
RULES = (
    Rule("stack/kernel", True, stack_axis=0),
    *(rule for rule in Subnetwork().rules),
)


@pytest.mark.parametrize(
    "distribution",
    [
        "kaiming_uniform",
        pytest.param("signed_constant", marks=pytest.mark.slow),
        pytest.param("kaiming_normal", marks=pytest.mark.slow),
    ],
)
def test_a_ticket_of_a_tree_comes_back(distribution, tmp_path):
    subnetwork = Subnetwork(pattern="2:4", distribution=distribution, rules=RULES)
    scores, weights = subnetwork.init(KEY, TREE)
    weights = subnetwork.rerandomize(jax.random.fold_in(KEY, 2), scores, weights, 0.3)
    drawn = {"subnetwork": subnetwork, "key": KEY, "step": 2, "k_per": 2}
    path = tmp_path / "t.safetensors"
    save_ticket(path, weights, subnetwork.masks(scores), sampling_rate=0.3, **drawn)
    assert container.read(path)[0]["version"] == 4
    found = load_ticket(path, like=TREE)
    expected = subnetwork.prune(scores, weights)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected)
    again = tmp_path / "again.safetensors"
    found.save(again)  # the groups are found in the masks
    np.testing.assert_array_equal(
        *(container.read(file)[1]["mask_code/conv/kernel"] for file in (path, again))
    )
    free = Subnetwork(0.5, distribution, rules=RULES)
    save_ticket(path, weights, free.masks(scores))
    assert container.read(path)[0]["version"] < 4


def refused(code, count):
    code = np.frombuffer(bytes(code), np.uint8)
    return helpers.refused(codes.decode_bits, code, count)


def test_damaged_codes_are_refused():
    mask = mask_of("2:4", (64, 40), 0)
    code = bytearray(codes.encode_mask(mask).tobytes())
    assert code[0] == 11
    for count in (mask.size - 160, mask.size + 160, mask.size + 1, 0):
        assert "does not hold" in refused(code, count)
    for place, value in ((1, 0), (1, 4), (2, 0), (2, 33), (2, 255), (6, 255), (3, 0)):
        changed = bytearray(code)
        changed[place] = value
        assert "does not hold" in refused(changed, mask.size)
    assert "does not hold" in refused(code[:5], mask.size)
    too_large = np.full(
        codes.groups.most_numbers(np.frombuffer(bytes(code), np.uint8), mask.size), 216
    )
    header = bytes(code[: groups.HEADER])
    assert "does not hold" in refused(
        header + codes.encode(too_large).tobytes(), mask.size
    )
    for place in range(1, len(code)):
        changed = bytearray(code)
        changed[place] ^= 16
        try:
            found = codes.decode_bits(
                np.frombuffer(bytes(changed), np.uint8), mask.size
            )
        except ValueError:
            continue
        assert found.shape == (mask.size,)  # which the checksum of the file refuses


def test_no_code_costs_more_than_its_bits():
    numbers = codes.encode(np.zeros(2**22, int)).tobytes()
    header = groups.Groups(16, 32, 1).header(11)
    tracemalloc.start()
    assert "does not hold" in refused(header + numbers, 32 * 100)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_the_page_reads_masks_of_groups():
    """Without this library, by the code of docs/tickets.md."""
    (block,) = (
        b for b in of_page("tickets") if b.options.get("class") == "reads-a-ticket"
    )
    functions = (
        "def inflated" + block.code.split("def inflated")[1].split("\nprint(")[0]
    )
    imports = "import itertools, json, math, zlib\nimport numpy as np\n"
    for pattern in ("2:4", "4:8", "3:6", "1:16", "8:16"):
        mask = mask_of(pattern, (960, 60), 0)
        code = codes.encode_mask(mask)
        assert code[0] == codes.IN_GROUPS
        space = {"arrays": {"mask_code/k": code}}
        exec(imports + functions, space)
        np.testing.assert_array_equal(
            space["bits"]("mask", "k", mask.size), mask.ravel()
        )


def is_two_of_four(kernel):
    """TensorRT's rule for kernels (outputs, inputs, height, width)."""
    outputs, inputs, *window = kernel.shape
    blocks = kernel.reshape(outputs, inputs // 4, 4, *window)
    return bool((np.count_nonzero(blocks, axis=2) <= 2).all())


def test_matrices_have_the_rows_that_sparse_formats_take():
    """And are the factor of patches, which a convolution is."""
    subnetwork = Subnetwork(pattern="2:4", distribution="kaiming_uniform", rules=RULES)
    pruned = subnetwork.prune(*subnetwork.init(KEY, TREE))
    leaves = {"conv": pruned["conv"]["kernel"], "stack": pruned["stack"]["kernel"]}
    leaves = {name: np.asarray(leaf) for name, leaf in leaves.items()}
    axes = {
        "conv": subnetwork.axes("conv/kernel", TREE["conv"]["kernel"]),
        "stack": subnetwork.axes("stack/kernel", TREE["stack"]["kernel"]),
    }
    found = formats.matrices(leaves, axes)
    assert found["conv"].shape == (20, 9 * 16)
    assert found["stack"].shape == (4, 24, 16)
    for matrix in (found["conv"], *found["stack"]):
        assert (np.count_nonzero(matrix.reshape(-1, 4), axis=1) == 2).all()
    assert is_two_of_four(leaves["conv"].transpose(3, 2, 0, 1))
    back = found["conv"].reshape(20, 3, 3, 16).transpose(0, 3, 1, 2)
    assert is_two_of_four(back)
    # Rows of (outputs, inputs * height * width), as a view flattens, are not.
    flat = leaves["conv"].transpose(3, 2, 0, 1).reshape(20, -1, 4)
    assert not (np.count_nonzero(flat, axis=2) <= 2).all()

    images = np.random.default_rng(0).standard_normal((2, 8, 8, 16))
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(2, 6, 6, -1)
    expected = jax.lax.conv_general_dilated(
        images.astype(np.float32),
        leaves["conv"],
        *((1, 1), "VALID"),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(patches @ found["conv"].T, expected, 1e-4, 1e-5)


@pytest.mark.slow
def test_torch_takes_what_its_rules_for_matrices_say():
    """All but the device: CPUs have no such products."""
    torch = pytest.importorskip("torch")
    semi = pytest.importorskip("torch.sparse.semi_structured")
    kernel = jnp.zeros((3, 3, 64, 64))
    subnetwork = Subnetwork(pattern="2:4", distribution="kaiming_uniform")
    params = subnetwork.prune(*subnetwork.init(KEY, {"kernel": kernel}))
    axes = Axes(inputs=(2,), outputs=(3,), stack=(), window=(0, 1))
    arrays = {"kernel": np.asarray(params["kernel"])}
    arrays = formats.in_dtype(formats.matrices(arrays, {"kernel": axes}), "float16")
    matrix = torch.from_numpy(np.ascontiguousarray(arrays["kernel"]))
    assert matrix.is_contiguous()
    for name in (
        "SparseSemiStructuredTensorCUTLASS",
        "SparseSemiStructuredTensorCUSPARSELT",
    ):
        limits = getattr(semi, name)._DTYPE_SHAPE_CONSTRAINTS[matrix.dtype]
        assert matrix.shape[0] % limits.sparse_min_rows == 0
        assert matrix.shape[1] % limits.sparse_min_cols == 0
    with pytest.raises(RuntimeError, match="Only CUDA tensors are currently supported"):
        torch.sparse.to_sparse_semi_structured(matrix)


@pytest.mark.slow
def test_every_network_of_images_has_a_pattern_but_for_its_first_layer():
    for name, first in (("conv6", "Conv_0"), ("resnet18", "ConvNorm_0/Conv_0")):
        network = build_network(name, num_classes=10, width=0.25)
        image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        shapes = jax.eval_shape(network.init, KEY, image)["params"]
        rules = rules_of(network, image)
        with pytest.raises(
            ValueError, match=rf"'{first}/kernel' of .* axis 2; possible"
        ):
            jax.eval_shape(Subnetwork(pattern="2:4", rules=rules).init, KEY, shapes)
        but_first = (Rule(f"{first}/kernel", False), *rules)
        subnetwork = Subnetwork(pattern="2:4", rules=but_first)
        scores, _ = jax.eval_shape(subnetwork.init, KEY, shapes)
        total, kept = subnetwork.count(shapes)
        pruned = sum(leaf.size for leaf in jax.tree.leaves(scores))
        assert 2 * (total - kept) == pruned


def test_safetensors_hold_matrices(tmp_path):
    """In C order, though they are transposed views."""
    kernel = np.arange(96, dtype=np.float32).reshape(1, 2, 4, 12)
    axes = Axes(inputs=(2,), outputs=(3,), stack=(), window=(0, 1))
    found = formats.matrices({"kernel": kernel}, {"kernel": axes})
    described = iterand_jax.tickets.ticket.Description(network={}, inputs=())
    formats.save_arrays(found, described, tmp_path / "m")
    loaded = safetensors.load_file(tmp_path / "m")["kernel"]
    np.testing.assert_array_equal(loaded, kernel.reshape(8, 12).T)
