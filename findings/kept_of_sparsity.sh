#!/usr/bin/env bash
# Question: how many of n = 1 to 1,001 weights, and of the layers of Conv6, ResNet18,
#           ResNet50 and VGG16, do PyTorch, NNCF, TensorFlow's pruning and NumPy's
#           percentile keep at the sparsities 0.5 to 0.99, and what do they do with equal
#           scores, both zeros, NaN, and the sparsities 0 and 1?
# Guess:    n - round(0.9 n) in all but the percentile, which parts by one at most: wrong
#           for TensorFlow. Nothing left of 1 to 4 weights in PyTorch: right. NaN is kept by
#           PyTorch: right; TensorFlow then prunes everything: wrong. Rules with a threshold
#           keep or prune all ties: right.
# Seen:     torch 2.13.0, nncf 3.4.0, tensorflow-model-optimization 0.8.1 with TensorFlow
#           2.21.0, numpy 2.4.6, 28 November 2026. They part by one weight at up to half of
#           the sizes, and in up to 30 of the 54 layers of ResNet50, by two in one layer of
#           the four networks, VGG16's of 10^8 weights. TensorFlow's float32 also moves
#           halves, and where it places a NaN depends on where the NaN stands. PyTorch's
#           prune leaves nothing of up to 4 weights at 0.9 and up to 50 at 0.99, and reads
#           amount=1 as one weight, amount=1.0 as all. Above the kthvalue of round(s n) there
#           are n - round(s n), none of equal ones and no NaN, and sparsity 0 is an error;
#           topk keeps some of equal ones, and NaN. NNCF always prunes NaN, and of a
#           single weight or of equal weights keeps none. See docs/measured/sparsity.md.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 nncf==3.4.0 tensorflow==2.21.0 \
  tf_keras==2.21.0 tensorflow-model-optimization==0.8.1 numpy==2.4.6
cd "$folder"
export TF_CPP_MIN_LOG_LEVEL=3 TF_USE_LEGACY_KERAS=1 CUDA_VISIBLE_DEVICES=-1
venv/bin/python -W ignore - <<'END' 2> errors || { cat errors; exit 1; }
import math

import nncf
import numpy as np
import tensorflow as tf
import torch
from tensorflow_model_optimization.python.core.sparsity.keras import (
    pruning_impl,
    pruning_schedule,
)
from torch import nn
from torch.nn.utils import prune

RNG = np.random.default_rng(0)
SIZES = range(1, 1002)
WEIGHTS = {n: RNG.standard_normal(n).astype("float32") for n in SIZES}


def of_torch(arrays, sparsity):
    for array in arrays:
        layer = nn.Linear(array.size, 1, bias=False)
        layer.weight.data[:] = torch.from_numpy(array)
        prune.l1_unstructured(layer, "weight", amount=sparsity)
        yield layer.weight_mask.ravel().int().numpy()


class Layers(nn.Module):
    def __init__(self, arrays):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a.size, 1, bias=False) for a in arrays)
        for layer, array in zip(self.layers, arrays):
            layer.weight.data[:] = torch.from_numpy(array)

    def forward(self, x):
        return [layer(x[: layer.in_features]) for layer in self.layers]


def of_nncf(arrays, sparsity):
    mode = nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL
    model = nncf.prune(
        Layers(arrays),
        mode,
        ratio=sparsity,
        examples_inputs=torch.ones(max(array.size for array in arrays)),
    )
    found = {
        int(name.split("layers:")[1].split(":")[0]): mask.ravel().int().numpy()
        for name, mask in model.state_dict().items()
        if name.endswith("binary_mask")
    }
    return [found[index] for index in range(len(arrays))]


def of_tensorflow(arrays, sparsity):
    schedule = pruning_schedule.ConstantSparsity(sparsity, 0, -1, 1)
    for array in arrays:
        weights = tf.Variable(array[None])
        mask, least = tf.Variable(tf.ones_like(weights)), tf.Variable(0.0)
        pruning = pruning_impl.Pruning(
            lambda: tf.constant(5), [(weights, mask, least)], schedule, [1, 1], "AVG"
        )
        yield pruning._update_mask(weights)[1].numpy().astype(int).ravel()


def of_percentile(arrays, sparsity):
    for array in arrays:
        sizes = np.abs(array)
        yield (sizes > np.percentile(sizes, 100 * sparsity)).astype(int)


