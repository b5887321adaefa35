"""Custom networks: registration, and the arguments they are built with."""

import os
import re
from functools import partial

import jax.numpy as jnp
import pytest
from flax import linen as nn

import iterand_jax
from iterand_jax.networks import (
    NETWORKS,
    Network,
    build_network,
    register_network,
    training_options,
)


class Plain(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1))


class Wide(nn.Module):
    num_classes: int
    width: float = 1.0
    affine: bool = True
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(self.num_classes)(x)


def made_by_keywords(**options):
    return Wide(**options)


def made_plain(num_classes):
    return Plain(num_classes)


def made_of_more(num_classes, depth):
    return Plain(num_classes * depth)


def no_module(num_classes):
    return num_classes


def test_a_network_is_given_what_its_signature_takes():
    options = {"num_classes": 3, "width": 0.5, "affine": False, "dtype": jnp.bfloat16}
    for factory in (Wide, partial(Wide), made_by_keywords):
        NETWORKS.table.pop("mine", None)
        register_network("mine", factory)
        assert build_network("mine", **options) == Wide(**options)
    iterand_jax.register_network("plain", Plain)
    for affine in (False, True):
        assert build_network("plain", num_classes=3, affine=affine) == Plain(3)


def test_a_module_is_a_network_of_one_size():
    register_network("mine", Plain(7))
    assert build_network("mine", num_classes=7) == Plain(7)
    with pytest.raises(ValueError, match="mine takes no width: got 2;"):
        build_network("mine", num_classes=7, width=2)


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (Plain, {"width": 0.5}, "mine takes no width: got 0.5; possible: 1.0"),
        (Plain, {"dtype": jnp.bfloat16}, "mine takes no dtype: got bfloat16; poss"),
        (made_of_more, {}, "mine needs depth, which is not one of .* num_classes, "),
        (no_module, {}, "the network mine is 3; possible: a Flax Linen module"),
    ],
)
def test_what_a_network_cannot_be_made_with_is_refused(factory, options, message):
    register_network("mine", factory)
    with pytest.raises(ValueError, match=message):
        build_network("mine", num_classes=3, **options)


def test_whether_it_takes_texts_is_the_entrys_to_say():
    register_network("reader", Plain, takes_texts=True)
    assert NETWORKS.get("reader").takes_texts
    with pytest.raises(ValueError, match="another network 'reader' already"):
        register_network("reader", Plain)
    reading = {name for name in NETWORKS if NETWORKS.get(name).takes_texts}
    assert reading == {"lstm", "bilstm", "reader"}


def test_a_name_of_a_module_finds_classes_functions_and_entries(monkeypatch):
    for name in ("Plain", "made_plain"):
        assert build_network(f"{__name__}:{name}", num_classes=3) == Plain(3)
    monkeypatch.setitem(globals(), "reader", Network(Plain, takes_texts=True))
    assert NETWORKS.get(f"{__name__}:reader").takes_texts


@pytest.mark.parametrize("name", ["os:abort", "os:sep", "os:getcwd", "os:system"])
def test_a_name_that_is_no_network_is_refused_without_a_call(name, monkeypatch):
    called = []
    for function in ("abort", "getcwd", "system"):
        monkeypatch.setattr(os, function, lambda *args: called.append(args))
    with pytest.raises(ValueError, match=f"{re.escape(repr(name))}.* is not a network"):
        build_network(name, num_classes=3)
    assert not called


def test_only_networks_that_take_train_are_given_it():
    assert training_options(Plain(3)) == {}
    assert training_options(Wide(3)) == {"train": True}
    for name in NETWORKS:
        assert training_options(build_network(name, num_classes=3)) == {"train": True}
