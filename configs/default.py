"""Every field of a config, with its default and meaning; other configs override it.

A field whose default is a type defaults to None and takes values of that type. For
fields of the method, None means the value in `config.recipe[config.method]`.
"""

from typing import Any

from ml_collections import config_dict

FIELDS: dict[str, tuple[Any, str]] = {
    "released": (
        False,
        "whether the settings released with the paper count where they are known to "
        "differ from its text (docs/released.md)",
    ),
    "seed": (0, "of initialization, resampling, data order and augmentation"),
    # Data.
    "dataset.name": ("cifar10", "the dataset"),
    "dataset.validation_fraction": (
        0.1,
        "of the training split, held out; None for ImageNet: its own validation split",
    ),
    "dataset.split_seed": (0, "determines what is held out, for all seeds and methods"),
    "dataset.mean": (
        (0.485, 0.456, 0.406),
        "per channel, of pixels in [0, 1]; ImageNet's, as in the paper's runs",
    ),
    "dataset.std": ((0.229, 0.224, 0.225), "per channel, of pixels in [0, 1]"),
    "dataset.partial_batches": (
        bool,
        "images: whether an epoch ends with a smaller batch of what is left",
    ),
    "dataset.workers": (int, "ImageNet: processes that decode; -1: one per core"),
    "dataset.on_bad_image": (str, "ImageNet: skip damaged images, or refuse them"),
    "augmentation": ("resized_crop_flip", "of training images"),
    # The network.
    "network.name": ("conv6", "the network"),
    "network.width": (1.0, "rho, the factor of the numbers of channels"),
    "network.vectors": (
        str,
        "of texts: a file of word vectors, in the text format of GloVe, as which the "
        "embedding starts; zeros for words that it lacks",
    ),
    "unbiased_variances": (
        False,
        "whether batch normalization averages unbiased variances for evaluation, as "
        "PyTorch does",
    ),
    "dtype": ("float32", "of the activations: float32 or bfloat16"),
    "matmul_precision": (
        "default",
        "of float32 products and convolutions: highest (float32), high, or default, "
        "the platform's default (TF32 on recent NVIDIA GPUs, bfloat16 on TPUs, float32 "
        "on CPU)",
    ),
    "deterministic": (
        False,
        "whether programs of a GPU have the same bits every time, also after they are "
        "compiled again, at the cost of kernels that XLA chooses by timing; CPUs and "
        "TPUs have them anyway",
    ),
    # The method; its recipe has the values of fields that are None.
    "method": ("iterand", "one that has a recipe"),
    "distribution": (str, "D_param, which weights are sampled from"),
    "learning_rate": (float, "eta, the peak of the schedule"),
    "weight_decay": (float, "lambda"),
    "sparsity": (float, "p, the fraction of the weights that is removed"),
    "k_per": (int, "K_per, the steps from one resampling to the next"),
    "sampling_rate": (float, "r, the fraction of the pruned weights that is resampled"),
    "retrainings": (int, "imp: how many times the network is pruned and retrained"),
    "rewind_epochs": (int, "imp: the epoch that weights are rewound to"),
    "rank": (
        "count",
        "how many of n scores a sparsity p removes: count, round(p n); quantile, "
        "round(p (n - 1))",
    ),
    "resample": ("after", "whether before or after the K_per-th update: after, before"),
    "sparsity_of": (
        "pruned",
        "imp: the weights that sparsity is a fraction of: pruned, those of the pruned "
        "layers; all",
    ),
    "unpruned": (
        tuple,
        "patterns of the leaves that are not pruned; PATTERN=trained or PATTERN=fixed "
        "says what becomes of them, else they are trained if weights are",
    ),
    "scope": (
        tuple,
        "patterns of the leaves that share one threshold: those whose first matching "
        "pattern is the same; ('*',) for all leaves; None: each leaf has its own",
    ),
    "ranked_by": (str, "what of a score is ranked: score (None), magnitude"),
    "kept_values": (
        str,
        "what a mask makes of a weight: masked (None), the weight; binary, its sign "
        "times one magnitude for each leaf; scaled, divided by sqrt(1 - p)",
    ),
    "layer_sparsities": (
        str,
        "a rule that makes of sparsity one for each layer: equal_edges, erk, balanced, "
        "pyramidal; uniform (None)",
    ),
    "pattern": (
        str,
        "n:m, as 2:4: the n best of every m weights along the inputs are kept; it says "
        "the sparsity, 1 - n/m; None: thresholds",
    ),
    "coats": (
        tuple,
        "multicoated: the sparsities of the coats after the first, rising from it",
    ),
    "pruned_share": (float, "partially_frozen: the fraction pruned permanently"),
    "locked_share": (float, "partially_frozen: the fraction kept permanently"),
    "frozen_by": (
        str,
        "partially_frozen: the rule of both fractions by layer, as layer_sparsities",
    ),
    "recycled_share": (
        float,
        "recycling: the fraction of a layer that is overwritten by copies of its best",
    ),
    "threshold": (float, "signed_supermask: what |mask| has to be above"),
    "threshold_rate": (
        float,
        "adaptive_threshold: the factor of the gradient of a leaf's threshold",
    ),
    "freezings": (int, "gem_miner: how often scores are frozen, every k_per steps"),
    "gate_penalty": (float, "relaxed_bernoulli: of the expected number of gates"),
    "gate_noise": (float, "relaxed_bernoulli: the deviation of the noise of gates"),
    "affine": (
        bool,
        "whether the network has biases and scales of normalization, which are trained "
        "whatever the method trains; None: if it trains weights",
    ),
    "sparsity_schedule": (
        str,
        "how the sparsity goes from sparsity_from to sparsity: cubic, cosine, gradual; "
        "constant (None): it is always sparsity",
    ),
    "sparsity_from": (float, "of a schedule: the sparsity until sparsity_begin"),
    "sparsity_begin": (int, "of a schedule: where it starts to change; None: 0"),
    "sparsity_end": (int, "of a schedule: where it reaches sparsity"),
    "sparsity_in": (str, "of a schedule: its unit, epochs (None) or steps"),
    # The training.
    "epochs": (100, "passes over the training split"),
    "batch_size": (128, "examples in a step, over all devices"),
    "accumulate_steps": (1, "microbatches per step, to save memory"),
    "eval_batch_size": (512, "examples evaluated at once, over all devices"),
    "momentum": (0.9, "of SGD"),
    "clip_norm": (
        float,
        "the greatest Euclidean norm of the gradient of everything trainable: a longer "
        "one is scaled to it, before weight decay; None: no limit",
    ),
    "schedule": ("cosine", "of the learning rate"),
    "warmup_epochs": (int, "warmup_cosine: of linear warm-up"),
    "final_epochs": (int, "warmup_cosine: after the cosine, at final_learning_rate"),
    "final_learning_rate": (float, "warmup_cosine: during final_epochs"),
    "milestones": (tuple, "multistep: the epochs after which the rate decays"),
    "decay_factor": (float, "multistep: the factor of the rate at each milestone"),
    "replicas": (1, "consecutive seeds that train in one program"),
    "steps_per_dispatch": (
        0,
        "the maximum number of steps per dispatch, which changes rounding; 0: chosen "
        "by platform (1 on CPU, where gradients of convolutions are slow in a loop)",
    ),
    # What is logged and kept.
    "report_memory": (False, "print the memory of a step before the first one"),
    "log_every_steps": (50, "steps between records in metrics.jsonl"),
    "checkpoint_every_steps": (0, "0: by time, or at the end of each epoch"),
    "checkpoint_every_seconds": (
        int,
        "about the most seconds of work that a crash may lose, to the next log step; "
        "0: no limit; None: 60 on accelerators without checkpoint_every_steps, else 0",
    ),
    "keep_checkpoints": (2, "how many of the newest to keep"),
    "keep_best_checkpoints": (0, "also keep this many of the best validation accuracy"),
    "test_best": (
        str,
        "also test the epoch of the best validation accuracy or loss: accuracy, loss",
    ),
    "keep_checkpoint_epochs": ((), "also keep those at the end of these epochs"),
}
"""{field: (its default or type, its meaning)}."""


