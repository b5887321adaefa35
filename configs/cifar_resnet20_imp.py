"""Iterative magnitude pruning of ResNet20 on CIFAR-10: the baseline of Table 7.

    python -m iterand_jax.main --config=configs/cifar_resnet20_imp.py
    --config.sparsity=0.5|0.7|0.9|0.95|0.99 --config.seed=0|1|2

A dense training and three retrainings, each of which prunes the same fraction of the
remaining weights; all layers are pruned, including the last. The paper (Appendix C.3)
gives no hyperparameters and refers to OpenLTH, whose defaults are 160 epochs, a
learning rate of 0.1, divided by 10 at epochs 80 and 120, a weight decay of 1e-4,
and Kaiming normal weights. The rewind epoch is not given: here the weights are rewound
to those after one epoch.

Differences from OpenLTH: the data are the same as for the other methods in the table:
resized crops (OpenLTH: plain crops, --config.augmentation=crop_flip) of 45,000 images
(OpenLTH: all); and normalization scales are initialized to 1 (OpenLTH: uniform in
[0, 1]).

Test accuracy of the paper at sparsity 0.5, 0.7, 0.9, 0.95 and 0.99: 90.70, 89.79,
86.87, 84.28, 71.78.

With --config.dtype=bfloat16 about an hour on a modern GPU for the four trainings: an
estimate.
"""

from ml_collections import config_dict

from iterand_jax.configs import default


def get_config():
    """Four trainings of 160 epochs of 351 steps."""
    config = default.get_config()
    config.network.name = "resnet20"
    imp = default.recipe(
        distribution="kaiming_normal",
        sparsity=0.5,
        retrainings=3,
        rewind_epochs=1,
        unpruned=(),
    )
    with config.unlocked():
        config.recipe = config_dict.ConfigDict({"imp": imp})
    config.method = "imp"
    config.epochs = 160
    config.schedule = "multistep"
    config.milestones = (80, 120)
    config.decay_factor = 0.1
    return config
