"""The state of a training run: all that changes from step to step, in one file, so that a run can go on exactly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from tinyclf.data import Position
from tinyclf.errors import BadInput
from tinyclf.files import write_whole
from tinyclf.runs import EpochRow
from tinyclf.session import Session

STATE_FILE = "state.pt"
VERSION = 1


@dataclass
class State:
    """Where a run stands: sums over the epoch so far, and the rows of those behind.

    `step` counts from the beginning of the run. The weights of the best epoch are in their file already.
    """

    position: Position = field(default_factory=lambda: Position(1, 0))
    step: int = 0
    total_loss: float = 0.0
    hits: float = 0.0
    rows: list[EpochRow] = field(default_factory=list)
    best_row: EpochRow | None = None

    def finished(self, session: Session) -> bool:
        """Say whether nothing is left to do: all epochs are behind, or the last ones brought nothing better."""
        config = session.run.train
        assert config.epochs is not None
        if self.position.epoch > config.epochs:
            return True
        waited = len(self.rows) - self.best_row.epoch if self.best_row else 0
        return bool(config.patience) and waited >= config.patience


def save_state(path: Path, session: Session, state: State) -> None:
    """Write everything that `restore` needs, whole."""
    progress = {
        "step": state.step,
        "position": session.loader.sampler.save(state.position),
        "total_loss": state.total_loss,
        "hits": state.hits,
        "rows": [asdict(row) for row in state.rows],
        "best_row": state.best_row and asdict(state.best_row),
    }
    content = {
        "version": VERSION,
        "progress": json.dumps(progress),  # floats come back to the bit
        "model": session.model.state_dict(),
        "optimizer": session.optimizer.state_dict(),
        "average": session.average.state_dict() if session.average else None,
        "precision": session.fabric.strategy.precision.state_dict(),
    }
    write_whole(path, lambda temporary: torch.save(content, temporary))


def restore(path: Path, session: Session) -> State:
    """Put the model, the optimiser and the average of `session` where they were; without a file, the run begins.

    Raises:
        BadInput: the file is damaged, or of another run.
    """
    if not path.is_file():
        return State()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return _restored(content, session)
    except BadInput:
        raise
    except Exception as error:  # unpickling, missing keys, shapes that differ: all mean the same
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise BadInput(f"{path}: damaged, or of another run ({reason}): train anew") from error


def _restored(content: Mapping[str, Any], session: Session) -> State:
    if content["version"] != VERSION:
        raise BadInput(f"state of version {content['version']}, this tinyclf reads {VERSION}: train anew")
    session.model.load_state_dict(content["model"])
    session.optimizer.load_state_dict(content["optimizer"])
    session.fabric.strategy.precision.load_state_dict(content["precision"])
    if session.average:
        session.average.load_state_dict(content["average"])
    progress = json.loads(content["progress"])
    best_row = progress["best_row"]
    return State(
        position=session.loader.sampler.restore(progress["position"]),
        step=progress["step"],
        total_loss=progress["total_loss"],
        hits=progress["hits"],
        rows=[EpochRow(**row) for row in progress["rows"]],
        best_row=EpochRow(**best_row) if best_row else None,
    )
