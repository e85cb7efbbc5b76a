"""The configuration of training: one dataclass, from a YAML file and KEY=VALUE overrides; checked, and printed back.

Holds no torch: the command line reads and prints configurations without it.
"""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tinyclf.base.errors import BadInput
from tinyclf.recipe.variant import VARIANTS, Variant, label_fields, parse_fractions
from tinyclf.workstation.data.augment import parse_augmentations
from tinyclf.workstation.data.preprocessing import CHANNELS
from tinyclf.workstation.data.sampling import ORDERS

SCHEDULES = ("cosine", "exponential", "step", "constant")
PRECISIONS = ("auto", "64", "32", "bf16", "16")
BN_POLICIES = ("frozen", "train", "folded")
KEEP_FEATURES = ("auto", "on", "off")


def _option(default: Any, meaning: str, *, choices: Sequence[str] = ()) -> Any:
    return field(default=default, metadata={"meaning": meaning, "choices": tuple(choices)})


@dataclass(frozen=True)
class TrainConfig:
    """What is to be trained and how; None: the default of the variant or of the data, which `resolve` fills in."""

    variant: Variant = _option(
        Variant("scratch"),
        f"what is trained: {', '.join(VARIANTS)}, with its parts, as in FT K=2 bias-only channels GLOB=FRACTION, or "
        "layers GLOB,GLOB; or with the parts apart, as k, layers, bias_only and train_channels",
    )
    arch: str | None = _option(None, "architecture (tinyclf models lists them), or package.module:function of yours")
    small_input: bool = _option(False, "smaller strides at the beginning of the net, for images of 32x32")
    data: Path | None = _option(None, "dataset folder")
    from_run: Path | None = _option(None, "start from the best weights of this run")
    weights: Path | None = _option(None, "start from this .safetensors or .pth file")

    size: int | None = _option(None, "pixels of the net's input; images are resized where the dataset has others")
    mean: tuple[float, ...] | None = _option(None, "per channel, for pixels in 0 .. 1; by default ImageNet's")
    std: tuple[float, ...] | None = _option(None, "per channel, for pixels in 0 .. 1; by default ImageNet's")
    channels: str | None = _option(None, "order of colours that the net takes; by default RGB", choices=CHANNELS)

    augment: str = _option("", "random changes of training images, as in flip,crop=0.3:0.9,shift=4")
    transform: str = _option("", "a change of yours, package.module:function(images, generator) -> images")
    sampler: str = _option("shuffled", "order of images; balanced draws each class equally often", choices=ORDERS)
    window: int | None = _option(None, "MiB for the images of a dataset that is larger than memory")

    epochs: int | None = _option(None, "passes over the training split")
    batch_size: int = _option(32, "images per step and process")
    loss: str = _option("auto", "auto: cross entropy, or BCE where an image has several labels; or package.module:name")
    label_smoothing: float = _option(0.0, "share of the target spread over all classes")
    class_weights: str = _option("", "weights of the classes in the loss: balanced, or numbers separated by commas")
    optimizer: str = _option("sgd", "sgd with Nesterov-free momentum, or adamw", choices=("sgd", "adamw"))
    lr: float | None = _option(None, "highest learning rate")
    momentum: float = _option(0.9, "of sgd; the first beta of adamw")
    weight_decay: float | None = _option(None, "of sgd: added to the gradient; of adamw: decoupled")
    no_decay: tuple[str, ...] = _option((), "parameters without weight decay: bias, norm, or globs of names")
    schedule: str = _option("cosine", "course of the learning rate after warm-up", choices=SCHEDULES)
    warmup: float = _option(0.1, "share of all steps in which the learning rate rises from 0")
    gamma: float = _option(0.1, "factor of the exponential schedule over the whole run; of step at each milestone")
    milestones: tuple[float, ...] = _option((0.5, 0.75), "where the step schedule falls, as shares of the run")
    clip: float = _option(0.0, "largest norm of all gradients together; 0: not clipped")
    ema: float = _option(0.0, "decay per step of an average of the weights, which is then what is kept; 0: none")
    patience: int = _option(0, "stop after so many epochs without a better one; 0: never")
    bn: str = _option("frozen", "BatchNorms of frozen layers; folded: none, as on the device", choices=BN_POLICIES)

    keep_features: str = _option("auto", "keep frozen features: auto where that is exact", choices=KEEP_FEATURES)
    feature_views: int = _option(4, "augmented views of each image that are kept when features are")
    feature_dir: Path | None = _option(None, "folder of kept features; by default ~/.cache/tinyclf")
    feature_limit: float = _option(10.0, "GiB of that folder; the oldest is removed")

    seed: int = _option(0, "of random weights, the order of images, augmentation and dropout")
    threads: int | None = _option(None, "of a process; by default whatever a short trial finds faster, one or all")
    accelerator: str = _option("auto", "cpu, cuda, mps, ...: as Lightning Fabric names them")
    devices: str = _option("auto", "number on this machine, on a CPU of processes; auto: all GPUs, or one process")
    num_nodes: int = _option(1, "machines")
    precision: str = _option("auto", "auto: mixed where the device gains from it", choices=PRECISIONS)

    save_steps: int = _option(0, "save the state after so many steps; 0: by time alone")
    save_seconds: float = _option(30.0, "save the state when it is so old, at the next step")
    log_steps: int = _option(50, "a line in train.log after so many steps")
    tensorboard: bool = _option(False, "write logs for TensorBoard")


