"""The settings released with the paper: each switch, and the one that sets them all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax import Subnetwork
from iterand_jax.configs import load
from iterand_jax.data import datasets, imagenet, imagenet_feed
from iterand_jax.data.feeds import Placement
from iterand_jax.methods.magnitude import magnitude_masks
from iterand_jax.networks import build_network
from iterand_jax.networks.conv_norm import ConvNorm
from iterand_jax.rules import DEFAULT_RULES, Rule
from iterand_jax.tickets.ticket import load as load_ticket
from iterand_jax.training import building, exporting, workdir
from iterand_jax.training.config import resolve
from iterand_jax.training.config_json import to_json
from iterand_jax.trees import leaves_of
from tests import helpers


def resolved(name, **fields):
    config = load(name)
    config.update_from_flattened_dict(fields)
    return resolve(config)


EVERYWHERE = {"rank": "quantile", "resample": "before"}
IMAGES = EVERYWHERE | {"dataset.partial_batches": True}
NORMALIZED = IMAGES | {"unbiased_variances": True}
RATE = {"learning_rate": 0.3}
IMAGENET = NORMALIZED | {
    "dataset.validation_fraction": 0.01,
    "dataset.split_seed": 0,
    "accumulate_steps": 2,
}


@pytest.mark.parametrize(
    ("name", "method", "expected"),
    [
        ("cifar_conv6", "iterand", IMAGES | RATE),
        ("cifar_conv6", "edge_popup", IMAGES | RATE),
        ("cifar_conv6", "sgd", IMAGES),
        ("cifar_conv6", "random", IMAGES),
        ("cifar_conv6", "magnitude", IMAGES),
        ("cifar_conv4", "iterand", IMAGES),
        ("cifar_resnet18", "iterand", NORMALIZED),
        ("imagenet_resnet50", "iterand", IMAGENET),
        ("imdb_lstm", "iterand", EVERYWHERE),
        ("cifar_vgg11_imp", "imp", {"sparsity_of": "all"}),
    ],
)
def test_released_sets_all_that_is_known_of_a_run(name, method, expected):
    """And nothing else; without it no config has any of them."""
    ours = resolved(name, method=method).to_dict()
    theirs = resolved(name, method=method, released=True)
    for field, value in expected.items():
        holder, _, last = field.rpartition(".")
        own = ours[holder] if holder else ours
        assert own[last] != value
        own[last] = value
    assert theirs.to_dict() == ours | {"released": True}


def test_a_learning_rate_that_is_given_counts():
    config = resolved("cifar_conv6", released=True, learning_rate=0.25)
    assert config.learning_rate == 0.25


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": "median"}, "unknown rank 'median'; possible: count, quantile"),
        ({"resample": "never"}, "unknown resample 'never'; possible: after, before"),
        ({"sparsity_of": "both"}, "unknown sparsity_of 'both'; possible: pruned, all"),
        ({"unbiased_variances": True}, "network conv6 has no batch normalization"),
        ({"dataset.split_seed": None}, "split_seed=None"),
    ],
)
def test_what_is_not_possible_is_refused(fields, message):
    config = load("cifar_conv6")
    config.update_from_flattened_dict(fields)
    with pytest.raises(ValueError, match=message):
        building.describe(resolve(config))


def test_texts_have_no_partial_batches():
    with pytest.raises(ValueError, match=r"dataset.partial_batches=True: the fields"):
        resolved("imdb_lstm", **{"dataset.partial_batches": True})


@pytest.mark.parametrize(
    ("sparsity", "count", "quantile"), [(0.6, 60, 59), (0.3, 30, 30)]
)
def test_the_rank_of_the_threshold_is_that_of_a_quantile(sparsity, count, quantile):
    """A threshold of a hundred scores, and each slice of a stack its own."""
    scores = {"kernel": jnp.arange(100.0).reshape(10, 10)}
    for rank, removed in (("count", count), ("quantile", quantile)):
        subnetwork = Subnetwork(sparsity, rank=rank)
        mask = subnetwork.masks(scores)["kernel"]
        assert int(jnp.sum(mask == 0)) == removed
        assert subnetwork.count(scores) == (100, 100 - removed)
        traced = jax.jit(lambda s, p=subnetwork: p.masks(s))(scores)["kernel"]
        np.testing.assert_array_equal(traced, mask)
        moved = jax.tree.map(lambda s: s, subnetwork)  # through a pytree
        assert moved.rank == rank


def test_the_sparsity_of_all_weights_leaves_fewer_to_the_pruned_layers():
    """OpenLTH's 87,108 convolution weights of VGG11 at 0.99; ours 92,177."""
    network = build_network("vgg11", num_classes=10, affine=True)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(0)
    weights = jax.tree.map(
        lambda w: rng.standard_normal(w.shape, np.float64), shapes["params"]
    )
    rules = (Rule("Dense_0/kernel", prune=False), *DEFAULT_RULES)
    subnetwork, kept = Subnetwork(rules=rules), []
    for of in ("pruned", "all"):
        found = magnitude_masks(subnetwork, weights, 0.99, of)
        assert found["Dense_0"]["kernel"] is None
        kept.append(sum(int(np.sum(m)) for m in jax.tree.leaves(found)))
    assert kept == [92_177, 87_108]


