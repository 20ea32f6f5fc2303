"""Local Aggregation (Zhuang, Zhai, Yamins, ICCV 2019) in TensorFlow 2 and Keras.

    import la_tf

    config = la_tf.recipe("cifar10", data="DIR", run_dir="runs/mine")
    result = la_tf.train(config)                  # the same call resumes a run that was stopped
    run = la_tf.open_run("runs/mine")             # run.network, run.bank, run.config

Train
  recipe                a Config from a flagfile of configs/, with any option changed by its name
  Config                every option, its default and its place in the paper
  train                 one run from configuration to exported network
  extended              the Config of a finished run, to train on
  LocalAggregation      the model alone, for Keras's compile and fit
  ClusteringCallback    what sets its close neighbours, for fit's callbacks

Use
  open_run              a run by its newest checkpoint
  network_from_weights  the network of an export's weights.npz
  Embedder              a whole data set through a network
  knn_accuracy          weighted k-nearest-neighbour classification (section 4.2)
  networks              AlexNet, VGG16, ResNets, smallnet, and those of Keras and Model Garden;
                        imported, it lets tf.keras.models.load_model know their classes

Importing la_tf imports nothing else: TensorFlow comes with the first of these that needs it.
"""

import importlib

_HOMES = {
    "ClusteringCallback": "la_tf.callbacks.clustering_rounds",
    "Config": "la_tf.config",
    "Embedder": "la_tf.embedding.embedder",
    "LocalAggregation": "la_tf.model",
    "extended": "la_tf.runs.description",
    "knn_accuracy": "la_tf.evaluation.knn",
    "network_from_weights": "la_tf.export.weights",
    "open_run": "la_tf.runs.trained_run",
    "recipe": "la_tf.recipes",
    "train": "la_tf.trainer",
}

__all__ = sorted([*_HOMES, "networks"])


def __getattr__(name: str):
    """Imports what is asked for, the first time that it is (PEP 562)."""
    if name == "networks":
        return importlib.import_module("la_tf.networks")
    if name not in _HOMES:
        raise AttributeError(f"module 'la_tf' has no attribute '{name}'")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
