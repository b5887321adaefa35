#!/usr/bin/env bash
# Question: how large are the query weights of torch.nn.MultiheadAttention in
#           self-attention, and in cross-attention to keys of another width?
# Guess:    the fused one has half the variance: right.
# Seen:     torch 2.13.0, 28 November 2026. Twice the variance in cross-attention. With keys
#           and values of the query's width one matrix (3 E, E) holds all three, and Xavier
#           sees 3 E outputs; with any other width (also with vdim alone) there are three
#           matrices. So kdim=255 in place of 256 doubles the variance of the queries.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'END'
from torch import manual_seed, nn

WIDTH = 256
manual_seed(0)
fused = nn.MultiheadAttention(WIDTH, 8).in_proj_weight[:WIDTH]
apart = nn.MultiheadAttention(WIDTH, 8, kdim=WIDTH - 1).q_proj_weight
by_vdim = nn.MultiheadAttention(WIDTH, 8, vdim=2 * WIDTH).q_proj_weight
for name, weight in {"fused": fused, "kdim=255": apart, "vdim=512": by_vdim}.items():
    print(name, tuple(weight.shape), f"variance x width: {WIDTH * weight.var().item():.3f}")
assert abs(WIDTH * fused.var().item() - 0.5) < 0.02
assert abs(WIDTH * apart.var().item() - 1) < 0.03
assert abs(WIDTH * by_vdim.var().item() - 1) < 0.03
END