def test_a_sparsity_of_all_that_leaves_nothing_is_refused():
    weights = {"a": {"kernel": jnp.ones((2, 2))}, "b": {"kernel": jnp.ones((9, 9))}}
    subnetwork = Subnetwork(rules=(Rule("b/*", prune=False), *DEFAULT_RULES))
    message = r"sparsity 0.5 of all 85 weights removes 42, and the pruned layers have 4"
    with pytest.raises(ValueError, match=message):
        magnitude_masks(subnetwork, weights, 0.5, "all")


def test_unbiased_running_variances_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((4, 3, 3, 2)).astype("f4")
    layer = torch.nn.BatchNorm2d(2, affine=False)
    layer(torch.tensor(x.transpose(0, 3, 1, 2)))
    for unbiased in (False, True):
        module = ConvNorm(2, 1, unbiased=unbiased)
        variables = module.init(jax.random.key(0), x, train=False)
        variables["params"]["Conv_0"]["kernel"] = jnp.eye(2).reshape(1, 1, 2, 2)
        out, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
        (stats,) = updated["batch_stats"].values()
        var = layer.running_var.numpy() if unbiased else 0.9 + 0.1 * x.var((0, 1, 2))
        np.testing.assert_allclose(stats["var"], var, rtol=1e-5)
        np.testing.assert_allclose(stats["mean"], layer.running_mean, atol=1e-6)
        np.testing.assert_allclose(out.var((0, 1, 2)), [1, 1], rtol=1e-3)


@pytest.mark.slow
def test_an_epoch_ends_with_a_partial_batch(tiny_config, tmp_path):
    """Every training example once an epoch; a killed run gives the same."""
    config = tiny_config(batch_size=64, epochs=2, **{"dataset.partial_batches": True})
    built = helpers.build(config)
    train = built.feed.sizes["train"]
    full, rest = divmod(train, 64)
    assert rest
    assert built.feed.steps_per_epoch == full + 1
    assert built.feed.partial_batch == rest
    built.feed.open(built.root)
    for epoch in (0, 1):
        seen = []
        for step in range(epoch * (full + 1), (epoch + 1) * (full + 1)):
            (images,), labels = built.feed.train_inputs(
                built.feed.batch(step), jnp.int32(step), built.root
            )
            assert len(images) == len(labels)
            left = built.feed.steps_alike(step)
            assert left == max(1, full - step % (full + 1))
            seen += np.asarray(images).reshape(len(images), -1).tolist()
        assert [len(seen), len(images)] == [train, rest]
        assert len({tuple(row) for row in seen}) > 0.9 * train
    with helpers.killed(at=20):
        helpers.train(config, tmp_path / "killed")
    again = helpers.train(config, tmp_path / "killed")
    whole = helpers.train(config, tmp_path / "whole")
    assert again.state_sha256 == whole.state_sha256
    assert built.examples(built.total_steps) == 2 * train
    assert built.examples(full + 2) == train + 64