# Keys that say a part of `variant`, beside or in place of its label, and their types.
PARTS: dict[str, Any] = {"k": int, "layers": tuple[str, ...], "bias_only": bool, "train_channels": tuple[str, ...]}


@dataclass(frozen=True)
class Defaults:
    """Hyperparameters of a variant that hold where the user gives none."""

    epochs: int
    lr: float
    weight_decay: float


DEFAULTS = {
    "scratch": Defaults(epochs=20, lr=0.05, weight_decay=2e-3),
    "full": Defaults(epochs=15, lr=0.01, weight_decay=2e-3),
    "LP": Defaults(epochs=15, lr=0.1, weight_decay=0.0),
    "FD": Defaults(epochs=15, lr=0.1, weight_decay=0.0),
    "FT": Defaults(epochs=20, lr=0.1, weight_decay=5e-4),
    "layers": Defaults(epochs=20, lr=0.01, weight_decay=5e-4),  # any of them: a rate that suits full training
}
ADAMW_RATE = 0.1  # AdamW's steps do not scale with the gradient: it takes a tenth of the rate of SGD

_Range = tuple[Callable[[float], bool], str]
_FROM_0: _Range = (lambda value: value >= 0, "0 or more")
_FROM_1: _Range = (lambda value: value >= 1, "1 or more")
_ABOVE_0: _Range = (lambda value: value > 0, "more than 0")
_SHARE: _Range = (lambda value: 0 <= value <= 1, "0 to 1")
_BELOW_1: _Range = (lambda value: 0 <= value < 1, "0 or more and less than 1")

RANGES = {
    **dict.fromkeys(
        ("seed", "weight_decay", "clip", "patience", "feature_limit", "save_steps", "save_seconds"), _FROM_0
    ),
    **dict.fromkeys(("epochs", "batch_size", "size", "threads", "window", "feature_views", "num_nodes"), _FROM_1),
    **dict.fromkeys(("lr", "gamma"), _ABOVE_0),
    **dict.fromkeys(("label_smoothing", "momentum", "ema"), _BELOW_1),
    "warmup": _SHARE,
    "log_steps": _FROM_1,
}


