"""ResNet34 on ImageNet: Table 4 (Figure 3) of the paper.

    python -m iterand_jax.main --config=configs/imagenet_resnet34.py
    --config.method=iterand|edge_popup|sgd --config.dtype=bfloat16 --config.seed=0|1|2
    --config.dataset.workers=8

Top-1 of the paper: IteRand 65.86 and edge-popup 62.14 (SC, sparsity 0.7), SGD 73.82
(KU).

A run takes about 13 hours on an A100 in bfloat16: an estimate, from ResNet50's by
multiply-adds (3.7 against 4.1 billion per image).
"""

from iterand_jax.configs import imagenet_resnet50


def get_config():
    """ResNet50's run with ResNet34."""
    config = imagenet_resnet50.get_config()
    config.network.name = "imagenet_resnet34"
    return config
