"""Options that several commands share: what is trained, how weights are updated, and the target."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tinyclf.cli.program import PATH
from tinyclf.recipe.optimizers import OPTIMIZERS
from tinyclf.recipe.update_rule import LOSSES, SCHEDULES, UpdateRule
from tinyclf.recipe.variant import VARIANTS

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # not generic in click below 8.2

F = TypeVar("F", bound=Callable[..., Any])


class TargetName(_ParamType):
    """A folder of deployers/; they are looked up when an option is read, not when the program starts."""

    name = "target"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the names of all targets, for the help."""
        from tinyclf.device.targets.target import find_targets

        return f"[{'|'.join(find_targets())}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the target of that name."""
        from tinyclf.device.targets.target import Target, find_targets

        if isinstance(value, Target):
            return value
        if value not in find_targets():
            self.fail(f"'{value}' is not one of {', '.join(find_targets())}.", param, ctx)
        return find_targets()[value]


def variant_options(default: str) -> Callable[[F], F]:
    """Add the options that say what is trained; `default` is how help words the default."""
    variant = click.option(
        "--variant",
        type=click.Choice(VARIANTS, case_sensitive=False),
        metavar=f"[{'|'.join(VARIANTS)}]",
        show_default=default,
        help="What is trained on the device: everything (scratch, full), the head (LP), the linear layer of an "
        "FD-MobileNet (FD), the last K blocks and the head (FT), or the layers that --layers names.",
    )
    return lambda command: variant(_k_option(selection_options(command)))


cores_option = click.option("--cores", type=int, show_default="all of the target's", help="Cores that share the work.")
small_input_option = click.option(
    "--small-input", is_flag=True, help="Keep the resolution up to the first block, for images of 32x32 pixels."
)
l1_option = click.option(
    "--l1",
    metavar="BYTES",
    show_default="all that the target has",
    help="L1 for tiles and stacks, such as 64KiB; off: compute in L2, without tiles.",
)
tiles_option = click.option(
    "--tiles",
    type=PATH,
    metavar="FILE",
    show_default="the target's table",
    help="Table of tiles, written by the command tune. The cost model chooses the tiles of what is not in it, and with "
    "the word model in place of FILE those of everything.",
)
_k_option = click.option("--k", type=int, default=2, show_default=True, help="Number of trained blocks, for FT.")


def selection_options(command: F) -> F:
    """Add --layers, --bias-only and --train-channels; the parameters are layers, bias_only and train_channels."""
    for option in (
        click.option(
            "--train-channels",
            multiple=True,
            metavar="GLOB=FRACTION",
            help="Train only the first output channels of the layers that GLOB matches: this fraction of them, rounded "
            "up. The others stay as they are, to the bit. Repeatable; the last that matches counts.",
        ),
        click.option(
            "--bias-only",
            is_flag=True,
            help="Train only the biases of what is trained, the head's too. Then only ReLU and pooling keep "
            "activations.",
        ),
        click.option(
            "--layers",
            multiple=True,
            metavar="GLOB",
            help="Train only these layers, in place of --variant. GLOB is the name of a layer or of a module around "
            "layers, such as output or features.stage4.*; BatchNorm goes with its convolution. Repeatable.",
        ),
    ):
        command = option(command)
    return command


_USUAL = UpdateRule(1.0)


class _Dashed(click.Choice):  # type: ignore[type-arg]  # not generic in click below 8.2
    """A choice among names, with "-" for "_" on the command line."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__([name.replace("_", "-") for name in names])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(value, param, ctx).replace("-", "_")


def _numbers(context: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """Read numbers that are separated by commas."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"'{text}' is not a list of numbers as in 0.5,0.75.") from None


def update_options(command: F) -> F:
    """Add an option for each field of UpdateOptions.

    Those whose defaults suit most runs are None without them, so that the rule's own hold.
    """
    for option in reversed((*_MAIN, *_FINER)):
        command = option(command)
    return command


_MAIN = (
    click.option(
        "--lr",
        "learning_rate",
        type=float,
        show_default="0.01; for full training, adam and adamw 0.001",
        help="Learning rate.",
    ),
    click.option("--weight-decay", type=float, default=0.0, show_default=True, help="Weight decay."),
    click.option(
        "--optimizer", type=click.Choice(tuple(OPTIMIZERS)), default="sgd", show_default=True, help="Optimizer."
    ),
    click.option("--momentum", type=float, default=0.0, show_default=True, help="Momentum of sgd."),
    click.option(
        "--batch",
        type=int,
        default=1,
        show_default=True,
        help="Samples per update; their gradients are averaged. Samples at the end that do not fill a batch change no "
        "weight.",
    ),
    click.option(
        "--clip", type=float, default=0.0, show_default=True, help="Clip the norm of the gradient to this; 0: no limit."
    ),
    click.option(
        "--schedule",
        type=click.Choice(SCHEDULES),
        default="constant",
        show_default=True,
        help="Learning-rate schedule.",
    ),
    click.option("--loss", type=_Dashed(LOSSES), default="cross-entropy", show_default=True, help="Loss function."),
)
_FINER = (
    click.option(
        "--betas",
        type=(float, float),
        default=None,
        metavar="BETA1 BETA2",
        show_default=f"{_USUAL.beta1} {_USUAL.beta2}",
        help="Betas of adam and adamw.",
    ),
    click.option("--epsilon", type=float, show_default=str(_USUAL.epsilon), help="Epsilon of adam and adamw."),
    click.option(
        "--gamma",
        type=float,
        show_default=str(_USUAL.gamma),
        help="Factor of the learning rate at each milestone of --schedule step.",
    ),
    click.option(
        "--milestones",
        callback=_numbers,
        metavar="SHARE,...",
        show_default=",".join(str(m) for m in _USUAL.milestones),
        help="When --schedule step lowers the learning rate, as shares of the run.",
    ),
    click.option(
        "--warmup",
        type=int,
        default=0,
        show_default=True,
        metavar="UPDATES",
        help="Updates at the start in which the learning rate rises linearly.",
    ),
)
