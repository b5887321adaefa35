"""Display names of labels and their values in reports and figures."""

from typing import Any

NAMES = {
    "conv6": "Conv6",
    "resnet18": "ResNet18",
    "resnet34": "ResNet34",
    "resnet50": "ResNet50",
    "resnet101": "ResNet101",
    "resnet20": "ResNet20",
    "vgg11": "VGG11",
    "wide_resnet50_2": "WideResNet-50-2",
    "resnet50_x2": "ResNet50, width 2",
    "lstm": "LSTM",
    "bilstm": "BiLSTM",
    "iterand": "IteRand",
    "edge_popup": "edge-popup",
    "sgd": "SGD",
    "imp": "IMP",
    "conv6_quarter": "Conv6, width 0.25",
    "edge_popup_global": "edge-popup, global",
    "iterand_global": "IteRand, global",
    "biprop_global": "biprop, global",
    "biprop_iterand": "biprop and IteRand, global",
    "recycling": "weight recycling",
    "partially_frozen": "partially frozen, global",
    "signed_supermask": "signed supermask",
    "adaptive_threshold": "edge-popup, adaptive",
    "adaptive_threshold_iterand": "IteRand, adaptive",
    "gem_miner": "Gem-Miner",
    "relaxed_bernoulli": "relaxed gates",
    "random_erk": "random masks, ERK",
    "magnitude": "gradual magnitude",
    "k_per": "K_per",
    "sampling_rate": "r",
    "distribution": "D_param",
    "network.name": "network",
    "network.width": "width",
    "dataset.name": "dataset",
}
"""Display names of labels and values that differ from those in a config."""


def shown(value: Any) -> str:
    """The display name of a label or of its value."""
    return NAMES.get(value, value) if isinstance(value, str) else f"{value:g}"


def label_text(label: str, value: Any) -> str:
    """A label as part of a name: text alone, numbers with their label.

    >>> label_text("method", "iterand"), label_text("width", 0.25)
    ('iterand', 'width=0.25')
    """
    return value if isinstance(value, str) else f"{label}={value:g}"


def hours_text(hours: float) -> str:
    """A duration in a suitable unit.

    >>> hours_text(0.02), hours_text(5.25), hours_text(2400)
    ('1.2 min', '5.2 h', '100 days')
    """
    if hours < 1:
        return f"{60 * hours:.1f} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:,.0f} days"
