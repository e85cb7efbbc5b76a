"""What a program reported: the records of its steps, read back."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclf.base.errors import ToolFailed
from tinyclf.device.graph.dtypes import FLOAT32, TYPES, num_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RECORD_CYCLES, RECORD_END, RECORD_REFUSED, RECORD_RESUMED, RECORD_CALL = -1, -2, -3, -4, -5  # ids of tcl_run.h
RECORD_WORDS = 4  # before those of the record


@dataclass(frozen=True)
class Results:
    """What a run wrote: the traced tensors and the cycles of each step."""

    steps: tuple[dict[str, NDArray[Any]], ...]
    cycles: tuple[int, ...]


def read_records(project: Path) -> list[tuple[int, int, NDArray[np.int32]]]:
    """Return the records of build/results.bin, (id, step, words), up to the first that is not whole."""
    import numpy as np  # not at the top: help names the targets, and is to be there at once

    file = project / "build" / "results.bin"
    words = np.fromfile(file, dtype="<i4") if file.is_file() else np.zeros(0, dtype=np.int32)
    records = []
    position = 0
    while position + RECORD_WORDS <= len(words):
        record, num_words = (int(w) for w in words[position : position + 2])
        step = int(words[position + 2 : position + RECORD_WORDS].view("<u8")[0])
        position += RECORD_WORDS
        payload = words[position : position + max(num_words, 0)]
        if num_words < 0 or len(payload) < num_words:
            break
        records.append((record, step, payload))
        position += num_words
    return records


def read_results(project: Path) -> Results:
    """Read build/results.bin of a project: records as tcl_run.h describes them.

    Raises:
        ToolFailed: the stream is missing, cut or not the program's.
    """
    file = project / "build" / "results.bin"
    if not file.is_file():
        raise ToolFailed(f"{file}: the run left no results")
    traces = json.loads((project / "trace.json").read_text())
    steps: list[dict[str, NDArray[Any]]] = []
    cycles: list[int] = []
    for record, step, payload in read_records(project):
        if record == RECORD_END:
            return Results(tuple(steps), tuple(cycles))
        if record == RECORD_CALL:
            continue
        if record == RECORD_CYCLES and len(payload) == 2:
            cycles.append(int(payload.view("<u8")[0]))
            continue
        if not 0 <= record < len(traces) or step not in (len(cycles), len(steps) - 1, len(steps)):
            break
        shape, dtype = traces[record]["shape"], TYPES[traces[record].get("type", FLOAT32.name)]
        if len(payload) != num_words(math.prod(shape) * dtype.num_bytes):
            break
        steps.extend({} for _ in range(step + 1 - len(steps)))
        steps[step][traces[record]["tensor"]] = payload.view(dtype.numpy)[: math.prod(shape)].reshape(shape)
    raise ToolFailed(f"{file}: the results end early, after {len(cycles)} steps: the run did not complete")
