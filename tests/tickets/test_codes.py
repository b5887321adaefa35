"""Codes of bits and numbers: their entropy, their inverse, and damaged ones."""

import os
import subprocess
import sys
import tracemalloc
import zlib

import jax
import numpy as np
import pytest

from iterand_jax import Subnetwork, load_ticket, save_ticket
from iterand_jax.tickets import container
from iterand_jax.tickets.codes import decode, decode_bits, encode, encode_bits
from iterand_jax.tickets.packing import Leaf, pack
from tests import helpers


@pytest.mark.parametrize("sparsity", [0.02, 0.1, 0.2, 0.3, 0.5, 0.6, 0.8, 0.9, 0.98])
def test_random_bits_take_one_percent_more_than_their_entropy(sparsity):
    bits = np.random.default_rng(0).random(1_000_000) >= sparsity
    ones = bits.mean()
    entropy = -(ones * np.log2(ones) + (1 - ones) * np.log2(1 - ones)) * bits.size / 8
    code = encode_bits(bits)
    assert entropy < code.size < 1.01 * entropy + 40
    np.testing.assert_array_equal(decode_bits(code, bits.size), bits)


@pytest.mark.smoke
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 255, 256, 3000])
def test_bits_of_any_number_come_back(count):
    rng = np.random.default_rng(count)
    for share in (0, 0.001, 0.03, 0.3, 0.5, 0.97, 1):
        bits = rng.random(count) < share
        found = decode_bits(encode_bits(bits), count)
        assert found.dtype == bool
        np.testing.assert_array_equal(found, bits)


def test_signed_constants_have_the_bytes_of_mask_and_sign():
    """At the sparsity 0.7 0.3 + 0.8813 bits a weight, of 25.5 million as of few."""
    rng, size = np.random.default_rng(1), 2_000_000
    mask = rng.permutation(size) >= 0.7 * size
    weights = np.where(mask, rng.choice(np.array([-1, 1], np.float32), size), 0)
    packed = pack("k", Leaf(weights, mask))
    assert list(packed) == ["mask_code/k", "sign/k", "scale/k"]
    total = sum(array.nbytes for array in packed.values())
    assert total < 1.01 * (0.3 + 0.88129) * size / 8


def test_a_code_of_few_ones_is_filled():
    """A byte has at most 64 bits, so that a file is in proportion to its network."""
    mask = np.arange(64_000) == 7
    packed = pack("k", Leaf(np.where(mask, np.float32(1), 0), mask))
    assert packed["mask_code/k"].size == 1000
    np.testing.assert_array_equal(decode_bits(packed["mask_code/k"], 64_000), mask)


def refused(code, count):
    return helpers.refused(decode_bits, np.frombuffer(code, np.uint8), count)


def test_damaged_codes_are_refused():
    bits = np.random.default_rng(2).random(4000) < 0.3
    code = encode_bits(bits).tobytes()
    assert "1 to 11" in refused(b"", 4000)
    assert "1 to 11" in refused(b"\0" + code[1:], 4000)
    assert "1 to 11" in refused(b"\x0c" + code[1:], 4000)
    assert "does not hold" in refused(code[:-1], 4000)
    assert "does not hold" in refused(code + b"\1", 4000)
    assert "past the last of 3900 bits" in refused(code, 3900)
    blocks = encode_bits(np.random.default_rng(2).random(4000) < 0.4).tobytes()
    for count in (3900, 5000):
        assert f"does not hold {count} bits" in refused(blocks, count)
    few = encode_bits(np.arange(4000) % 100 == 99).tobytes()
    assert "past the last of 3999 bits" in refused(few, 3999)
    for place in range(1, len(code)):
        changed = bytearray(code)
        changed[place] ^= 16
        try:
            found = decode_bits(np.frombuffer(bytes(changed), np.uint8), 4000)
        except ValueError:
            continue
        assert found.shape == (4000,)  # which the checksum of the file refuses


def test_numbers_end_in_a_byte_that_is_not_255():
    open_end = b"\0" + zlib.compress(b"\3\xff", wbits=-15)
    with pytest.raises(ValueError, match="does not hold integers of at most 9"):
        decode(np.frombuffer(open_end, np.uint8), 9)
    assert decode(encode(np.array([254, 255, 510, 0])), 4).tolist() == [
        254,
        255,
        510,
        0,
    ]


@pytest.mark.parametrize("form", [1, 5, 8, 9, 10])
def test_no_code_costs_more_than_its_bits(form):
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    inner = b"\0" if form > 8 else b""
    code = deflate.compress(bytes(2**26)) + deflate.flush()
    tracemalloc.start()
    assert "does not hold" in refused(bytes([form]) + inner + code, 10_000)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_small_file_cannot_claim_a_large_leaf(tmp_path):
    path, params = tmp_path / "t", {"kernel": np.zeros((300, 20), np.float32)}
    key, subnetwork = jax.random.key(0), Subnetwork(0.9, "kaiming_uniform")
    scores, weights = subnetwork.init(key, params)
    save_ticket(path, weights, subnetwork.masks(scores), subnetwork=subnetwork, key=key)
    fields, arrays = container.read(path)
    assert fields["version"] == 3
    del fields["sha256"]
    fields["leaves"]["params/kernel"][0] = [2**30, 1]
    container.write(path, fields, arrays)
    with pytest.raises(ValueError, match=r"bytes for 1073741824 weights; possible: at"):
        load_ticket(path)


def test_a_ticket_is_read_without_the_trainer(tmp_path):
    """Neither optax nor what trains is imported, in a process of its own."""
    path, params = tmp_path / "t", {"kernel": np.zeros((30, 20), np.float32)}
    key, subnetwork = jax.random.key(0), Subnetwork(0.7, "kaiming_uniform")
    scores, weights = subnetwork.init(key, params)
    save_ticket(path, weights, subnetwork.masks(scores), subnetwork=subnetwork, key=key)
    program = (
        "import sys, iterand_jax\n"
        f"print(iterand_jax.load_ticket({str(path)!r}))\n"
        "absent = 'optax orbax tqdm grain tensorflow iterand_jax.training'.split()\n"
        "print('imported', [name for name in absent if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.stdout.splitlines()[-1] == "imported []", done.stderr
