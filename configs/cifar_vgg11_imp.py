"""Iterative magnitude pruning of VGG11 on CIFAR-10: the baseline of Table 7.

    python -m iterand_jax.main --config=configs/cifar_vgg11_imp.py
    --config.sparsity=0.5|0.7|0.9|0.95|0.99 --config.seed=0|1|2

As for ResNet20, but the last, linear layer is not pruned, which is OpenLTH's default
for this network. Its convolutions have no bias, where OpenLTH's have one.

Test accuracy of the paper at sparsity 0.5, 0.7, 0.9, 0.95 and 0.99: 91.47, 91.48,
90.89, 90.39, 88.076.

With --config.dtype=bfloat16 about an hour on a modern GPU for the four trainings: an
estimate.
"""

from iterand_jax.configs import cifar_resnet20_imp


def get_config():
    """ResNet20's stages with VGG11."""
    config = cifar_resnet20_imp.get_config()
    config.network.name = "vgg11"
    config.recipe.imp.unpruned = ("Dense_0/kernel",)
    return config
