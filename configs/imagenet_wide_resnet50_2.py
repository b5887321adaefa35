"""WideResNet-50-2 on ImageNet: Table 9 of the paper.

    python -m iterand_jax.main --config=configs/imagenet_wide_resnet50_2.py
    --config.method=iterand|edge_popup --config.dtype=bfloat16 --config.seed=0|1|2
    --config.dataset.workers=8

Top-1 of the paper (SC, sparsity 0.7): IteRand 73.57, edge-popup 71.59.

A run takes about 42 hours on an A100 in bfloat16: an estimate, from ResNet50's by
multiply-adds (11.4 against 4.1 billion per image).
"""

from iterand_jax.configs import imagenet_resnet50


def get_config():
    """ResNet50's run with WideResNet-50-2."""
    config = imagenet_resnet50.get_config()
    config.network.name = "imagenet_wide_resnet50_2"
    return config
