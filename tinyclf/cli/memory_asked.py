"""What a user of the command memory asked for, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinyclf.recipe.update_options import UpdateOptions

if TYPE_CHECKING:
    from tinyclf.device.footprint.fitting import Setting
    from tinyclf.device.targets.target import Target
    from tinyclf.recipe.update_rule import UpdateRule
    from tinyclf.recipe.variant import Variant


@dataclass(frozen=True)
class Asked:
    """The training step that is asked about. None: the default; without a target those of all targets are shown."""

    variant: Variant
    arch: str | None
    size: int  # pixels
    num_classes: int
    target: Target | None
    num_cores: int | None
    num_samples: int
    cache: str
    recompute: bool
    update: UpdateOptions

    @property
    def rule(self) -> UpdateRule:
        """Return how weights are updated; no byte depends on the length of the run, which is one update here."""
        everything, batch = self.variant.reaches_everything, max(self.update.batch, 1)
        return self.update.rule(reaches_everything=everything, num_samples=batch, asked=f"{batch} samples")

    @property
    def setting(self) -> Setting:
        """Return where the step runs and what lies beside it."""
        from tinyclf.device.footprint.fitting import Setting

        return Setting(self.target, self.num_samples, self.num_cores)


def _asked(
    *,
    variant: str | None,
    k: int,
    layers: tuple[str, ...],
    bias_only: bool,
    train_channels: tuple[str, ...],
    arch: str | None,
    size: int,
    num_classes: int,
    target: Target | None,
    cores: int | None,
    l1: str | None,
    num_samples: int,
    cache: str,
    recompute: bool,
    **update: Any,
) -> Asked:
    """Return what the options ask for.

    Raises:
        BadInput: they do not go together, or a value is out of its range.
    """
    from tinyclf.base.errors import BadInput
    from tinyclf.device.targets.target import require_cores, with_l1
    from tinyclf.recipe.variant import chosen_variant

    name = variant or (None if layers else "LP")
    what = chosen_variant(name, k=k, layers=layers, bias_only=bias_only, train_channels=train_channels)
    assert what is not None, "there is a default"
    if num_samples < 0:
        raise BadInput(f"--samples {num_samples}: cannot be negative")
    if target is None and (cores is not None or l1):
        raise BadInput(f"{'--l1' if l1 else '--cores'} says what of a target is used: add --target")
    if target is not None:
        require_cores(target, cores)
        target = with_l1(target, l1) if l1 else target
    asked = Asked(what, arch, size, num_classes, target, cores, num_samples, cache, recompute, UpdateOptions(**update))
    _ = asked.rule  # refuses options of an update that do not go together
    return asked
