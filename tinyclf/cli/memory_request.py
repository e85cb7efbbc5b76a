"""What the options of the command memory ask for, as one value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyclf.device.targets.target import Target
    from tinyclf.jobs.memory import MemoryRequest
    from tinyclf.recipe.update_options import UpdateOptions


def memory_request(
    *,
    target: Target | None,
    cores: int | None,
    l1: str | None,
    num_samples: int,
    cache: str,
    update: UpdateOptions,
    what: dict[str, Any],
    **net: Any,
) -> MemoryRequest:
    """Return the training step that is asked about; without a target the memories of all targets are shown.

    `what` is trained: the options of `variant_options`. `net` are other fields of the request.

    Raises:
        BadInput: options do not go together, or a value is out of its range.
    """
    from tinyclf.base.errors import BadInput
    from tinyclf.device.footprint.fitting import Surroundings
    from tinyclf.device.memory.samples import Linked, Streamed
    from tinyclf.device.targets.target import require_cores, with_l1
    from tinyclf.jobs.memory import MemoryRequest
    from tinyclf.recipe.variant import chosen_variant

    name = what.pop("variant") or (None if what["layers"] else "LP")
    variant = chosen_variant(name, **what)
    assert variant is not None, "there is a default"
    if num_samples < 0:
        raise BadInput(f"--samples {num_samples}: cannot be negative")
    if target is None and (cores is not None or l1):
        raise BadInput(f"{'--l1' if l1 else '--cores'} says what of a target is used: add --target")
    if target is not None:
        require_cores(target, cores)
        target = with_l1(target, l1) if l1 else target
    # No byte depends on the length of the run, which is one update here.
    batch = max(update.batch, 1)
    rule = update.rule(reaches_everything=variant.reaches_everything, num_samples=batch, asked=f"{batch} samples")
    samples = Linked(num_samples) if cache == "off" else Streamed(num_samples, cache)
    return MemoryRequest(variant, rule=rule, around=Surroundings(target, samples, cores), **net)
