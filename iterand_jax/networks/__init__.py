"""The networks of the paper as plain Flax Linen modules, and a registry of networks.

The modules are independent of pruning. Each takes `num_classes`, `width`, `affine` and
`dtype`, and is applied to images (N, H, W, C) or, the LSTMs, to token ids (N, T) and
lengths (N,), with `train=True` in training. Those with batch normalization keep running
statistics in the collection "batch_stats"; those with dropout need the key "dropout" in
training.

ResNet18 and ResNet34 have two forms: "resnet18" is the CIFAR form of Table 1, and
"imagenet_resnet18" the ImageNet form of Table 2. "resnet20" and "vgg11" are OpenLTH's.

Your own network can be any Flax module: see `register_network`.
"""

import inspect
from collections.abc import Callable, Container, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict

from iterand_jax.networks import resnet, vgg
from iterand_jax.networks.convs import ConvNet
from iterand_jax.networks.lstm import LSTMClassifier
from iterand_jax.runtime.registry import Registry

__all__ = [
    "NETWORKS",
    "Network",
    "build_network",
    "register_network",
    "takes",
    "training_options",
]


class Network(NamedTuple):
    """A network that a config can name.

    Attributes:
      factory: returns the module; it is called with those of num_classes, width, affine
        and dtype that its signature has. A module instance is a network of fixed size.
      takes_texts: whether it is applied to token ids and lengths, not to one array.
    """

    factory: Callable[..., nn.Module]
    takes_texts: bool = False


def _as_network(value: Any) -> Network:
    network = value if isinstance(value, Network) else Network(value)
    factory = network.factory
    made = factory.func if isinstance(factory, partial) else factory
    is_module = isinstance(made, nn.Module) or (
        inspect.isclass(made) and issubclass(made, nn.Module)
    )
    if is_module:
        return network
    # "module:Name" can name any object: call it only if it looks like a network.
    if network is not value and not (
        inspect.isroutine(made) and "num_classes" in _parameters(factory)
    ):
        raise ValueError(
            f"{value!r} is not a network; possible: a Flax Linen module, its class, or "
            f"a function that takes num_classes and returns one"
        )
    if not callable(factory):
        raise ValueError(f"{factory!r} cannot be called to make a Flax Linen module")
    return network


def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return {}


NETWORKS: Registry[Network] = Registry(
    "network",
    {
        "conv2": Network(partial(ConvNet, stages=(64,))),
        "conv4": Network(partial(ConvNet, stages=(64, 128))),
        "conv6": Network(partial(ConvNet, stages=(64, 128, 256))),
        "conv8": Network(partial(ConvNet, stages=(64, 128, 256, 512))),
        "resnet18": Network(resnet.ResNet18),
        "resnet34": Network(resnet.ResNet34),
        "resnet20": Network(resnet.ResNet20),
        "vgg11": Network(vgg.VGG11),
        "imagenet_resnet18": Network(resnet.ImageNetResNet18),
        "imagenet_resnet34": Network(resnet.ImageNetResNet34),
        "imagenet_resnet50": Network(resnet.ImageNetResNet50),
        "imagenet_resnet101": Network(resnet.ImageNetResNet101),
        "imagenet_wide_resnet50_2": Network(resnet.ImageNetWideResNet50x2),
        "lstm": Network(LSTMClassifier, takes_texts=True),
        "bilstm": Network(
            partial(LSTMClassifier, bidirectional=True), takes_texts=True
        ),
    },
    as_entry=_as_network,
)


def register_network(
    name: str, factory: Callable[..., nn.Module], *, takes_texts: bool = False
) -> None:
    """Registers a network, so that a config can name it.

    Args:
      name: for `config.network.name`.
      factory: a class of Flax Linen modules, or a function that returns one. It is
        called with those of the keywords num_classes, width, affine and dtype (see
        `build_network`) that its signature has; the others must keep their defaults in
        a config. A module instance is possible too.
      takes_texts: whether the module is applied to token ids (N, T) and lengths (N,),
        int32, and not to one array (N, ...).

    The module returns logits (N, num_classes). If its `__call__` takes `train`, it is
    called with train=True in training and without it otherwise; so it needs a default
    of False.

    Raises:
      ValueError: the name is registered for another network, or the factory is not one.

    >>> class Linear(nn.Module):
    ...     num_classes: int
    ...
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         return nn.Dense(self.num_classes)(x.reshape(len(x), -1))
    >>> register_network("linear", Linear)
    >>> build_network("linear", num_classes=10).num_classes
    10
    >>> build_network("linear", num_classes=10, width=0.5)
    Traceback (most recent call last):
    ...
    ValueError: the network linear takes no width: got 0.5; possible: 1.0
    """
    NETWORKS.register(name, Network(factory, takes_texts))


