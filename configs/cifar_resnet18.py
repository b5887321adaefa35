"""ResNet18 on CIFAR-10: Tables 3, 6 and 8 and Figures 1 and 2 of the paper.

    python -m iterand_jax.main --config=configs/cifar_resnet18.py
    --config.method=iterand|edge_popup|sgd --config.distribution=kaiming_uniform
    --config.network.width=0.25|0.5|1.0|2.0 --config.seed=0|1|2

Test accuracy of the paper at width 1.0: IteRand 92.61 (SC), 92.47 (KU); edge-popup
92.29 (SC), 91.79 (KU); SGD 94.43 (KU). At width 0.25: IteRand 86.09 (SC), 84.71 (KU);
edge-popup 84.23 (SC), 81.13 (KU); SGD 90.99 (KU).

The paper's run took 1.7 hours (Table 5). With --config.dtype=bfloat16 about half an
hour at width 1.0 on a modern GPU: an estimate, at 2,500 images/s.
"""

from iterand_jax.configs import default


def get_config():
    """The paper's ResNet18 run (Appendix B.2): 100 epochs of 351 steps."""
    config = default.get_config()
    config.network.name = "resnet18"
    for recipe in config.recipe.values():
        recipe.learning_rate = 0.1
        recipe.weight_decay = 5e-4
    gates = config.recipe.relaxed_bernoulli  # have a penalty and a rate of their own
    gates.weight_decay, gates.learning_rate = 0.0, 10.0
    for recipe in (config.recipe.edge_popup, config.recipe.iterand):
        recipe.sparsity = 0.6
    return config
