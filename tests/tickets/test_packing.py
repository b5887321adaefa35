"""Leaves are packed into the expected bytes, and restored bit for bit."""

import zlib

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iterand_jax.tickets.codes import decode, decode_bits, encode
from iterand_jax.tickets.packing import Leaf, pack, unpack
from iterand_jax.tickets.replay import NO_DRAW

MASK = np.array([True, False, True, True, False, False, True, False, True])


def kinds(packed):
    return {name: array.tolist() for name, array in packed.items()}


def assert_same_leaf(found, expected):
    np.testing.assert_array_equal(found.mask, expected.mask)
    assert found.weights.dtype == expected.weights.dtype
    assert found.weights.tobytes() == expected.weights.tobytes()


def like(leaf):
    return jax.ShapeDtypeStruct(leaf.weights.shape, leaf.weights.dtype)


def numbers_of(like, packed):
    return np.asarray(unpack("k", like, packed).numbers)


def test_a_leaf_without_a_mask_is_stored_as_it_is():
    bias = np.array([0.5, -0.0, np.nan], np.float32)
    packed = pack("bias", Leaf(bias))
    assert list(packed) == ["leaf/bias"]
    found = unpack("bias", like(Leaf(bias)), packed)
    assert found.weights.tobytes() == bias.tobytes()
    assert found.mask is None


@pytest.mark.smoke
def test_signed_constants_are_a_bit_each():
    kept = np.array([-0.5, 0.5, 0.5, -0.5, -0.5], np.float32)
    weights = np.zeros(9, np.float32)
    weights[MASK] = kept
    leaf = Leaf(weights, MASK)
    packed = pack("a/kernel", leaf)
    assert kinds(packed) == {
        "mask/a/kernel": [0b10110010, 0b10000000],
        "sign/a/kernel": [0b10011000],
        "scale/a/kernel": 0.5,
    }
    assert_same_leaf(unpack("a/kernel", like(leaf), packed), leaf)


def test_first_draws_take_no_bytes_and_redraws_take_their_numbers():
    weights = np.where(MASK, np.arange(1, 10, dtype=np.float32), 0)
    leaf = Leaf(weights, MASK, np.where(MASK, 0, NO_DRAW))
    first = pack("k", leaf)
    assert list(first) == ["mask/k"]
    assert numbers_of(like(leaf), first).tolist() == [0] * 9

    weights = np.where(np.arange(1000) % 2, np.arange(1000, dtype=np.float32), 0)
    mask, numbers = weights != 0, np.full(1000, NO_DRAW)
    numbers[mask] = 0
    numbers[[3, 11]] = 2, 300
    packed = pack("k", Leaf(weights, mask, numbers))
    assert list(packed) == ["mask_code/k", "drawn_code/k", "draw/k"]
    assert np.flatnonzero(decode_bits(packed["drawn_code/k"], 500)).tolist() == [1, 5]
    assert decode(packed["draw/k"]).tolist() == [2, 300]
    found = unpack("k", like(Leaf(weights)), packed)
    assert found.weights is None
    assert found.numbers.shape == mask.shape
    np.testing.assert_array_equal(np.asarray(found.numbers)[mask], numbers[mask])


def test_bits_and_distances_of_the_first_format_are_read():
    numbers = np.where(MASK, [0, 0, 7, 0, 0, 0, 300, 0, 0], 0).astype(np.int32)
    inflated = {"gap": b"\1\1\1", "draw": b"\2\x07\x2c\x00\x01"}
    packed = {"mask/k": np.packbits(MASK)}
    for kind, code in inflated.items():
        code = code[:1] + zlib.compress(code[1:], wbits=-15)
        packed[f"{kind}/k"] = np.frombuffer(code, np.uint8)
    shape = jax.ShapeDtypeStruct((9,), np.float32)
    assert numbers_of(shape, packed).tolist() == numbers.tolist()
    del packed["gap/k"]
    with pytest.raises(ValueError, match="there is draw/k and no gap/k"):
        numbers_of(shape, packed)
    packed["drawn/k"] = np.packbits([1, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="draw/k is not of the weights that were res"):
        numbers_of(shape, packed)


def test_weights_that_no_draw_made_are_stored_themselves():
    weights = np.where(MASK, np.arange(1, 10, dtype=np.float32), 0)
    for numbers in (None, np.full(9, NO_DRAW), np.where(np.arange(9) < 8, 0, NO_DRAW)):
        leaf = Leaf(weights, MASK, numbers)
        packed = pack("k", leaf)
        assert packed["kept/k"].tolist() == [1, 3, 4, 7, 9]
        assert_same_leaf(unpack("k", like(leaf), packed), leaf)


def test_numbers_that_take_more_than_the_weights_are_not_stored():
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(1000).astype(np.float32)
    numbers = rng.integers(1, 2**31 - 1, 1000)
    packed = pack("k", Leaf(weights, np.ones(1000, bool), numbers))
    assert list(packed) == ["mask_code/k", "kept/k"]


def test_what_does_not_fit_the_network_is_reported():
    leaf = Leaf(np.where(MASK, np.arange(1, 10, dtype=np.float32), 0), MASK)
    packed = pack("k", leaf)
    with pytest.raises(ValueError, match="mask/k has 2 entries where 3 are needed"):
        unpack("k", jax.ShapeDtypeStruct((17,), np.float32), packed)
    with pytest.raises(ValueError, match="neither leaf/other nor mask/other"):
        unpack("other", like(leaf), packed)
    packed["kept/k"] = packed["kept/k"][:3]
    with pytest.raises(ValueError, match="kept/k has 3 entries where 5 are needed"):
        unpack("k", like(leaf), packed)


@given(st.lists(st.integers(0, 2**31 - 1)) | st.lists(st.integers(0, 3)))
@settings(deadline=None)
def test_numbers_come_back(numbers):
    code = encode(np.array(numbers, np.int64))
    assert code.dtype == np.uint8
    assert decode(code).tolist() == numbers


@pytest.mark.smoke
@given(st.data(), st.sampled_from([(1,), (8,), (3, 3), (2, 5, 7), (3, 3, 4, 5)]))
@settings(deadline=None)
def test_leaves_come_back(data, shape):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    mask = rng.random(shape) < data.draw(st.floats(0, 1))
    values = rng.standard_normal(shape).astype(np.float32)
    if data.draw(st.booleans()):
        values = np.float32(0.125) * np.sign(values)
    leaf = Leaf(np.where(mask, values, np.float32(0)), mask)
    packed = pack("k", leaf)
    (bits,) = (packed[name] for name in ("mask/k", "mask_code/k") if name in packed)
    assert bits.size <= -(-mask.size // 8)
    assert_same_leaf(unpack("k", like(leaf), packed), leaf)


def test_codes_are_near_the_entropy():
    """Of numbers as a run leaves them: mostly 0, the others spread."""
    rng = np.random.default_rng(0)
    numbers = np.where(rng.random(500_000) < 0.93, 0, rng.geometric(0.2, 500_000))
    mask = np.ones(500_000, bool)
    weights = rng.standard_normal(500_000).astype(np.float32)
    packed = pack("k", Leaf(weights, mask, numbers))
    _, counts = np.unique(numbers, return_counts=True)
    share = counts / numbers.size
    entropy = -np.sum(share * np.log2(share)) * numbers.size / 8
    size = packed["drawn_code/k"].size + packed["draw/k"].size
    assert entropy < size < 1.015 * entropy
