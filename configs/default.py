"""Every field of a config, with its default; other configs are differences.

Fields that are None here follow from `config.recipe[config.method]` unless set.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """The fields and defaults that all configs start from."""
    config = config_dict.ConfigDict()
    config.seed = 0

    config.dataset = config_dict.ConfigDict()
    config.dataset.name = "cifar10"
    config.dataset.validation_fraction = 0.1  # of the training part, held out
    config.dataset.split_seed = 0  # which part: the same for every seed and method
    config.dataset.mean = (0.485, 0.456, 0.406)  # ImageNet's, as the paper's runs used
    config.dataset.std = (0.229, 0.224, 0.225)
    # The next two are ImageNet's, whose feed decodes images while it trains.
    config.dataset.workers = config_dict.placeholder(int)  # processes; -1: one per core
    config.dataset.on_bad_image = config_dict.placeholder(str)  # skip or refuse
    config.augmentation = "resized_crop_flip"

    config.network = config_dict.ConfigDict()
    config.network.name = "conv6"
    config.network.width = 1.0  # rho
    config.dtype = "float32"  # of the activations

    config.method = "iterand"
    config.distribution = config_dict.placeholder(str)  # D_param
    config.learning_rate = config_dict.placeholder(float)  # eta
    config.weight_decay = config_dict.placeholder(float)  # lambda
    config.sparsity = config_dict.placeholder(float)  # p, the fraction removed
    config.k_per = config_dict.placeholder(int)  # K_per, in steps
    config.sampling_rate = config_dict.placeholder(float)  # r
    # The next three are those of iterative magnitude pruning (imp).
    config.retrainings = config_dict.placeholder(int)
    config.rewind_epochs = config_dict.placeholder(int)  # retrain from their end
    config.unpruned = config_dict.placeholder(tuple)  # patterns of leaves kept whole
    config.recipe = config_dict.ConfigDict()
    config.recipe.sgd = recipe(distribution="kaiming_uniform")
    config.recipe.edge_popup = recipe(sparsity=0.5)
    config.recipe.iterand = recipe(sparsity=0.5, k_per=300, sampling_rate=0.1)

    config.epochs = 100
    config.batch_size = 128  # over all devices
    config.accumulate_steps = 1  # parts of a batch, one after another, to save memory
    config.eval_batch_size = 512
    config.momentum = 0.9
    config.schedule = "cosine"
    # The next three are those of the schedule "warmup_cosine".
    config.warmup_epochs = config_dict.placeholder(int)
    config.final_epochs = config_dict.placeholder(int)
    config.final_learning_rate = config_dict.placeholder(float)
    # The next two are those of the schedule "multistep".
    config.milestones = config_dict.placeholder(tuple)  # epochs
    config.decay_factor = config_dict.placeholder(float)  # at each of them

    config.replicas = 1  # seeds from `seed` on that train in one program
    # The most steps in one dispatch; 0: as the device needs (1 on CPU, where gradients
    # of convolutions are slow in a loop). Results can differ in rounding.
    config.steps_per_dispatch = 0
    config.report_memory = False  # print what a step needs, before the first one
    config.log_every_steps = 50
    config.checkpoint_every_steps = 0  # 0: at the end of each epoch
    config.keep_checkpoints = 2  # the newest
    config.keep_best_checkpoints = 0  # besides, those of the best validation accuracy
    config.keep_checkpoint_epochs = ()  # besides, those at the end of these epochs
    return config.lock()  # a config file that sets a field not listed here is an error


def recipe(**fields) -> config_dict.ConfigDict:
    """The hyperparameters of one method, as the paper's tables list them."""
    defaults = {
        "distribution": "signed_constant",
        "learning_rate": 0.1,
        "weight_decay": 1e-4,
    }
    return config_dict.ConfigDict(defaults | fields)