def config_from(
    *, file: Path | None = None, overrides: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> TrainConfig:
    """Return the configuration of a YAML file, changed by KEY=VALUE overrides and then by `options`.

    Relative paths in a file are relative to its folder. Nothing is filled in yet: see `resolve`.

    Raises:
        BadInput: the file cannot be read; unknown keys; values of the wrong kind or out of range.
    """
    given = _read(file) if file else {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"'{text}': an override is KEY=VALUE, for instance lr=0.01")
        key = key.strip().replace("-", "_")
        is_text = {str, Variant} & {_types(key)[0], *typing.get_args(_types(key)[0])}
        # A glob or a list with commas needs no quotes.
        given[key] = (
            value if is_text and value[:1] not in ("[", '"', "'") and value != "null" else _parse(value, where=text)
        )
    given |= options or {}
    return from_dict(given)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = _parse(file.read_text(), where=str(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise BadInput(f"{file}: cannot be read ({reason}): --config takes a YAML file of KEY: VALUE lines") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise BadInput(f"{file}: must hold KEY: VALUE lines, such as lr: 0.01")
    given = {str(key).replace("-", "_"): value for key, value in content.items()}
    for key, value in given.items():
        if _types(key)[0] is Path and isinstance(value, str):
            given[key] = file.absolute().parent / Path(value).expanduser()
    return given


def _parse(text: str, *, where: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput(f"{where}: is not YAML ({' '.join(str(error).split())[:100]})") from error


def _types(key: str) -> tuple[Any, ...]:
    """Return the types that a key takes, the main one first.

    Raises:
        BadInput: there is no such key.
    """
    hints = typing.get_type_hints(TrainConfig) | PARTS
    if key not in hints:
        near = difflib.get_close_matches(key, hints, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "tinyclf train --print-config shows all"
        raise BadInput(f"unknown key '{key}' in the configuration: {hint}")
    hint = hints[key]
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _convert(key: str, value: Any) -> Any:
    """Turn what YAML gives into the type of a key; "1e-3" is a string in YAML 1.1, and means a number."""
    kinds = _types(key)
    if value is None and type(None) in kinds:
        return None
    kind = kinds[0]
    if isinstance(value, bool) and kind is str:  # on and off are booleans in YAML 1.1
        value = "on" if value else "off"
    converted = _convert_to(kind, value)
    if converted is None:
        raise BadInput(f"{key}: {value!r} is not {_kind_name(kind)}")
    return converted


def _convert_to(kind: Any, value: Any) -> Any:
    """Return `value` as `kind`, or None if it is not of that kind."""
    if typing.get_origin(kind) is tuple:
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
        parts = [part for part in parts if part != ""]
        converted = [_convert_to(typing.get_args(kind)[0], part) for part in parts]
        return None if None in converted else tuple(converted)
    if kind is bool:
        return value if isinstance(value, bool) else None
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            return None
        try:
            number = float(value)
        except ValueError:
            return None
        return number if kind is float else int(value) if number == number // 1 and math.isfinite(number) else None
    if kind is Path:
        return Path(value).expanduser() if isinstance(value, (str, Path)) else None
    return str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None


def _kind_name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}
    return names.get(kind) or "a list, such as [0.5, 0.75]"


def check(config: TrainConfig) -> None:
    """Refuse values that cannot be used, or that contradict each other.

    Raises:
        BadInput: the first of them.
    """
    for option in fields(TrainConfig):
        value, choices = getattr(config, option.name), option.metadata["choices"]
        if choices and value is not None and value not in choices:
            raise BadInput(f"{flag(option.name)} {value}: choose one of {', '.join(choices)}")
    for key, (holds, meaning) in RANGES.items():
        value = getattr(config, key)
        if value is not None and not (math.isfinite(value) and holds(value)):
            raise BadInput(f"{flag(key)} {value}: must be {meaning}")
    for key in ("mean", "std"):
        values = getattr(config, key)
        if values is not None and len(values) != 3:
            raise BadInput(f"{key}: give three numbers, one for each channel")
    if not all(0 < m < 1 for m in config.milestones):
        raise BadInput("milestones: give shares of the run, between 0 and 1")
    if config.sampler == "balanced" and config.window is not None:
        raise BadInput("--sampler balanced draws from all images at any time: leave out --window")
    if config.from_run and config.weights:
        raise BadInput("--from and --weights both name the weights to start from: give one of them")
    if not config.variant.needs_weights and (config.from_run or config.weights):
        raise BadInput(
            f"{config.variant.name} starts from random weights: leave out --from and --weights, or use --variant full"
        )
    if not config.variant.needs_weights and config.bn == "folded":
        raise BadInput("--bn folded: scratch starts from random weights, whose BatchNorm has nothing to fold")
    parse_augmentations(config.augment)


def flag(key: str) -> str:
    """Return how the command line calls a key."""
    return "--from" if key == "from_run" else "--" + key.replace("_", "-")


def resolve(config: TrainConfig, *, inherited_arch: str | None = None) -> TrainConfig:
    """Fill in the defaults of the variant; `inherited_arch` is that of the run started from.

    Raises:
        BadInput: the architecture does not go with the variant or the run.
    """
    defaults = DEFAULTS[config.variant.name]
    arch = config.arch or inherited_arch or config.variant.default_arch
    if inherited_arch and arch != inherited_arch:
        raise BadInput(
            f"--arch {arch} contradicts --from {config.from_run}, which holds {inherited_arch}: leave out --arch"
        )
    if config.variant.name == "FD" and not arch.startswith("fdmobilenet"):
        raise BadInput(f"FD trains the linear layer of an FD-MobileNet: for {arch} use --variant LP")
    rate = defaults.lr * (ADAMW_RATE if config.optimizer == "adamw" else 1)
    return replace(
        config,
        arch=arch,
        epochs=defaults.epochs if config.epochs is None else config.epochs,
        lr=rate if config.lr is None else config.lr,
        weight_decay=defaults.weight_decay if config.weight_decay is None else config.weight_decay,
        **{key: path.absolute() for key in PATHS if (path := getattr(config, key)) is not None},
    )


PATHS = tuple(f.name for f in fields(TrainConfig) if _types(f.name)[0] is Path)


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """Return the configuration as YAML and JSON can hold it."""
    values = {f.name: getattr(config, f.name) for f in fields(TrainConfig)}
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Variant):
        return value.label
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def from_dict(given: Mapping[str, Any]) -> TrainConfig:
    """Undo `to_dict`.

    Raises:
        BadInput: unknown keys, values of the wrong kind or out of range.
    """
    values = {key: _convert(key, value) for key, value in given.items() if key != "variant"}
    parts = {key: values.pop(key) for key in PARTS if key in values}
    config = TrainConfig(variant=_variant(given.get("variant", "scratch"), **parts), **values)
    check(config)
    return config


def _variant(whole: Any, *, train_channels: Sequence[str] = (), **parts: Any) -> Variant:
    """Return `whole`, a variant or its label, with the parts that are said apart.

    Raises:
        BadInput: there is no such variant, or the parts do not go with it.
    """
    if not isinstance(whole, str | Variant):
        raise BadInput(f"variant: {whole!r} is not a text")
    said = vars(whole) if isinstance(whole, Variant) else label_fields(whole)
    channels = {"channels": parse_fractions(train_channels)} if train_channels else {}
    return Variant(**{**said, **parts, **channels})


def to_yaml(config: TrainConfig, *, with_meanings: bool = False) -> str:
    """Return the configuration as a YAML file that `config_from` reads; with what each key means, if asked for."""
    import yaml

    meanings = {f.name: f.metadata["meaning"] for f in fields(TrainConfig)}
    choices = {f.name: f.metadata["choices"] for f in fields(TrainConfig)}
    lines = []
    for key, value in to_dict(config).items():
        line = yaml.safe_dump({key: value}, default_flow_style=True, width=1000, allow_unicode=True).strip()[1:-1]
        more = f"; one of {', '.join(choices[key])}" if choices[key] else ""
        lines.append(f"{line:<28}  # {meanings[key]}{more}" if with_meanings else line)
    return "\n".join(lines) + "\n"