LIBRARIES = {
    "torch": of_torch,
    "nncf": of_nncf,
    "tensorflow": of_tensorflow,
    "percentile": of_percentile,
}
SPARSITIES = (0.5, 0.7, 0.9, 0.95, 0.98, 0.99)
seen = {}
for sparsity in SPARSITIES:
    for name, masks in LIBRARIES.items():
        counts = [int(mask.sum()) for mask in masks(list(WEIGHTS.values()), sparsity)]
        parts = {}
        for n, kept in zip(SIZES, counts):
            parts.setdefault(kept - (n - round(sparsity * n)), []).append(n)
        empty = [n for n, kept in zip(SIZES, counts) if kept == 0]
        seen[sparsity, name] = {k: len(v) for k, v in sorted(parts.items())}, len(empty)
        print(sparsity, name, "kept more than n - round(sparsity n):", end=" ")
        print({k: (len(v), v[:4]) for k, v in sorted(parts.items())}, "nothing of", empty[-3:])

NAN = math.nan
CASES = {
    "equal": [1.0] * 10,
    "zeros": [0.0, -0.0] * 5,
    "NaN first": [NAN, *range(1, 10)],
    "NaN in the middle": [1, 2, 3, 4, NAN, 5, 6, 7, 8, 9],
}
for case, values in CASES.items():
    for name, masks in LIBRARIES.items():
        (mask,) = masks([np.array(values, "float32")], 0.5)
        seen[case, name] = "".join(map(str, mask))
        print(case, name, seen[case, name])


def of_kthvalue(array, sparsity):
    sizes = torch.from_numpy(np.abs(array))
    return (sizes > torch.kthvalue(sizes, round(sparsity * array.size))[0]).int().numpy()


def of_topk(array, sparsity):
    mask = np.zeros(array.size, int)
    kept = array.size - round(sparsity * array.size)
    mask[torch.topk(torch.from_numpy(np.abs(array)), kept).indices.numpy()] = 1
    return mask


for name, mask_of in {"kthvalue": of_kthvalue, "topk": of_topk}.items():
    for sparsity in SPARSITIES:
        pruned = [n for n in SIZES if round(sparsity * n)]  # kthvalue has no 0th
        counts = [int(mask_of(WEIGHTS[n], sparsity).sum()) for n in pruned]
        other = sum(kept != n - round(sparsity * n) for n, kept in zip(pruned, counts))
        seen[sparsity, name] = other, 1001 - len(pruned)
        print(sparsity, name, "other counts than n - round(sparsity n), no rank:", seen[sparsity, name])
    for case, values in CASES.items():
        seen[case, name] = "".join(map(str, mask_of(np.array(values, "float32"), 0.5)))
        print(case, name, seen[case, name])
ten = np.arange(1, 11).astype("float32")
seen["topk at 0, 1"] = [int(of_topk(ten, sparsity).sum()) for sparsity in (0, 1)]
seen["kthvalue at 1"] = int(of_kthvalue(ten, 1).sum())
try:
    of_kthvalue(ten, 0)
except (IndexError, RuntimeError) as error:
    seen["kthvalue at 0"] = type(error).__name__
for name, masks in LIBRARIES.items():
    (mask,) = masks([ten], 0.0)
    seen["at 0", name] = sum(mask)
(seen["amount=1"],) = (sum(mask) for mask in of_torch([ten], 1))
(seen["amount=1.0"],) = (sum(mask) for mask in of_torch([ten], 1.0))


def conv6():
    convs = ((3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256))
    return [9 * i * o for i, o in convs] + [4_096 * 256, 256 * 256, 256 * 10]


def resnet18():  # of CIFAR-10
    sizes, inputs = [27 * 64], 64
    for channels in (64, 128, 256, 512):
        sizes += [9 * inputs * channels, *[9 * channels**2] * 3]
        sizes += [inputs * channels] * (inputs != channels)
        inputs = channels
    return [*sizes, 512 * 10]


def resnet50():
    sizes, inputs = [147 * 64], 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = 64 * 2**stage
        for _ in range(blocks):
            sizes += [inputs * inner, 9 * inner**2, 4 * inner**2]
            sizes += [4 * inputs * inner] * (inputs in (64, 2 * inner))
            inputs = 4 * inner
    return [*sizes, 2_048 * 1_000]