@pytest.mark.slow
@pytest.mark.parametrize("k_per", [1, 7])
def test_weights_are_resampled_before_the_update(k_per, tiny_config, tmp_path):
    """As often as after it, with the same draws; killed between the two, too."""
    states = {}
    for when in ("after", "before"):
        config = tiny_config(
            k_per=k_per,
            epochs=1,
            resample=when,
            checkpoint_every_steps=k_per - 1 or 1,
            keep_checkpoints=99,
            distribution="kaiming_uniform",
        )
        folder = tmp_path / when
        folder.mkdir()
        (folder / "config.json").write_text(to_json(resolve(config)))
        states[when] = helpers.train(config, folder)
        # A ticket replays the draws of either.
        exporting.export(folder, "ticket", folder / "t.safetensors")
        params = leaves_of(load_ticket(folder / "t.safetensors").params)
        run, state, _ = workdir.restore(folder)
        for path, leaf in leaves_of(run.params(state)).items():
            np.testing.assert_array_equal(params[path], leaf)
    assert states["after"].state_sha256 != states["before"].state_sha256
    assert states["before"].record.redrawn > 0
    if k_per == 7:
        for step in (6, 12):
            first = [
                leaves_of(workdir.restore(tmp_path / when, step).state.frozen)
                for when in ("after", "before")
            ]
            same = all(np.array_equal(first[0][p], first[1][p]) for p in first[0])
            assert same == (step == 6)  # after 6 updates none has resampled
        with helpers.killed(at=10):
            helpers.train(config, tmp_path / "killed")
        again = helpers.train(config, tmp_path / "killed")
        assert again.state_sha256 == states["before"].state_sha256


def imagenet_feed_of(source, **options):
    placement = Placement(*[jax.sharding.SingleDeviceSharding(jax.devices()[0])] * 2)
    return imagenet_feed.StreamedImages(
        source,
        placement,
        size=4,
        batch_size=8,
        eval_batch_size=4,
        dtype=jnp.float32,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        workers=0,
        on_bad_image="skip",
        **options,
    )


def test_imagenet_holds_out_training_images_and_keeps_the_rest_of_an_epoch():
    source = helpers.numbered_source(train=30, validation=10)
    feed = imagenet_feed_of(
        source, validation_fraction=0.2, split_seed=0, partial_batches=True
    )
    assert feed.sizes == {"train": 24, "validation": 6, "test": 10}
    feed = imagenet_feed_of(
        source, validation_fraction=0.1, split_seed=0, partial_batches=True
    )
    assert feed.sizes["train"] == 27
    assert (feed.steps_per_epoch, feed.partial_batch) == (4, 3)
    assert [shape.labels.shape for shape in feed.train_shapes()] == [(8,), (3,)]
    feed.open(jax.random.key(0))
    epochs = []
    for epoch in range(2):
        batches = [feed.batch(4 * epoch + i) for i in range(4)]
        assert [len(b.labels) for b in batches] == [8, 8, 8, 3]
        epochs.append(np.concatenate([b.labels for b in batches]).tolist())
    feed.close()
    held_out = [
        int(label)
        for batch, weights in feed.split("validation")
        for label, weight in zip(batch.labels, weights, strict=True)
        if weight
    ]
    assert len(held_out) == 3
    for labels in epochs:
        assert sorted(labels + held_out) == list(range(30))
    assert epochs[0] != epochs[1]
    tested = sum(int(np.sum(weights)) for _, weights in feed.split("test"))
    assert tested == 10


def test_imagenets_steps_and_redraws_are_the_released_ones():
    source = datasets.Source(
        name="imagenet2012",
        num_classes=1000,
        sizes=imagenet.OFFICIAL_SIZES,
        encoding="jpeg",
        fingerprint="0" * 16,
        read=None,
    )
    for released, steps, redraws in ((False, 10_009, 1_050), (True, 9_910, 1_040)):
        config = resolved("imagenet_resnet18", released=released)
        built = building.build(config, source)
        assert built.feed.steps_per_epoch == steps
        assert built.total_steps // built.method.refresh_every == redraws


def test_cifar_has_352_steps():
    source = datasets.Source(
        name="cifar10",
        num_classes=10,
        sizes={"train": 50_000, "test": 10_000},
        encoding="png",
        fingerprint="0" * 16,
        read=None,
        image_shape=(32, 32, 3),
    )
    for released, steps in ((False, 351), (True, 352)):
        config = resolved("cifar_conv6", released=released)
        built = building.build(config, source)
        assert built.feed.steps_per_epoch == steps
