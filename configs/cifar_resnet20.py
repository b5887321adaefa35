"""ResNet20 on CIFAR-10: Table 7 of the paper, against iterative magnitude pruning.

    python -m iterand_jax.main --config=configs/cifar_resnet20.py
    --config.method=iterand|edge_popup --config.sparsity=0.5|0.7|0.9|0.95|0.99
    --config.seed=0|1|2

The paper does not give the hyperparameters of IteRand and edge-popup for this network:
here they are ResNet18's, except for the sparsity, the first of the table.

Test accuracy of the paper (SC) at sparsity 0.5, 0.7, 0.9, 0.95 and 0.99: IteRand 84.17,
82.31, 70.96, 55.60, 24.45; edge-popup 76.57, 75.83, 49.25, 42.96, 20.11.

About 10 minutes on a modern GPU: an estimate; its steps are small and bound by latency.
"""

from iterand_jax.configs import cifar_vgg11


def get_config():
    """VGG11's run with ResNet20."""
    config = cifar_vgg11.get_config()
    config.network.name = "resnet20"
    return config
