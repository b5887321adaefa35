"""Every config file with every method: its values, what it builds, that it trains."""

import dataclasses
import importlib
import io
import re
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image

from iterand_jax.data.datasets import get_dataset
from iterand_jax.data.sources import Source
from iterand_jax.methods import METHODS
from iterand_jax.networks import NETWORKS
from iterand_jax.training import building, loop, procedures, results, stages
from iterand_jax.training import workdir as workdirs
from iterand_jax.training.config import resolve
from iterand_jax.training.logs import read_lines
from iterand_jax.trees import leaves_of
from tests import helpers

FOLDER = Path(__file__).parents[1] / "configs"
SIZES = {
    "digits": {"train": 1437, "test": 360},
    "cifar10": {"train": 50_000, "test": 10_000},
    "imagenet2012": {"train": 1_281_167, "validation": 50_000},
    "imdb_reviews": {"train": 25_000, "test": 25_000},
}


class Paper(NamedTuple):
    """Expected values of a config; pairs are (SGD's, the other methods')."""

    network: str
    parameters: int  # pruned networks: kernels alone
    rates: dict[int, float]  # by epoch, as a share of eta
    eta: tuple[float, float]
    decay: float
    sparsity: float = 0.5
    k_per: int = 300
    sampling_rate: float = 0.1
    width: float = 1.0
    epochs: int = 100
    batch_size: int = 128
    steps_per_epoch: int = 351
    momentum: float = 0.9
    augmentation: str | None = "resized_crop_flip"
    inputs: tuple[int, ...] = (32, 32, 3)
    mean: tuple[float, ...] | None = (0.485, 0.456, 0.406)
    std: tuple[float, ...] | None = (0.229, 0.224, 0.225)


CIFAR = {0: 1.0, 25: 0.8535534, 50: 0.5, 99: 0.000246720}
IMAGENET = {0: 0.2, 3: 0.8, 4: 1.0, 5: 1.0, 52: 0.508266, 99: 0.000273363, 100: 1e-4}
IMDB = {0: 1.0, 7: 1.0, 14: 1.0}


def cifar(network, parameters, eta, decay, sparsity=0.5):
    return Paper(network, parameters, CIFAR, eta, decay, sparsity)


def imagenet(network, parameters, width=1.0):
    return Paper(
        f"imagenet_{network}",
        parameters,
        IMAGENET,
        (0.1, 0.1),
        1e-4,
        sparsity=0.7,
        k_per=1000,
        width=width,
        epochs=105,
        steps_per_epoch=10_009,
        augmentation=None,  # the feed's own
        inputs=(224, 224, 3),
    )


def imdb(network, parameters):
    return Paper(
        network,
        parameters,
        IMDB,
        (1.0, 2.5),
        decay=0.0,  # not in the paper, nor is the momentum: see its docstring
        k_per=45,
        sampling_rate=1.0,
        epochs=15,
        batch_size=64,
        steps_per_epoch=273,
        augmentation=None,
        inputs=(1,),  # any number of tokens
        mean=None,
        std=None,
    )


CONFIGS = {
    "digits": Paper(
        "conv2",
        367_680,
        {0: 1.0, 15: 0.5, 29: 0.00273905},
        (0.1, 0.4),
        1e-4,
        k_per=10,
        epochs=30,
        batch_size=64,
        steps_per_epoch=20,
        augmentation="none",
        inputs=(8, 8, 1),
        mean=(0.3,),
        std=(0.38,),
    ),
    "cifar_conv2": cifar("conv2", 4_300_992, (0.01, 0.2), 1e-4),
    "cifar_conv4": cifar("conv4", 2_425_024, (0.01, 0.2), 1e-4),
    "cifar_conv6": cifar("conv6", 2_261_184, (0.01, 0.2), 1e-4),
    "cifar_resnet18": cifar("resnet18", 11_164_352, (0.1, 0.1), 5e-4, 0.6),
    "cifar_resnet34": cifar("resnet34", 21_265_088, (0.1, 0.1), 5e-4, 0.6),
    "cifar_vgg11": cifar("vgg11", 9_222_848, (0.1, 0.1), 5e-4),
    "cifar_resnet20": cifar("resnet20", 270_896, (0.1, 0.1), 5e-4),
    "imagenet_resnet18": imagenet("resnet18", 11_678_912),
    "imagenet_resnet34": imagenet("resnet34", 21_779_648),
    "imagenet_resnet50": imagenet("resnet50", 25_502_912),
    "imagenet_resnet101": imagenet("resnet101", 44_442_816),
    "imagenet_wide_resnet50_2": imagenet("wide_resnet50_2", 68_814_016),
    "imagenet_resnet50_x2": imagenet("resnet50", 97_846_464, width=2.0),
    "imdb_lstm": imdb("lstm", 2_865_000),
    "imdb_bilstm": imdb("bilstm", 3_229_800),
}


