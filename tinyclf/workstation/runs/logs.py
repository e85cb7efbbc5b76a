"""What training says while it runs: lines for people in train.log, and scalars for TensorBoard when asked for."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tinyclf.base.errors import BadInput
from tinyclf.workstation.runs.directory import EpochRow


class RunLog:
    """The log files of a run directory; a resumed run goes on in the same ones."""

    def __init__(self, run_dir: Path, *, tensorboard: bool = False) -> None:
        self._stream = (run_dir / "train.log").open("a", buffering=1)
        self._writer = _summary_writer(run_dir / "tensorboard") if tensorboard else None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with contextlib.suppress(OSError):  # the disk may be full: that is then the error
                self.line(f"stopped: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        self._stream.close()
        if self._writer:
            self._writer.close()

    def line(self, text: str) -> None:
        """Append a line, with the time."""
        self._stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def step(self, step: int, *, loss: float, rate: float) -> None:
        """Note one step for TensorBoard."""
        if self._writer:
            self._writer.add_scalar("step/loss", loss, step)
            self._writer.add_scalar("step/lr", rate, step)

    def epoch(self, row: EpochRow) -> None:
        """Note one epoch for TensorBoard."""
        if self._writer:
            for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
                self._writer.add_scalar(f"epoch/{name}", getattr(row, name), row.epoch)
            self._writer.flush()


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise BadInput("tensorboard is not installed: pip install 'tinyclf[tensorboard]', or leave it out") from error
    return SummaryWriter(str(folder))
