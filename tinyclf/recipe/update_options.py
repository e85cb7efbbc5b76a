"""What a user asks of the updates on the device, as an UpdateRule, and the options that ask for a rule."""

from __future__ import annotations

from dataclasses import dataclass

from tinyclf.base.errors import BadInput
from tinyclf.recipe.optimizers import OPTIMIZERS, owners
from tinyclf.recipe.update_rule import UpdateRule

# Steps of one sample through all of a net soon diverge at a rate that suits its last layers.
DEFAULT_RATE_FULL = 0.001


@dataclass(frozen=True, kw_only=True)
class UpdateOptions:
    """The options of an update; None: the default, for the rate one that suits the rest, for all others UpdateRule's.

    What a field means says `UpdateRule`; `betas` are its beta1 and beta2.
    """

    learning_rate: float | None = None
    weight_decay: float = 0.0
    optimizer: str = "sgd"
    momentum: float = 0.0
    betas: tuple[float, float] | None = None
    epsilon: float | None = None
    batch: int = 1
    clip: float = 0.0
    schedule: str = "constant"
    gamma: float | None = None
    milestones: tuple[float, ...] | None = None
    warmup: int = 0
    loss: str = "cross_entropy"

    def rule(self, *, reaches_everything: bool, num_samples: int, asked: str) -> UpdateRule:
        """Return the rule of a run over `num_samples`, repeats counted; `asked` is how the user said so many.

        Samples at the end that do not fill a batch are no update, and not counted as one.

        Raises:
            BadInput: a value is out of its range or belongs to another optimizer or schedule, or the samples are too
                few for an update.
        """
        self._check_company()
        if num_samples < self.batch:
            raise BadInput(
                f"{asked} are fewer than the {self.batch} samples of a batch: nothing is updated, try a smaller --batch"
            )
        row = OPTIMIZERS.get(self.optimizer)  # one that is unknown UpdateRule refuses
        usual = DEFAULT_RATE_FULL if reaches_everything or row is None else row.rate
        names = ("weight_decay", "optimizer", "momentum", "batch", "clip", "schedule", "warmup", "loss")
        given = {name: getattr(self, name) for name in (*names, "epsilon", "gamma", "milestones")}
        given |= dict(zip(("beta1", "beta2"), self.betas or (None, None), strict=True))
        return UpdateRule(
            usual if self.learning_rate is None else self.learning_rate,
            num_updates=num_samples // max(self.batch, 1),
            **{name: value for name, value in given.items() if value is not None},
        )

    def _check_company(self) -> None:
        """Refuse what would have no effect."""
        for name, setting in (("betas", "beta1"), ("epsilon", "epsilon")):
            if getattr(self, name) is not None and self.optimizer not in owners(setting):
                of = owners(setting)
                raise BadInput(f"--{name} is of {' and '.join(of)}: add --optimizer {of[0]}")
        for name in ("gamma", "milestones"):
            if getattr(self, name) is not None and self.schedule != "step":
                raise BadInput(f"--{name} is of the step schedule: add --schedule step")


def options_text(rule: UpdateRule) -> str:
    """Return the options that ask for `rule`, but for those that have their default."""
    usual = UpdateRule(rule.learning_rate)
    names = ("optimizer", "momentum", "epsilon", "batch", "clip", "schedule", "gamma", "warmup", "loss")
    given = {name: getattr(rule, name) for name in names if getattr(rule, name) != getattr(usual, name)}
    text = "".join(f" --{name} {str(value).replace('_', '-')}" for name, value in given.items())
    if (rule.beta1, rule.beta2) != (usual.beta1, usual.beta2):
        text += f" --betas {rule.beta1} {rule.beta2}"
    if rule.milestones != usual.milestones:
        text += f" --milestones {','.join(str(m) for m in rule.milestones)}"
    return f" --lr {rule.learning_rate:g} --weight-decay {rule.weight_decay:g}{text}"
