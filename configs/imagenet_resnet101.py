"""ResNet101 on ImageNet: Table 4 (Figure 3) of the paper.

    python -m iterand_jax.main --config=configs/imagenet_resnet101.py
    --config.method=iterand|edge_popup --config.dtype=bfloat16 --config.seed=0|1|2
    --config.dataset.workers=8

Top-1 of the paper (SC, sparsity 0.7): IteRand 72.99, edge-popup 71.85.

A run takes about 29 hours on an A100 in bfloat16: an estimate, from ResNet50's by
multiply-adds (7.8 against 4.1 billion per image).
"""

from iterand_jax.configs import imagenet_resnet50


def get_config():
    """ResNet50's run with ResNet101."""
    config = imagenet_resnet50.get_config()
    config.network.name = "imagenet_resnet101"
    return config