def vgg16():
    channels = (3, 64, 64, 128, 128, *[256] * 3, *[512] * 6)
    convs = [9 * i * o for i, o in zip(channels, channels[1:])]
    return [*convs, 25_088 * 4_096, 4_096**2, 4_096 * 1_000]


def in_float32(n, sparsity):
    return int(np.round(np.float32(n) * (np.float32(1) - np.float32(sparsity))))


def after_rank(n, sparsity):
    return n - 1 - math.floor((n - 1) * sparsity)


RULES = {
    "torch": lambda n, sparsity: n - round(sparsity * n),
    "nncf": after_rank,
    "tensorflow": lambda n, sparsity: max(1, in_float32(n, sparsity)),
    "percentile": after_rank,
}
NETWORKS = {f.__name__: f() for f in (conv6, resnet18, resnet50, vgg16)}
layers = sorted({n for sizes in NETWORKS.values() for n in sizes})
small = [n for n in layers if n < 3_000_000]  # the others by the rules alone
distinct = [RNG.permutation(n).astype("float32") + 1 for n in small]
off = []
for sparsity in SPARSITIES:
    kept = {name: {n: rule(n, sparsity) for n in layers} for name, rule in RULES.items()}
    for name, masks in LIBRARIES.items():
        for n, mask in zip(small, masks(distinct, sparsity)):
            count = int(mask.sum())
            if count != kept[name][n]:
                off.append((sparsity, name, n, count - kept[name][n]))
            kept[name][n] = count
    part = []
    for network, sizes in NETWORKS.items():
        rows = [[of[n] for of in kept.values()] for n in sizes]
        apart = [max(row) - min(row) for row in rows]
        part.append(sum(gap > 0 for gap in apart))
        for n, row, gap in zip(sizes, rows, apart):
            if gap > 1:
                seen.setdefault("parted", []).append((network, n, sparsity, gap))
                print(f"{sparsity} {network} {n:,}", dict(zip(RULES, row)))
        assert min(map(min, rows)) > 0
    print(sparsity, "layers in which two part:", dict(zip(NETWORKS, part)))
    seen["parting layers", sparsity] = part
print("not by the rules:", off)
print({name: (len(sizes), sum(sizes)) for name, sizes in NETWORKS.items()})
print({key: value for key, value in seen.items() if "a" in str(key[0])})
assert seen[0.5, "torch"] == ({0: 1001}, 0)
assert seen[0.9, "torch"] == ({0: 1001}, 4)
assert seen[0.99, "torch"] == ({0: 1001}, 50)
assert seen[0.9, "tensorflow"] == ({0: 947, 1: 54}, 0)
assert seen[0.99, "tensorflow"] == ({-1: 5, 0: 946, 1: 50}, 0)
assert seen[0.9, "nncf"][1] == seen[0.9, "percentile"][1] == 1
for name in LIBRARIES:
    ties = {"torch": 5, "tensorflow": 10}.get(name, 0)
    assert seen["equal", name].count("1") == seen["zeros", name].count("1") == ties
assert [seen["NaN first", name][0] for name in LIBRARIES] == ["1", "0", "0", "0"]
assert seen["NaN first", "tensorflow"].count("1") == 4
assert seen["NaN in the middle", "tensorflow"].count("1") == 5
assert seen["NaN first", "percentile"].count("1") == 0
assert [seen["at 0", name] for name in LIBRARIES] == [10, 9, 10, 9]
assert (seen["amount=1"], seen["amount=1.0"]) == (9, 0)
for name, ties in (("kthvalue", 0), ("topk", 5)):
    assert [seen[sparsity, name] for sparsity in SPARSITIES] == [(0, 1)] + [(0, 0)] * 5
    assert seen["equal", name].count("1") == seen["zeros", name].count("1") == ties
    assert [seen[f"NaN {place}", name].count("1") for place in ("first", "in the middle")] == (
        [4 + (name == "topk")] * 2
    )
assert (seen["topk at 0, 1"], seen["kthvalue at 1"]) == ([10, 0], 0)
assert seen["kthvalue at 0"] == "RuntimeError"
assert off == [(0.98, "percentile", 2_097_152, -1)]
assert {(name, gap) for name, _, _, gap in seen["parted"]} == {("vgg16", 2)}
assert [seen["parting layers", s] for s in (0.5, 0.9)] == [[0] * 4, [3, 10, 29, 5]]
END
