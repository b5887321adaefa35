"""ResNet34 on CIFAR-10: Table 3 (Figure 2) and Figure 1 of the paper.

    python -m iterand_jax.main --config=configs/cifar_resnet34.py
    --config.method=iterand|edge_popup|sgd --config.distribution=kaiming_uniform
    --config.network.width=0.25|0.5|1.0|2.0 --config.seed=0|1|2

Test accuracy of the paper at width 1.0: IteRand 93.54 (SC), 93.27 (KU); edge-popup
93.27 (SC), 93.00 (KU); SGD 94.66 (KU). At width 0.25: IteRand 88.26 (SC), 87.36 (KU);
edge-popup 87.37 (SC), 85.31 (KU); SGD 92.26 (KU).

With --config.dtype=bfloat16 about an hour at width 1.0 on a modern GPU: an estimate,
from ResNet18's time by multiply-adds.
"""

from iterand_jax.configs import cifar_resnet18


def get_config():
    """ResNet18's run with ResNet34, as in the paper (Appendix B.2)."""
    config = cifar_resnet18.get_config()
    config.network.name = "resnet34"
    return config
