"""ResNet50 on ImageNet: Table 4 (Figure 3) of the paper.

    python -m iterand_jax.main --config=configs/imagenet_resnet50.py
    --config.method=iterand|edge_popup --config.dtype=bfloat16 --config.seed=0|1|2
    --config.dataset.workers=8

Top-1 of the paper (SC, sparsity 0.7): IteRand 69.19, edge-popup 67.11.

A run takes about 15 hours on an A100 in bfloat16: an estimate, 105 epochs at 2,500
images/s. `python -m experiments.measurements.input_rate` measures how many images/s the
host can decode.
"""

from iterand_jax.configs import default


def get_config():
    """The paper's ResNet50 run (Appendix B.2): 105 epochs of 10,009 steps."""
    config = default.get_config()
    config.dataset.name = "imagenet2012"
    config.dataset.validation_fraction = None  # the official validation split is used
    config.dataset.split_seed = None
    config.dataset.workers = -1
    config.dataset.on_bad_image = "skip"
    config.augmentation = None  # done by the feed: random resized crops of 224, flips
    config.network.name = "imagenet_resnet50"
    for recipe in (config.recipe.edge_popup, config.recipe.iterand):
        recipe.sparsity = 0.7
    config.recipe.iterand.k_per = 1000
    config.epochs = 105
    config.eval_batch_size = 256
    config.schedule = "warmup_cosine"
    config.warmup_epochs = 5
    config.final_epochs = 5
    config.final_learning_rate = 1e-5
    config.checkpoint_every_steps = 2000  # an epoch is too much to lose in a crash
    return config
