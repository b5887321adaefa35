"""A first run in a minute: Conv2 on scikit-learn's 8x8 handwritten digits.

    python -m iterand_jax.main

Not an experiment of the paper. About a minute on two CPU cores, seconds on a GPU (an
estimate).
"""

from iterand_jax.configs import default


def get_config():
    """IteRand on 1,797 small images, re-randomizing about twice an epoch."""
    config = default.get_config()
    config.dataset.name = "digits"
    config.dataset.mean = (0.3,)
    config.dataset.std = (0.38,)
    config.augmentation = "none"
    config.network.name = "conv2"
    for recipe in (config.recipe.edge_popup, config.recipe.iterand):
        recipe.learning_rate = 0.4
    for recipe in (config.recipe.iterand, config.recipe.biprop_iterand):
        recipe.k_per = 10
    for recipe in (config.recipe.biprop, config.recipe.biprop_iterand):
        recipe.sparsity = 0.5
    gems = config.recipe.gem_miner
    gems.k_per, gems.freezings = 100, 5  # after every 5 of the 30 epochs
    config.epochs = 30
    config.batch_size = 64
    config.log_every_steps = 10
    config.checkpoint_every_steps = 100
    return config
