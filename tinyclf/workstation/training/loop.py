"""Training on the workstation: one small explicit loop, which can be stopped anywhere and goes on exactly there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tinyclf.base.errors import BadInput, Interrupted, TinyclfError
from tinyclf.workstation.nets.build import set_train_mode
from tinyclf.workstation.results.report import write_report
from tinyclf.workstation.runs.config import TrainConfig
from tinyclf.workstation.runs.directory import (
    BEST_FILE,
    LAST_FILE,
    EpochRow,
    RunConfig,
    create_run_dir,
    read_run,
    write_checkpoint,
    write_config,
    write_curves,
    write_log,
)
from tinyclf.workstation.runs.logs import RunLog
from tinyclf.workstation.training.optim import rate_at
from tinyclf.workstation.training.parallel import sum_over_processes
from tinyclf.workstation.training.session import Session, open_session, using_threads
from tinyclf.workstation.training.state import STATE_FILE, State, read_saved, restore, save_state

__all__ = ["Observer", "Progress", "resume", "train"]

STOP = 2


@dataclass(frozen=True)
class Progress:
    """What one step says; `batch` counts from 1, `images_per_s` is over this epoch's steps so far."""

    epoch: int
    num_epochs: int
    batch: int
    num_batches: int
    loss: float
    rate: float
    images_per_s: float


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Observer:
    """Who is told what happens, on the first process: each a function. `on_epoch`: row, seconds, images/s."""

    on_start: Callable[[RunConfig, nn.Module], None] = _nothing
    on_note: Callable[[str], None] = _nothing
    on_step: Callable[[Progress], None] = _nothing
    on_epoch: Callable[[EpochRow, float, float], None] = _nothing