def get_config() -> config_dict.ConfigDict:
    """The config with all defaults, which every config starts from."""
    config = config_dict.ConfigDict()
    for field, (default, _) in FIELDS.items():
        if isinstance(default, type):
            default = config_dict.placeholder(default)
        holder, _, name = field.rpartition(".")
        if holder and holder not in config:
            config[holder] = config_dict.ConfigDict()
        (config[holder] if holder else config)[name] = default
    config.recipe = config_dict.ConfigDict()
    config.recipe.sgd = recipe(distribution="kaiming_uniform")
    config.recipe.edge_popup = recipe(sparsity=0.5)
    config.recipe.iterand = recipe(sparsity=0.5, k_per=300, sampling_rate=0.1)
    config.recipe.biprop = recipe(distribution="kaiming_normal", sparsity=0.8)
    config.recipe.biprop_iterand = recipe(
        distribution="kaiming_normal", sparsity=0.8, k_per=300, sampling_rate=0.1
    )
    config.recipe.multicoated = recipe(sparsity=0.7, coats=(0.9212, 0.9685))
    config.recipe.partially_frozen = recipe(
        sparsity=0.8,
        pruned_share=0.5,
        locked_share=0.1,
        frozen_by="equal_edges",
        scope=("*",),
        ranked_by="magnitude",
        kept_values="scaled",
    )
    config.recipe.recycling = recipe(sparsity=0.5, k_per=300, recycled_share=0.1)
    config.recipe.signed_supermask = recipe(threshold=0.01)
    config.recipe.adaptive_threshold = recipe(sparsity=0.5, threshold_rate=1.0)
    config.recipe.adaptive_threshold_iterand = recipe(
        sparsity=0.5, threshold_rate=1.0, k_per=300, sampling_rate=0.1
    )
    # Every 5 of CIFAR-10's 100 epochs of 351 steps, the last one 5 before the end.
    config.recipe.gem_miner = recipe(sparsity=0.5, k_per=1755, freezings=19)
    # A gate has to move by 1/2 to be open or shut, by gradients that have its weight as
    # a factor: a hundred times the rate of scores, whose range is the weights' own.
    config.recipe.relaxed_bernoulli = recipe(
        gate_penalty=1e-5, gate_noise=0.5, weight_decay=0.0, learning_rate=10.0
    )
    config.recipe.random = recipe(distribution="kaiming_uniform", sparsity=0.8)
    config.recipe.magnitude = recipe(distribution="kaiming_uniform", sparsity=0.8)
    return config.lock()  # a config file that sets a field not listed here is an error


def recipe(**fields) -> config_dict.ConfigDict:
    """The hyperparameters of one method, as the paper's tables list them."""
    defaults = {
        "distribution": "signed_constant",
        "learning_rate": 0.1,
        "weight_decay": 1e-4,
    }
    return config_dict.ConfigDict(defaults | fields)
