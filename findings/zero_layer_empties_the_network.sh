#!/usr/bin/env bash
# Question: what does NNCF's global magnitude pruning at 0.5 leave of two layers of equal
#           size, of which one is initialized to zero (as the last layer of a residual
#           branch often is)?
# Guess:    from its rule, nothing: right. Local mode: equal weights all go, the smallest
#           at ratio 0: right.
# Seen:     nncf 3.4.0 with torch 2.13.0, 28 November 2026. Nothing at all, without a
#           word. Each layer is divided by its norm, 0 / 0 is NaN, NaN ranks as the
#           largest, and no weight is above the threshold. A small zero layer shifts the
#           threshold of the others only a little. The local mode keeps nothing of a
#           layer of equal weights at any ratio, and at ratio 0 loses the smallest weight.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 nncf==3.4.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'END'
import nncf
import torch
from torch import nn


class Layers(nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(w.shape[1], w.shape[0], bias=False) for w in weights)
        for layer, weight in zip(self.layers, weights):
            layer.weight.data = weight.clone()

    def forward(self, x):
        return [layer(x) for layer in self.layers]


def kept(weights, ratio, mode):
    """Of each layer: the outputs of a pruned layer for each input alone are its weights."""
    inputs = torch.eye(weights[0].shape[1])
    model = nncf.prune(Layers(weights), mode, ratio=ratio, examples_inputs=inputs)
    return [int((rows != 0).sum()) for rows in model(inputs)]


torch.manual_seed(0)
LOCAL = nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL
GLOBAL = nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_GLOBAL
first, second, zero = torch.randn(32, 32), torch.randn(32, 32), torch.zeros(32, 32)
seen = {
    "two layers": sum(kept([first, second], 0.5, GLOBAL)),
    "one is zero": sum(kept([first, zero], 0.5, GLOBAL)),
    "equal weights at 0.5": sum(kept([torch.ones(1, 10)], 0.5, LOCAL)),
    "ten weights at 0": sum(kept([torch.arange(1.0, 11)[None]], 0.0, LOCAL)),
}
for name, value in seen.items():
    print(name, "->", value, "kept")
assert seen == {
    "two layers": 1024,
    "one is zero": 0,
    "equal weights at 0.5": 0,
    "ten weights at 0": 9,
}
END