RECOMMENDED = "cifar_resnet18_recommended"
IMP = {"cifar_vgg11_imp": "vgg11", "cifar_resnet20_imp": "resnet20"}


def load(name):
    return importlib.import_module(f"configs.{name}").get_config()


def fake(dataset, read=None, sizes=None):
    description = get_dataset(dataset)
    return Source(
        name=dataset,
        num_classes=max(2, description.outputs),
        sizes=sizes or SIZES[dataset],
        encoding="array",
        fingerprint="0" * 16,
        read=read,
        image_shape=description.inputs[0].shape[1:],
    )


@pytest.mark.smoke
def test_every_config_file_is_in_the_table():
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "default"}
    assert files == CONFIGS.keys() | IMP.keys() | {RECOMMENDED}


@pytest.mark.smoke
def test_every_network_has_a_config():
    named = {paper.network for paper in CONFIGS.values()}
    assert named == set(NETWORKS) - {"conv8"}  # which the paper does not have


@pytest.mark.parametrize("name", [*CONFIGS, *IMP, RECOMMENDED])
def test_the_head_states_what_it_reproduces_how_and_for_how_long(name, papers_numbers):
    head = importlib.import_module(f"configs.{name}").__doc__
    assert "python -m iterand_jax.main" in head
    if name in ("digits", RECOMMENDED):
        assert "Not an experiment of the paper" in head
        return
    assert re.search(
        r"(hour|minute)s?\b.* on (an?|one) .*(estimate|measured)", head, re.S
    )
    if name in ("cifar_conv2", "cifar_conv4"):
        assert "The paper has no number for it" in head
    else:
        assert re.search(r"Tables? \d", head)
        numbers = set(re.findall(r"\d\d\.\d\d+", head))
        assert numbers
        assert numbers <= papers_numbers[name.split("_", 1)[1].removesuffix("_imp")]


# The largest networks take seconds to trace.
LARGE = {name for name in CONFIGS if re.search("resnet(50|101)", name)}


@pytest.mark.parametrize("method", ["sgd", "edge_popup", "iterand"])
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in CONFIGS],
)
def test_a_config_builds_the_papers_run(name, method):
    paper = CONFIGS[name]
    config = load(name)
    config.method = method
    config = resolve(config)
    run = building.build(config, fake(config.dataset.name))
    sgd = method == "sgd"
    assert (config.network.name, config.network.width) == (paper.network, paper.width)
    assert (config.epochs, config.batch_size) == (paper.epochs, paper.batch_size)
    assert config.augmentation == paper.augmentation
    assert (config.dataset.mean, config.dataset.std) == (paper.mean, paper.std)
    assert get_dataset(config.dataset.name).inputs[0].shape[1:] == paper.inputs
    assert run.feed.steps_per_epoch == paper.steps_per_epoch
    assert run.total_steps == paper.epochs * paper.steps_per_epoch
    assert (config.momentum, config.weight_decay) == (paper.momentum, paper.decay)
    assert config.distribution == ("kaiming_uniform" if sgd else "signed_constant")
    assert config.sparsity == (None if sgd else paper.sparsity)
    iterand = (paper.k_per, paper.sampling_rate)
    refreshes = (config.k_per, config.sampling_rate)
    assert refreshes == (iterand if method == "iterand" else (None, None))
    for epoch, share in paper.rates.items():
        for step in (0, paper.steps_per_epoch - 1):
            rate = run.schedule(epoch * paper.steps_per_epoch + step)
            expected = share * paper.eta[0 if sgd else 1]
            np.testing.assert_allclose(rate, expected, rtol=1e-4)
    kernels = [
        leaf for leaf in jax.tree.leaves(run.weights(run.abstract)) if leaf.ndim > 1
    ]
    assert sum(leaf.size for leaf in kernels) == paper.parameters
    others = [
        leaf for leaf in jax.tree.leaves(run.weights(run.abstract)) if leaf.ndim == 1
    ]
    assert bool(others) == sgd