def build_network(
    name: str,
    *,
    num_classes: int,
    width: float = 1.0,
    affine: bool = False,
    dtype: Any = jnp.float32,
    unbiased: bool = False,
    sizes: Mapping[str, int] | None = None,
) -> nn.Module:
    """The network of a name.

    Args:
      name: a name in `NETWORKS`, or "module:Name" of a module that is imported already.
      num_classes: the number of logits.
      width: the width factor rho.
      affine: whether layers have biases and normalization its scales and biases, as in
        networks trained by SGD; the networks that are pruned at random initialization
        have none. Ignored by a network that does not take it.
      dtype: of the activations.
      unbiased: whether running variances of batch normalization are averages of
        unbiased ones.
      sizes: output channels of layers by path, in place of the scaled ones; None for
        none. The last layer has num_classes.

    Raises:
      ValueError: an unknown name; a width, dtype, unbiased or sizes other than the
        default for a network that does not take it; or a factory that cannot make
        a module from these.

    >>> import jax
    >>> network = build_network("resnet18", num_classes=10, width=0.5)
    >>> images = jnp.zeros((1, 32, 32, 3))
    >>> shapes = jax.eval_shape(network.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    2804928
    """
    factory = NETWORKS.get(name).factory
    options = {
        "num_classes": num_classes,
        "width": width,
        "affine": affine,
        "dtype": dtype,
    }
    if unbiased:  # few networks take it
        options["unbiased"] = True
    if sizes:
        options["sizes"] = FrozenDict(sizes)  # a module is hashable
    if isinstance(factory, nn.Module):
        _refuse_unused(name, options, taken=())
        return factory
    parameters = _parameters(factory).values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = {parameter.name for parameter in parameters}
    taken = {n: options[n] for n in options if takes_all or n in names}
    _refuse_unused(name, options, taken)
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if parameter.default is parameter.empty and parameter.name not in taken:
            raise ValueError(
                f"the network {name} needs {parameter.name}, which is not one of the "
                f"arguments of a network: {', '.join(options)}"
            )
    network = factory(**taken)
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"the network {name} is {network!r}; possible: a Flax Linen module"
        )
    return network


def _refuse_unused(
    name: str, options: Mapping[str, Any], taken: Container[str]
) -> None:
    """Raises ValueError for what a network does not take, and is not the default."""
    width, dtype = options["width"], jnp.dtype(options["dtype"])
    if "width" not in taken and width != 1:
        raise ValueError(
            f"the network {name} takes no width: got {width:g}; possible: 1.0"
        )
    if "dtype" not in taken and dtype != jnp.float32:
        raise ValueError(
            f"the network {name} takes no dtype: got {dtype}; possible: float32"
        )
    if "unbiased" in options and "unbiased" not in taken:
        raise ValueError(
            f"the network {name} has no batch normalization with unbiased variances; "
            f"possible: unbiased_variances=False"
        )
    if "sizes" in options and "sizes" not in taken:
        raise ValueError(
            f"the network {name} takes no sizes of layers: got {options['sizes']!r:.60}"
        )


def takes(name: str, option: str) -> bool:
    """Whether the network of a name takes an argument of `build_network`.

    >>> takes("resnet18", "unbiased"), takes("conv6", "unbiased")
    (True, False)
    """
    factory = NETWORKS.get(name).factory
    return not isinstance(factory, nn.Module) and option in _parameters(factory)


def training_options(network: nn.Module) -> dict[str, Any]:
    """The keyword arguments of a network in training: train=True, if it takes it.

    >>> training_options(build_network("conv2", num_classes=10))
    {'train': True}
    >>> training_options(nn.Dense(10))
    {}
    """
    return {"train": True} if "train" in _parameters(type(network).__call__) else {}
