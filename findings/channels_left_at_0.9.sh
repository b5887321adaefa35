#!/usr/bin/env bash
# Question: how many of 10 to 100 channels does torch-pruning leave at pruning_ratio 0.9
#           and 0.8, and what does manual_prune_width do with 0.9?
# Guess:    int(channels * (1 - ratio)), and 1 of 10 channels by a guard: wrong for the
#           10. None for manual_prune_width and round_to.
# Seen:     torch-pruning 1.6.1, 28 November 2026. int(channels * (1 - 0.9)) stay, and
#           1 - 0.9 is a little below 0.1: of 100 channels 9 stay, of 20 one. Of 10 none
#           would, and a guard then skips the layer: all 10 stay, at 0.8 one. With
#           manual_prune_width the 0.9 is no pruning ratio: 91 of 100 stay. round_to=16,
#           "the nearest multiple", rounds down: 42 of 60 channels become 32, not 48.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torch-pruning==1.6.1 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'END'
import torch
import torch_pruning as tp
from torch import nn


def pruner_of(channels, ratio, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, channels), nn.ReLU(), nn.Linear(channels, 3))
    return model, tp.pruner.MagnitudePruner(
        model,
        torch.zeros(1, 8),
        importance=tp.importance.MagnitudeImportance(),
        pruning_ratio=ratio,
        ignored_layers=[model[2]],
        **options,
    )


def left(channels, ratio, **options):
    model, pruner = pruner_of(channels, ratio, **options)
    pruner.step()
    return model[0].out_features


at_09 = {channels: left(channels, 0.9) for channels in (10, 20, 30, 50, 64, 100)}
at_08 = {channels: left(channels, 0.8) for channels in (10, 20, 30, 50, 64, 100)}
model, pruner = pruner_of(100, 0.5)
pruner.manual_prune_width(model[0], tp.prune_linear_out_channels, 0.9)
print("left at 0.9:", at_09)
print("left at 0.8:", at_08)
print("left of 100 by manual_prune_width(0.9):", model[0].out_features)
print("left of 60 at 0.3 with round_to=16:", left(60, 0.3, round_to=16))
assert at_09 == {10: 10, 20: 1, 30: 2, 50: 4, 64: 6, 100: 9}
assert at_08 == {10: 1, 20: 3, 30: 5, 50: 9, 64: 12, 100: 19}
assert model[0].out_features == 91
assert left(60, 0.3, round_to=16) == 32
END
