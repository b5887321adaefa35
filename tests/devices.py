"""A script that test_parallel.py runs on several devices; [FILE] for a feed."""

import re
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax.configs import digits
from iterand_jax.data import datasets, feeds
from iterand_jax.data.resident_feed import ResidentImages
from iterand_jax.data.sources import Source
from iterand_jax.networks.batch_norm import fused_normalize
from iterand_jax.networks.lstm import LSTMClassifier
from iterand_jax.training import building, loop, parallel, programs
from iterand_jax.training.config import resolve

SIZE, BATCH, STEPS = 100, 32, 5  # 2 steps in an epoch


def main(files):
    if files:
        np.savez(files[0], **batches_of_a_feed())
    else:
        the_steps_and_the_refresh_hand_arrays_on_as_they_are()
        batches_are_normalized_as_a_whole()
        texts_stay_on_their_devices()
        a_device_with_another_state_is_reported()
        a_run_whose_devices_differ_saves_nothing()


def batches_are_normalized_as_a_whole():
    """Both sums of a pass are over the shards of all devices, in both directions."""
    images = jax.random.normal(jax.random.key(0), (8, 6, 6, 3))

    def result(x):
        def total(x):
            y, mean, var = fused_normalize(x, None, None, 1e-5, jnp.float32)
            return jnp.sum(jnp.sin(y)), (mean, var)

        return jax.value_and_grad(total, has_aux=True)(x)

    alone = jax.jit(result)(images)
    sharding = parallel.batch_sharded(parallel.device_mesh())
    spread = jax.jit(result)(jax.device_put(images, sharding))
    assert spread[1].sharding.spec == sharding.spec
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        alone,
        spread,
    )


def batches_of_a_feed():
    """The indices and augmented images of every step, of images like CIFAR-10's."""
    mesh = parallel.device_mesh()
    placement = feeds.Placement(parallel.replicated(mesh), parallel.batch_sharded(mesh))
    images = np.random.default_rng(0).integers(0, 256, (SIZE, 32, 32, 3), np.uint8)
    labels = np.arange(SIZE, dtype=np.int32)  # so that they identify the image
    source = Source(
        name="indexed",
        num_classes=SIZE,
        sizes={"train": SIZE, "test": SIZE},
        encoding="none",
        fingerprint="none",
        read=lambda split: (images, labels),
        image_shape=images.shape[1:],
    )
    feed = ResidentImages(
        source,
        placement,
        batch_size=BATCH,
        eval_batch_size=BATCH,
        dtype=jnp.float32,
        augmentation="crop_flip",
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        validation_fraction=0.1,
        split_seed=0,
    )
    key = jax.random.key
    root = jax.jit(lambda: key(3), out_shardings=placement.replicated)()
    feed.open(root)
    inputs = jax.jit(feed.train_inputs, out_shardings=placement.batch)
    batches = []
    for step in range(STEPS):
        (augmented,), indices = inputs(feed.batch(step), step, root)
        shards = indices.addressable_shards
        assert {shard.data.shape for shard in shards} == {(BATCH // mesh.size,)}
        batches.append((np.asarray(indices), np.asarray(augmented)))
    indices, augmented = map(np.stack, zip(*batches, strict=True))
    return {"indices": indices, "images": augmented}


def the_steps_and_the_refresh_hand_arrays_on_as_they_are():
    """Once compiled, they move nothing between devices and trace nothing again."""
    run, state = a_run_and_its_state()
    replicated = parallel.replicated(run.mesh)
    compiled = programs.compile_programs(run, [state])
    (step,) = compiled.steps.values()
    compiled.wait()
    run.feed.open(run.root)
    batch = run.feed.batch(0)
    k_per = run.config.k_per
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compilations.append(name) if "compile" in name else None
    )

    def step_and_refresh(state):
        (state,) = step((state,), (batch,), (run.root,), 1)
        frozen, redrawn = compiled.refresh(
            run.root, k_per, state.trainable, state.frozen
        )
        return state._replace(frozen=frozen), redrawn

    state, _ = step_and_refresh(state)
    jax.jit(lambda x: x + 1)(1)
    assert compilations  # are seen
    compilations.clear()
    # Only the numbers of steps come from the host; the rest is on the devices. On CPU
    # the guard cannot see what goes to the host.
    for leaf in jax.tree.leaves((state, batch, run.root)):
        assert leaf.sharding == replicated
    with (
        jax.transfer_guard("disallow_explicit"),
        jax.transfer_guard_host_to_device("allow"),
    ):
        for _ in range(2):
            state, redrawn = step_and_refresh(state)
    assert int(redrawn) > 0
    assert compilations == []


def texts_stay_on_their_devices():
    """Of an LSTM only sums over the texts are exchanged, and they are those of one."""
    model = LSTMClassifier(2, width=0.1, vocabulary_size=9, bidirectional=True)
    tokens = np.random.default_rng(0).integers(0, 9, (8, 6))
    lengths = np.array([6, 5, 1, 6, 2, 3, 4, 6])
    params = jax.jit(model.init)(jax.random.key(0), tokens, lengths)

    def total(params, tokens, lengths):
        return jnp.sum(model.apply(params, tokens, lengths) ** 2)

    mesh = jax.sharding.Mesh(jax.devices(), "batch")
    by_text = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    texts = jax.device_put((tokens, lengths), by_text)
    gradient = jax.jit(jax.grad(total))
    program = gradient.lower(params, *texts).compile().as_text()
    assert "all-reduce(" in program
    assert "all-gather(" not in program
    for found, alone in zip(
        jax.tree.leaves(gradient(params, *texts)),
        jax.tree.leaves(gradient(params, tokens, lengths)),
        strict=True,
    ):
        assert np.abs(alone).max() > 1e-3
        np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-6)


