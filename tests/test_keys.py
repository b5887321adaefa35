"""Random bits equal JAX's, for any size and key, and under transformations."""

import jax
import numpy as np
import pytest

from iterand_jax.keys import random_bits

bits = jax.jit(random_bits, static_argnums=1)


@pytest.mark.smoke
@pytest.mark.parametrize("size", [1, 2, 3, 1000, 70_001])
def test_they_are_those_of_jax(size):
    for seed in (0, 7, 2**31):
        key = jax.random.fold_in(jax.random.key(seed), 5)
        expected = jax.random.bits(key, (size,), np.uint32)
        np.testing.assert_array_equal(bits(key, size), expected)
        assert expected.dtype == bits(key, size).dtype == np.uint32


@pytest.mark.parametrize("implementation", ["rbg", "unsafe_rbg", "threefry2x32"])
def test_keys_of_any_generator_and_of_the_old_form_are_taken(implementation):
    key = jax.random.key(3, impl=implementation)
    np.testing.assert_array_equal(bits(key, 50), jax.random.bits(key, (50,)))
    old = jax.random.PRNGKey(3)
    np.testing.assert_array_equal(bits(old, 50), jax.random.bits(old, (50,)))


def test_vmap_gives_each_key_its_own_bits():
    keys = jax.random.split(jax.random.key(1), 4)
    expected = [jax.random.bits(key, (6,)) for key in keys]
    mapped = jax.jit(jax.vmap(lambda key: random_bits(key, 6)))(keys)
    np.testing.assert_array_equal(mapped, expected)


def test_bits_from_a_start_are_those_of_the_whole():
    key = jax.random.key(3)
    whole = jax.random.bits(key, (40,), "uint32")
    for start, size in ((0, 40), (1, 7), (33, 7)):
        part = random_bits(key, size, start)
        assert part.tolist() == whole[start : start + size].tolist()
    with pytest.raises(ValueError, match="start=1 of a key that is not Threefry's"):
        random_bits(jax.random.key(3, impl="rbg"), 7, 1)
