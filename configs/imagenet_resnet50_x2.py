"""ResNet50 at twice the width on ImageNet: Table 9 of the paper.

    python -m iterand_jax.main --config=configs/imagenet_resnet50_x2.py
    --config.method=iterand|edge_popup --config.dtype=bfloat16 --config.seed=0|1|2
    --config.dataset.workers=8

Top-1 of the paper (SC, sparsity 0.7): IteRand 74.05, edge-popup 72.96.

A run takes about 59 hours on an A100 in bfloat16: an estimate, from ResNet50's by
multiply-adds (16 against 4.1 billion per image).
"""

from iterand_jax.configs import imagenet_resnet50


def get_config():
    """ResNet50's run at width 2."""
    config = imagenet_resnet50.get_config()
    config.network.width = 2.0
    return config