def train(
    config: TrainConfig,
    *,
    out: Path | None = None,
    observer: Observer = Observer(),
    should_stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Train and return the run directory: `out`, or the next numbered one in runs/.

    Depends on `config` alone: the same seed and number of threads give the same weights, and torch's random state is
    neither read nor changed. When `should_stop` says so, the state is saved after the step.

    Raises:
        BadInput: dataset, starting weights or `out` cannot be used.
        Interrupted: `should_stop` said so; `resume` goes on.
        TinyclfError: the loss stopped being a number.
    """
    session = open_session(config)
    arch = session.run.arch
    name = session.run.variant.kind
    run_dir = create_run_dir(out, variant=name, arch=arch) if session.fabric.is_global_zero else None
    run_dir = session.fabric.broadcast(run_dir)
    assert run_dir is not None
    if session.fabric.is_global_zero:
        write_config(run_dir, session.run)
    return _run(session, run_dir, State(), observer=observer, should_stop=should_stop)


def resume(
    run_dir: Path,
    *,
    observer: Observer = Observer(),
    should_stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Go on with the run in `run_dir` where its state was saved last; the result is that of a run never stopped.

    Raises:
        BadInput: no run directory, or it is damaged, or its dataset has changed; and as `train`.
    """
    if run_dir.is_file():
        raise BadInput(f"{run_dir}: is a file: --resume takes a run directory")
    run = read_run(run_dir)
    saved = read_saved(run_dir / STATE_FILE)
    session = open_session(run.train, resumed=run, weights=saved["model"] if saved else None)
    state = restore(saved, session, path=run_dir / STATE_FILE) if saved else State()
    return _run(session, run_dir, state, observer=observer, should_stop=should_stop)


def _run(session: Session, run_dir: Path, state: State, *, observer: Observer, should_stop: Callable[[], bool]) -> Path:
    first = session.fabric.is_global_zero
    observer = observer if first else Observer()
    log = RunLog(run_dir, tensorboard=session.run.train.tensorboard) if first else None
    with log or nullcontext(), using_threads(session.run.threads), _random_state_kept():
        _say_start(session, state, observer=observer, log=log)
        _Training(session, run_dir, state, observer, should_stop, log).run()
    return run_dir


def _say_start(session: Session, state: State, *, observer: Observer, log: RunLog | None) -> None:
    observer.on_start(session.run, session.model)
    notes = list(session.notes)
    if state.finished(session):
        notes = ["nothing is left to do: the run is complete"]
    elif state.step:
        notes.append(f"going on in epoch {state.position.epoch} after step {state.step}")
    for note in notes:
        observer.on_note(note)
    if log:
        log.line(f"{session.run.variant.label} of {session.run.arch}: {session.run.start}")
        for note in notes:
            log.line(note)


@contextmanager
def _random_state_kept() -> Iterator[None]:
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield


Weights = dict[str, torch.Tensor]


@dataclass
class _Training:
    """The loop, with what it carries along."""

    session: Session
    run_dir: Path
    state: State
    observer: Observer
    should_stop: Callable[[], bool]
    log: RunLog | None

    def __post_init__(self) -> None:
        self._saved_at = time.monotonic()
        self._best: Weights | None = None  # not written yet
        self._last: Weights | None = None

    def run(self) -> None:
        """Train epoch by epoch until nothing is left, then write what comes last."""
        try:
            while not self.state.finished(self.session):
                self._epoch()
        except TinyclfError:
            self._write_best()
            raise
        self._save()
        if self.session.fabric.is_global_zero:
            write_curves(self.run_dir, self.state.rows)
            write_report(self.run_dir)

    def _epoch(self) -> None:
        """Train what is left of the epoch, measure, and keep its row."""
        begin = time.perf_counter()
        session, state, config = self.session, self.state, self.session.run.train
        assert config.epochs is not None
        epoch, num_batches = state.position.epoch, len(session.loader)
        num_images, rate, wish, speed = 0, 0.0, 0, 0.0
        set_train_mode(session.model, bn=config.bn)
        for after, inputs, labels in session.loader.batches(state.position):
            batch = state.step - (epoch - 1) * num_batches
            rate = rate_at(config, (state.step + 0.5) / (config.epochs * num_batches))
            num = session.loader.sampler.num_images_of(batch)
            loss, hits, wish = self._step(inputs, labels, rate=rate, num=num)
            if not math.isfinite(loss):
                raise TinyclfError(
                    f"the loss became {loss} in epoch {epoch} at learning rate {rate:.3g}: "
                    f"lower it, for instance --lr {(config.lr or 0) / 10:.3g}"
                )
            state.total_loss += loss * num
            state.hits += hits
            state.step += 1
            state.position = after
            num_images += num
            speed = num_images / (time.perf_counter() - begin)
            self._tell(Progress(epoch, config.epochs, batch + 1, num_batches, loss, rate, speed))
            if after.epoch == epoch:
                self._save_or_stop(wish)
        self._end_epoch(epoch, begin=begin, speed=speed, rate=rate)
        if not state.finished(session):
            self._save_or_stop(wish)

    def _step(self, inputs: torch.Tensor, labels: torch.Tensor, *, rate: float, num: int) -> tuple[float, float, int]:
        """Do one step on `num` images of all processes.

        Returns their mean loss, how many were right, and the wish: 1 to save the state, 2 or more to stop.
        """
        session = self.session
        fabric, optimizer, config = session.fabric, session.optimizer, session.run.train
        if session.is_random:  # dropout depends on the place in the run alone, like augmentation
            torch.manual_seed(_seed(config.seed, self.state.step, fabric.global_rank))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        inputs, labels = inputs.to(fabric.device), labels.to(fabric.device)
        logits = session.net(inputs)
        loss = session.loss(logits, labels)
        # Processes may have different numbers of images; Fabric takes the mean of their gradients.
        fabric.backward(loss * (len(labels) * fabric.world_size / num))
        if config.clip:
            fabric.clip_gradients(session.net, optimizer, max_norm=config.clip, error_if_nonfinite=False)
        optimizer.step()
        if session.average:
            session.average.update()
        wish = STOP if self.should_stop() else int(self._save_is_due())
        sums = [loss.item() * len(labels) / num, num_right(logits.detach(), labels), float(wish)]
        sums = sum_over_processes(fabric, sums)
        return sums[0], sums[1], round(sums[2])

    def _save_is_due(self) -> bool:
        config = self.session.run.train
        if not self.session.fabric.is_global_zero:
            return False
        by_steps = config.save_steps and (self.state.step + 1) % config.save_steps == 0
        return bool(by_steps) or time.monotonic() - self._saved_at >= config.save_seconds

    def _tell(self, progress: Progress) -> None:
        if not self.log:
            return
        self.observer.on_step(progress)
        self.log.step(self.state.step, loss=progress.loss, rate=progress.rate)
        if self.state.step % self.session.run.train.log_steps == 0:
            self.log.line(
                f"epoch {progress.epoch}/{progress.num_epochs} step {progress.batch}/{progress.num_batches} "
                f"loss {progress.loss:.4f} lr {progress.rate:.2e} {progress.images_per_s:,.0f} images/s"
            )

    def _save_or_stop(self, wish: int) -> None:
        if wish:
            self._save()
        if wish >= STOP:
            raise Interrupted(f"stopped after step {self.state.step}: go on with tinyclf train --resume {self.run_dir}")

    def _end_epoch(self, epoch: int, *, begin: float, speed: float, rate: float) -> None:
        """Measure on the validation split; keep the row, and the weights if they are the best."""
        session, state = self.session, self.state
        with session.average.applied() if session.average else nullcontext():
            val_loss, val_accuracy = self._validate()
            self._last = _copied(session.model)
        num = len(session.loader.split)
        row = EpochRow(epoch, rate, state.total_loss / num, state.hits / num, val_loss, val_accuracy)
        state.rows.append(row)
        if state.best_row is None or row.better_than(state.best_row):
            state.best_row, self._best = row, self._last
        state.total_loss = state.hits = 0.0
        seconds = time.perf_counter() - begin
        if self.log:
            write_log(self.run_dir, state.rows)
            self.log.epoch(row)
            self.log.line(
                epoch_line(row, num_epochs=session.run.train.epochs or 0, seconds=seconds, images_per_s=speed)
            )
        self.observer.on_epoch(row, seconds, speed)

    @torch.inference_mode()
    def _validate(self) -> tuple[float, float]:
        """Return mean loss and accuracy on the validation split, over all processes."""
        session, fabric = self.session, self.session.fabric
        session.model.eval()
        sums = np.zeros(3)
        for inputs, labels in session.inputs():
            labels = labels.to(fabric.device)
            inputs = fabric.strategy.precision.convert_input(inputs.to(fabric.device))
            with fabric.autocast():
                logits = session.bare(inputs).float()
            sums += (session.plain(logits, labels).item() * len(labels), num_right(logits, labels), len(labels))
        loss, hits, num = sum_over_processes(fabric, sums.tolist())
        return loss / num, hits / num

    def _save(self) -> None:
        """Write the weights of the best and the last epoch, then the state; each file whole.

        What is written and then not covered by a state is made again, to the bit, by a run that goes on.
        """
        if self.session.fabric.is_global_zero:
            self._write_best()
            if self._last is not None:
                write_checkpoint(self.run_dir / LAST_FILE, self._last, run=self.session.run, row=self.state.rows[-1])
                self._last = None
            save_state(self.run_dir / STATE_FILE, self.session, self.state)
        self._saved_at = time.monotonic()

    def _write_best(self) -> None:
        if self._best is not None and self.state.best_row and self.session.fabric.is_global_zero:
            write_checkpoint(self.run_dir / BEST_FILE, self._best, run=self.session.run, row=self.state.best_row)
            self._best = None


def _copied(model: nn.Module) -> Weights:
    """Return a copy of the weights, in float32 at most."""
    state = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    return {name: tensor.float() if tensor.dtype is torch.float64 else tensor for name, tensor in state.items()}


def num_right(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return how many images were called right; with several labels, each counts as a part of its image."""
    if labels.ndim == 1:
        return float((logits.argmax(1) == labels).sum())
    return float(((logits > 0) == (labels > 0)).float().mean(dim=1).sum())


def epoch_line(row: EpochRow, *, num_epochs: int, seconds: float, images_per_s: float) -> str:
    """Return one epoch as a line for people."""
    return (
        f"epoch {row.epoch:>{len(str(num_epochs))}}/{num_epochs}  lr {row.lr:.2e}  "
        f"train loss {row.train_loss:.4f} accuracy {row.train_accuracy:6.1%}  "
        f"validation loss {row.val_loss:.4f} accuracy {row.val_accuracy:6.1%}  "
        f"{seconds:.1f} s, {images_per_s:,.0f} images/s"
    )


def _seed(*place: int) -> int:
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> np.uint64(1))
