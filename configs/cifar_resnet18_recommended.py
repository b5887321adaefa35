"""ResNet18 on CIFAR-10 with 80 % removed, in a small ticket: what led in short runs.

    python -m iterand_jax.main --config=configs/cifar_resnet18_recommended.py
    --config.seed=0|1|2

Not an experiment of the paper. Biprop: of each weight the network sees the sign, times
one magnitude for each layer. Scores are trained, and so are biases and scales of
normalization; all layers share one threshold, with a sparsity that rises from 0.5 in
the first tenth of the training. docs/successors.md has the short runs that led here,
and what they do not show. It has not been run at full length.

With --config.dtype=bfloat16 about half an hour on a modern GPU: an estimate.
"""

from ml_collections import config_dict

from iterand_jax.configs import cifar_resnet18


def get_config():
    """ResNet18's run by biprop over all layers, with trained normalization."""
    config = cifar_resnet18.get_config()
    with config.unlocked():
        config.recipe = config_dict.ConfigDict({"biprop": config.recipe.biprop})
    config.method = "biprop"
    config.affine = True
    config.scope = ("*",)
    config.sparsity_schedule, config.sparsity_from = "cubic", 0.5
    config.sparsity_end = 10
    return config
