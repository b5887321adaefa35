"""Conv4 on CIFAR-10, with the hyperparameters of Conv6. The paper has no number for it.

python -m iterand_jax.main --config=configs/cifar_conv4.py

With --config.dtype=bfloat16 about 5 minutes on a modern GPU: an estimate, from
ResNet18's time by multiply-adds.
"""

from iterand_jax.configs import cifar_conv6


def get_config():
    """Conv6's run with Conv4."""
    config = cifar_conv6.get_config()
    config.network.name = "conv4"
    return config
