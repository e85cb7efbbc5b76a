"""The state of a training run: all that changes from step to step, in one file, so that a run can go on exactly."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from tinyclf.base.errors import BadInput
from tinyclf.base.files import write_whole
from tinyclf.workstation.data import Position
from tinyclf.workstation.runs.directory import EpochRow
from tinyclf.workstation.training.session import Session

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
    """Write everything that a run needs to go on, whole."""
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
    raw = io.BytesIO()
    torch.save(content, raw)  # into a file it would report a full disk as an error of its own
    write_whole(path, lambda temporary: temporary.write_bytes(raw.getbuffer()))


def read_saved(path: Path) -> dict[str, Any] | None:
    """Read what `save_state` wrote; None if there is no such file, since the run had saved nothing yet.

    Raises:
        BadInput: the file is damaged, or of another version.
    """
    if not path.is_file():
        return None
    with _as_bad_input(path):
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if content["version"] != VERSION:
            raise BadInput(f"{path}: of version {content['version']}, this tinyclf reads {VERSION}: train anew")
        return content


def restore(saved: Mapping[str, Any], session: Session, *, path: Path) -> State:
    """Put the optimiser and the average of `session` where they were; the model's weights came with the session.

    Raises:
        BadInput: the state is of another run.
    """
    with _as_bad_input(path):
        session.optimizer.load_state_dict(saved["optimizer"])
        session.fabric.strategy.precision.load_state_dict(saved["precision"])
        if session.average:
            session.average.load_state_dict(saved["average"])
        progress = json.loads(saved["progress"])
        best_row = progress["best_row"]
        return State(
            # The first process has saved it, for all.
            position=session.loader.sampler.restore({**progress["position"], "rank": session.fabric.global_rank}),
            step=progress["step"],
            total_loss=progress["total_loss"],
            hits=progress["hits"],
            rows=[EpochRow(**row) for row in progress["rows"]],
            best_row=EpochRow(**best_row) if best_row else None,
        )


@contextmanager
def _as_bad_input(path: Path) -> Iterator[None]:
    """Unpickling, missing keys and shapes that differ raise errors of many kinds, which all mean the same."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise BadInput(f"{path}: damaged, or of another run ({reason}): train anew") from error
