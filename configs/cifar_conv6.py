"""Conv6 on CIFAR-10: Table 3 (Figure 2), Table 6 and Figure 1 of the paper.

    python -m iterand_jax.main --config=configs/cifar_conv6.py
    --config.method=iterand|edge_popup|sgd --config.distribution=kaiming_uniform
    --config.network.width=0.25|0.5|1.0|2.0 --config.seed=0|1|2

Test accuracy of the paper at width 1.0: IteRand 88.80 (SC), 88.20 (KU); edge-popup
87.60 (SC), 86.14 (KU); SGD 87.69 (KU). At width 0.25: IteRand 75.16 (SC), 73.90 (KU);
edge-popup 70.35 (SC), 67.02 (KU); SGD 79.51 (KU).

With --config.dtype=bfloat16 about 10 minutes at width 1.0 on a modern GPU: an estimate,
from ResNet18's time by multiply-adds.
"""

from iterand_jax.configs import default


def get_config():
    """The paper's Conv6 run (Appendix B.2): 100 epochs of 351 steps."""
    config = default.get_config()
    config.network.name = "conv6"
    for recipe in (config.recipe.sgd, config.recipe.random, config.recipe.magnitude):
        recipe.learning_rate = 0.01
    config.recipe.edge_popup.learning_rate = 0.2
    config.recipe.iterand.learning_rate = 0.2
    config.recipe.adaptive_threshold.learning_rate = 0.2
    config.recipe.adaptive_threshold_iterand.learning_rate = 0.2
    return config
