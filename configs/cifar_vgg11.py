"""VGG11 on CIFAR-10: Table 7 of the paper, against iterative magnitude pruning.

    python -m iterand_jax.main --config=configs/cifar_vgg11.py
    --config.method=iterand|edge_popup --config.sparsity=0.5|0.7|0.9|0.95|0.99
    --config.seed=0|1|2

The paper does not give the hyperparameters of IteRand and edge-popup for this network:
here they are ResNet18's, except for the sparsity, the first of the table.

Test accuracy of the paper (SC) at sparsity 0.5, 0.7, 0.9, 0.95 and 0.99: IteRand 88.46,
88.29, 87.05, 84.37, 64.93; edge-popup 87.09, 87.34, 85.11, 81.06, 61.71.

With --config.dtype=bfloat16 about 10 minutes on a modern GPU: an estimate, from
ResNet18's time by multiply-adds.
"""

from iterand_jax.configs import cifar_resnet18


def get_config():
    """ResNet18's run with VGG11, at half the weights."""
    config = cifar_resnet18.get_config()
    config.network.name = "vgg11"
    for recipe in (config.recipe.edge_popup, config.recipe.iterand):
        recipe.sparsity = 0.5
    return config