@pytest.mark.slow
@pytest.mark.parametrize("name", IMP)
def test_magnitude_pruning_has_the_recipe_that_the_paper_refers_to(name):
    """Four trainings; only VGG11's last layer is left whole."""
    config = resolve(load(name))
    kernels = CONFIGS[name.removesuffix("_imp")].parameters
    if name == "cifar_vgg11_imp":
        kernels -= 512 * 10
    own_stages = procedures.stages(config)
    assert [stage.method for stage in own_stages] == ["sgd", *["fixed_mask"] * 3]
    for own in own_stages:
        run = building.build(own, fake("cifar10"))
        assert own.network.name == IMP[name]
        assert run.total_steps == 160 * 351
        found = [float(run.schedule(351 * epoch)) for epoch in (0, 79, 80, 119, 120)]
        np.testing.assert_allclose(found, [0.1, 0.1, 0.01, 0.01, 0.001], rtol=1e-6)
        assert (own.weight_decay, own.momentum) == (1e-4, 0.9)
        assert own.distribution == "kaiming_normal"
        assert own.augmentation == "resized_crop_flip"
        masks = jax.tree.leaves(run.abstract.frozen)
        assert sum(mask.size for mask in masks) == (kernels if own.sparsity else 0)
    np.testing.assert_allclose(own_stages[-1].sparsity, 0.5)


def tiny_source(dataset):
    """A few random examples in the form that the dataset's feed takes."""
    rng = np.random.default_rng(0)

    def images(split):
        shape = get_dataset(dataset).inputs[0].shape[1:]
        n = sizes[split]
        return rng.integers(0, 256, (n, *shape), np.uint8), np.arange(n, dtype=np.int32)

    def records(split):
        pixels = rng.integers(0, 256, (sizes[split], 60, 80, 3), np.uint8)
        made = []
        for i, image in enumerate(pixels):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "JPEG")
            name = f"{i}.JPEG".encode()
            made.append({"image": buffer.getvalue(), "label": i, "file_name": name})
        return Records(made)

    def texts(split):
        words = [f"word{i}" for i in range(9)]
        n = sizes[split]
        made = [" ".join(rng.choice(words, 1 + i)) for i in range(n)]
        return made, np.arange(n, dtype=np.int32) % 2

    reads = {"imagenet2012": records, "imdb_reviews": texts}
    sizes = dict.fromkeys(SIZES[dataset], 6)
    return fake(dataset, reads.get(dataset, images), sizes)


class Records(list):
    def __getitems__(self, indices):
        return [self[i] for i in indices]


def load_tiny(name):
    """A config at width 1/16 for one epoch of two or more steps, each logged."""
    config = load(name)
    config.network.width = 0.0625
    config.batch_size, config.eval_batch_size, config.log_every_steps = 2, 4, 1
    config.epochs = 1
    return config


# One that refreshes, one of several masks, and two without an exact top-k; the others
# are exhaustive.
LEARNING = ("biprop_iterand", "multicoated", "gem_miner", "relaxed_bernoulli")


@pytest.mark.parametrize("method", helpers.table(METHODS, LEARNING.__contains__))
def test_a_method_learns_the_digits_by_its_recipe(method, tmp_path):
    """From 90.0 (Gem-Miner) to 98.3 %, a tenth of which would be chance."""
    config = load("digits")
    config.method = method
    outcome = helpers.train(config, tmp_path)
    assert outcome.test_accuracy > 80


