#!/usr/bin/env bash
# Question: which variance have the outputs of a depthwise convolution with he_normal, over
#           256 channels of variance 1, in Keras, Flax, Haiku and PyTorch?
# Guess:    2 in all but Keras, which counts all channels: right.
# Seen:     keras 3.15.1, flax 0.12.8, dm-haiku 0.0.17, torch 2.13.0, 28 November 2026. 2 in
#           Flax, Haiku and PyTorch, and 2 / 256 in Keras: its kernel is (3, 3, 256, 1), so
#           the fan-in counts all channels. Every depthwise layer divides the signal by 16
#           at 256 channels, by 32 at 1,024. The same network as a grouped Conv2D
#           (groups=256), where Keras is right, starts with other outputs.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 keras==3.15.1 dm-haiku==0.0.17 \
  jax==0.10.1 jaxlib==0.10.1 flax==0.12.8 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu KERAS_BACKEND=jax venv/bin/python -W ignore - <<'END'
import haiku as hk
import jax
import keras
import numpy as np
import torch
from flax import linen as nn

CHANNELS, KEY = 256, jax.random.key(0)
keras.utils.set_random_seed(0)
torch.manual_seed(0)
he = jax.nn.initializers.he_normal()
x = np.random.default_rng(0).standard_normal((8, 16, 16, CHANNELS)).astype("float32")
own = dict(padding="valid", use_bias=False)
depthwise = keras.layers.DepthwiseConv2D(3, depthwise_initializer="he_normal", **own)
grouped = keras.layers.Conv2D(
    CHANNELS, 3, groups=CHANNELS, kernel_initializer="he_normal", **own
)
flax = nn.Conv(
    CHANNELS, (3, 3), feature_group_count=CHANNELS, kernel_init=he, padding="VALID"
)
haiku = hk.without_apply_rng(
    hk.transform(
        lambda x: hk.DepthwiseConv2D(
            1, 3, padding="VALID", w_init=hk.initializers.VarianceScaling(2.0)
        )(x)
    )
)
of_torch = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, groups=CHANNELS, bias=False)
torch.nn.init.kaiming_normal_(of_torch.weight)
outputs = {
    "Keras DepthwiseConv2D": depthwise(x),
    "Keras Conv2D, groups": grouped(x),
    "Flax Conv, groups": flax.init_with_output(KEY, x)[0],
    "Haiku DepthwiseConv2D": haiku.apply(haiku.init(KEY, x), x),
    "torch Conv2d, groups": of_torch(torch.from_numpy(x).permute(0, 3, 1, 2)).detach(),
}
for name, y in outputs.items():
    variance = float(np.var(np.asarray(y)))
    print(f"{name}: {variance:.4f}")
    expected = 2 / CHANNELS if name == "Keras DepthwiseConv2D" else 2
    assert abs(variance / expected - 1) < 0.15
END
