"""What decides the result of a fine-tuning, and the experiment of TF Model Garden made of it."""

import dataclasses

import tensorflow as tf
from official.core import config_definitions as cfg
from official.modeling import optimization

from detection.backbones import STRIDE, require_backbone
from detection.config import DetectionTask
from la_tf.errors import RunError
from la_tf.networks import build_backbone
from la_tf.runs.trained_run import open_run

_STAGE5_CROP = 7  # as in the reference
_PAPER_IMAGE_SIZE = 224
_LOG_STEPS = 100


@dataclasses.dataclass(frozen=True)
class Start:
    """The weights that fine-tuning starts from.

    Attributes:
      init: 'run', the weights of a trained run, or 'random'.
      network: name of the architecture.
      image_size: side of the images the network was trained on, which decides the size of fc6.
      run_step: steps of training behind the weights; 0 for random ones.
      objective: what they were trained by, such as 'LA', or 'untrained'.
    """

    init: str
    network: str
    image_size: int
    run_step: int
    objective: str


def open_start(init: str, run_dir: str, network: str | None = None) -> Start:
    """Describes the weights of a run, or random ones.

    Args:
      init: 'run' or 'random'.
      run_dir: the trained run; may be empty for random weights of `network`.
      network: name of the architecture, where there is no run.

    Raises:
      BackboneError: the network cannot be a backbone.
      RunError: there is no such run.
    """
    if run_dir:
        run = open_run(run_dir)
        network, image_size = run.config.network.network, run.config.data.image_size
    else:
        image_size = _PAPER_IMAGE_SIZE
    require_backbone(network, image_size)
    if init == "random":
        return Start(init, network, image_size, 0, "untrained")
    return Start(init, network, image_size, run.step, run.objective)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a result depends on besides start and data; defaults are the paper's (supplement B.4).

    Attributes:
      train_split: of VOC.
      test_split: of VOC.
      short_side: of the scaled pictures, in pixels.
      long_side: what the other side may have at most.
      anchor_size: side of the smallest square anchor, in pixels of the scaled picture.
      batch_size: pictures a step, over all replicas.
      steps: how many.
      drop_step: the step after which the learning rate falls tenfold.
      learning_rate: at the start.
      momentum: of SGD.
      weight_decay: lambda; biases have none.
      regions: drawn of each picture to train the head, a quarter of them with objects.
      freeze_to: the last part of the network that is not fine-tuned, one of `backbones.FREEZE_TO`;
        None for the paper's.
      seed: of fresh weights, of the order of the pictures and of all draws.
    """

    train_split: str = "trainval"
    test_split: str = "test"
    short_side: int = 600
    long_side: int = 1000
    anchor_size: int = 128
    batch_size: int = 1
    steps: int = 70_000
    drop_step: int = 50_000
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    regions: int = 128
    freeze_to: str | None = None
    seed: int = 0


def require_valid(settings: Settings, num_replicas: int) -> None:
    """Refuses settings that exclude each other.

    Raises:
      RunError: the message says which.
    """
    if settings.long_side < settings.short_side:
        raise RunError(
            f"--long_side={settings.long_side} is less than --short_side={settings.short_side}."
        )
    if settings.long_side < settings.anchor_size:
        raise RunError(
            f"--anchor_size={settings.anchor_size} is more than --long_side={settings.long_side}: "
            "no anchor lies within a picture."
        )
    if settings.batch_size % num_replicas:
        raise RunError(
            f"--batch_size={settings.batch_size} cannot be divided evenly over {num_replicas} "
            f"replicas: use a multiple of {num_replicas}, or --num_devices=1."
        )


def canvas_size(long_side: int) -> int:
    """Side of the square that holds every scaled picture: a multiple of the stride."""
    return -(-long_side // STRIDE) * STRIDE


def crop_size(network: str, image_size: int) -> int:
    """Side of the crop of a region's features that fits the head, in feature pixels.

    A ResNet's stage five takes any; 7 is the reference's. fc6 takes what it was trained on: 5 for
    AlexNet and 7 for VGG16, at 224 pixels.

    Args:
      network: name of the architecture.
      image_size: side of the images it was trained on.
    """
    if not require_backbone(network, image_size).fc_units:
        return _STAGE5_CROP
    endpoints = build_backbone(network, image_size)(tf.keras.Input([image_size, image_size, 3]))
    return endpoints[max(endpoints, key=int)].shape[1]


def make_experiment(
    start: Start,
    settings: Settings,
    train_records: str,
    test_records: str,
    run_dir: str = "",
    checkpoint_every_steps: int = 1000,
) -> cfg.ExperimentConfig:
    """The settings as an experiment of TF Model Garden.

    Args:
      start: the weights.
      settings: valid ones.
      train_records: pattern of the TFRecords.
      test_records: pattern of the TFRecords.
      run_dir: the trained run to start from, where the weights are a run's.
      checkpoint_every_steps: how often to save.
    """
    canvas = canvas_size(settings.long_side)
    task = DetectionTask(
        seed=settings.seed,
        run_dir=run_dir if start.init == "run" else "",
        image_size=start.image_size,
    )
    task.losses.l2_weight_decay = settings.weight_decay
    model = task.model
    model.input_size = [canvas, canvas, 3]
    model.backbone.la_backbone.network = start.network
    model.backbone.la_backbone.freeze_to = settings.freeze_to
    model.anchor.anchor_size = settings.anchor_size / STRIDE
    model.roi_aligner.crop_size = crop_size(start.network, start.image_size)
    model.roi_sampler.num_sampled_rois = settings.regions
    for data, records in ((task.train_data, train_records), (task.validation_data, test_records)):
        data.input_path = records
        data.parser.short_side = settings.short_side
        data.parser.long_side = settings.long_side
        data.global_batch_size = settings.batch_size
    loop = min(_LOG_STEPS, checkpoint_every_steps, settings.steps)
    rates = {
        # Model Garden keeps a rate up to and including its boundary, counted from 0.
        "boundaries": [settings.drop_step - 1],
        "values": [settings.learning_rate, settings.learning_rate / 10],
    }
    optimizer = {
        "optimizer": {"type": "sgd", "sgd": {"momentum": settings.momentum}},
        "learning_rate": {"type": "stepwise", "stepwise": rates},
    }
    trainer = cfg.TrainerConfig(
        train_steps=settings.steps,
        steps_per_loop=loop,
        summary_interval=loop,
        checkpoint_interval=checkpoint_every_steps,
        max_to_keep=2,
        optimizer_config=optimization.OptimizationConfig(optimizer),
    )
    return cfg.ExperimentConfig(task=task, trainer=trainer)
