"""Configs of small runs of each kind."""

from functools import partial

import pytest
from ml_collections import config_dict

from iterand_jax.configs import default
from iterand_jax.data import datasets, reviews
from iterand_jax.networks import NETWORKS, Network
from iterand_jax.networks.resnet import ResNet
from tests import helpers


@pytest.fixture
def imp_config(tiny_config):
    """Conv2 at width 1/16: two retrainings of two epochs, rewound to the first."""

    def make(**overrides):
        config = tiny_config(epochs=2, checkpoint_every_steps=0)
        imp = default.recipe(
            distribution="kaiming_uniform",
            sparsity=0.75,
            retrainings=2,
            rewind_epochs=1,
            unpruned=("Dense_2/kernel",),
        )
        with config.unlocked():
            config.recipe = config_dict.ConfigDict({"imp": imp})
        config.method = "imp"
        config.update_from_flattened_dict(overrides)
        return config

    return make


@pytest.fixture
def normalized_config(tiny_config, monkeypatch):
    """A ResNet whose first stage has one channel: 2 epochs of 10 steps."""
    form = partial(ResNet, stages=(1, 1), channels=16, scaled_stem=True)
    monkeypatch.setitem(NETWORKS.table, "resnet_of_two_blocks", Network(form))

    def make(**overrides):
        fields = {
            "network.name": "resnet_of_two_blocks",
            "epochs": 2,
            "batch_size": 128,
        }
        return tiny_config(**(fields | overrides))

    return make


@pytest.fixture
def reviews_config(monkeypatch):
    """`helpers.reviews_config`, where its reviews have two lengths."""
    monkeypatch.setattr(reviews, "BOUNDS", (6, 15))
    return helpers.reviews_config


@pytest.fixture
def streamed_config(tiny_config, monkeypatch):
    """Conv2 at width 1/16 on ImageNet of 16 x 16 pixels; no workers."""
    small = datasets._streamed_images(datasets.imagenet.open_imagenet, 16, 1000)
    monkeypatch.setitem(datasets.DATASETS.table, "imagenet2012", small)

    def make(**overrides):
        fields = {
            "augmentation": None,
            "batch_size": 2,
            "checkpoint_every_steps": 2,
            "dataset.mean": (0.5,) * 3,
            "dataset.name": "imagenet2012",
            "dataset.on_bad_image": "skip",
            "dataset.split_seed": None,
            "dataset.std": (0.25,) * 3,
            "dataset.validation_fraction": None,
            "dataset.workers": 0,
            "epochs": 2,
            "eval_batch_size": 3,
            "log_every_steps": 1,
        }
        return tiny_config(**fields | overrides)

    return make
