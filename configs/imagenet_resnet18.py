"""ResNet18 on ImageNet: Table 4 (Figure 3) of the paper.

    python -m iterand_jax.main --config=configs/imagenet_resnet18.py
    --config.method=sgd|iterand|edge_popup --config.dtype=bfloat16 --config.seed=0|1|2
    --config.dataset.workers=16

Top-1 of the paper: SGD 69.89 (KU). The table has no other method with this network.

A run takes about 7 hours on an A100 in bfloat16: an estimate, from ResNet50's by
multiply-adds (1.8 against 4.1 billion per image), if the host decodes 5,700 images/s.
"""

from iterand_jax.configs import imagenet_resnet50


def get_config():
    """ResNet50's run with ResNet18."""
    config = imagenet_resnet50.get_config()
    config.network.name = "imagenet_resnet18"
    return config