def a_device_with_another_state_is_reported():
    """By the smallest difference, in a leaf of each size of numbers."""
    run, state = a_run_and_its_state()
    state = state._replace(masks={"bits": state.masks["Conv_0"]["kernel"]})
    check = parallel.compile_check(run.mesh, state)
    check(state)
    for path in ("trainable/Dense_2/kernel", "masks/bits"):
        part = path.split("/")[0]
        flat, tree = jax.tree.flatten(getattr(state, part))
        device = jax.devices()[2]
        flat[-1] = with_a_flipped_bit(flat[-1], device)
        changed = state._replace(**{part: jax.tree.unflatten(tree, flat)})
        message = f"{path} is not the same on {device} as on {jax.devices()[0]}"
        with pytest.raises(parallel.DifferingDevicesError, match=re.escape(message)):
            check(changed)


def a_run_whose_devices_differ_saves_nothing():
    """A bit of a weight is flipped on one device in the first re-randomization."""
    refresh = parallel.compile_refresh

    def compile_drifting(*arguments):
        whole = refresh(*arguments)

        def drifting(*arguments):
            frozen, redrawn = whole(*arguments)
            device = jax.devices()[1]
            return jax.tree.map(
                lambda x: with_a_flipped_bit(x, device), frozen
            ), redrawn

        return drifting

    run, _ = a_run_and_its_state(checkpoint_every_steps=10)
    parallel.compile_refresh = compile_drifting
    with tempfile.TemporaryDirectory() as folder:
        message = "frozen/Conv_0/kernel is not the same on"
        with pytest.raises(parallel.DifferingDevicesError, match=message):
            loop.train_and_evaluate(run, Path(folder))
        assert list(Path(folder, "checkpoints").iterdir()) == []
    parallel.compile_refresh = refresh


def with_a_flipped_bit(leaf, device):
    """The array with one bit of its last number flipped on a device."""
    shards = []
    for shard in leaf.addressable_shards:
        data = np.array(shard.data)
        if shard.device == device:
            data.reshape(-1)[-1:].view(np.uint8)[0] ^= 1
        shards.append(jax.device_put(data, shard.device))
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, shards)


def a_run_and_its_state(**fields):
    """A tiny run on the digits, on all devices."""
    config = digits.get_config()
    config.update(fields)
    config.network.width = 0.0625
    run = building.build(resolve(config), datasets.open_source("digits"))
    replicated = parallel.replicated(run.mesh)
    return run, jax.jit(run.init_state, out_shardings=replicated)(run.root)


if __name__ == "__main__":
    main(sys.argv[1:])