# IteRand on each network but those that repeat the blocks of another; dense training
# once for each dataset; all methods on texts, and those with something of their own,
# coats and trained weights, with normalization. What the others build is tested above,
# and their masks are in tests/test_methods.py. Of all these some are exhaustive.
ON_TEXTS = ("sgd", "iterand", "multicoated", "gem_miner")
LONG = {
    *(("imdb_lstm", method) for method in METHODS if method not in ON_TEXTS),
    ("cifar_conv4", "iterand"),
    ("cifar_resnet18", "iterand"),
    ("imagenet_resnet18", "sgd"),
    ("imagenet_resnet18", "magnitude"),
    ("imagenet_resnet50", "iterand"),
}
TRAINED = [
    (name, method)
    for name, paper in CONFIGS.items()
    for method in METHODS
    if name == "imdb_lstm"
    or (method == "iterand" and paper.network in helpers.ONE_OF_A_KIND)
    or (method == "sgd" and name in ("cifar_conv2", "cifar_vgg11"))
    or (name == "imagenet_resnet18" and method in ("sgd", "multicoated", "magnitude"))
]
TRAINED.remove(("imagenet_resnet50_x2", "iterand"))  # at one width, imagenet_resnet50


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("name", "method"), helpers.table(TRAINED, lambda cell: cell not in LONG)
)
def test_a_config_trains_two_steps_and_leaves_a_result(name, method, tmp_path):
    config = load_tiny(name)
    config.method = method
    config.recipe.iterand.k_per = config.recipe.gem_miner.k_per = 1
    config.recipe.gem_miner.freezings = 2
    if config.schedule == "warmup_cosine":
        config.warmup_epochs = config.final_epochs = 0
    if config.dataset.workers is not None:
        config.dataset.workers = 0
    config = resolve(config)
    run = building.build(config, tiny_source(config.dataset.name))
    steps = run.feed.steps_per_epoch
    assert steps >= 2
    with workdirs.claimed({tmp_path: config}):
        outcome = loop.train_and_evaluate(run, tmp_path)
        result = results.write_result(run, outcome, tmp_path)
    assert int(outcome.state.step) == steps
    assert np.isfinite(result["test_loss"])
    assert (result["redrawn"] > 0) == (method in ("iterand", "gem_miner"))
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["kind"] for line in lines] == ["step"] * steps + ["epoch"]
    state = workdirs.restore(tmp_path).state
    jax.tree.map(np.testing.assert_array_equal, state, outcome.state)
    before = jax.jit(run.init_state)(run.root)
    moved = jax.tree.map(lambda a, b: np.any(a != b), before, state)
    assert any(jax.tree.leaves(moved.trainable))
    assert dataclasses.asdict(outcome.record)["validation_accuracy"]


@pytest.mark.slow
@pytest.mark.compiles
@pytest.mark.parametrize("name", IMP)
def test_magnitude_pruning_trains_two_stages_and_leaves_a_result(name, tmp_path):
    config = load_tiny(name)
    config.epochs, config.milestones = 2, (1,)
    config.recipe.imp.retrainings = 1
    config = resolve(config)
    source = tiny_source(config.dataset.name)
    dense = building.build(procedures.stages(config)[0], source)
    steps = dense.feed.steps_per_epoch
    assert steps >= 2
    with workdirs.claimed({tmp_path: config}):
        result = stages.train(config, stages.build(config, source, tmp_path), tmp_path)
    assert (result["method"], result["steps"]) == ("imp", 2 * 2 * steps)
    assert np.isfinite(result["test_loss"])
    for index in range(2):
        lines = read_lines(tmp_path / f"stage_{index}" / "metrics.jsonl")
        assert [line["kind"] for line in lines] == 2 * (["step"] * steps + ["epoch"])
    early = leaves_of(workdirs.restore(tmp_path / "stage_0", steps).state.trainable)
    state = workdirs.restore(tmp_path / "stage_1").state
    weights, kept = leaves_of(state.trainable), leaves_of(state.frozen)
    assert weights.keys() - kept.keys() >= set(config.unpruned)
    mask = np.concatenate([mask.ravel() for mask in kept.values()])
    assert np.sum(mask == 0) == round(0.5 * mask.size)
    for path in kept:
        assert np.any(weights[path] != early[path] * kept[path])
        assert not np.any(weights[path][kept[path] == 0])
