"""Parquet files with the exact columns of Wake Vision."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

SIZE = 16
COLUMNS = (
    *("age_unknown", "body_part", "bright", "dark", "depiction", "far", "filename"),
    *(
        "gender_unknown",
        "image",
        "medium_distance",
        "middle_age",
        "near",
        "non-person_depiction",
        "non-person_non-depiction",
    ),
    *("normal_lighting", "older", "person", "person_depiction", "predominantly_female", "predominantly_male", "young"),
)
TAGS = [name for name in COLUMNS if name not in ("filename", "image", "person")]


def picture(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def encoded(number: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture(number)).save(stream, kind)
    return stream.getvalue()


def row(number: int, *, person: int, filled: bool = True, kind: str = "PNG") -> dict[str, Any]:
    """Return one row; tag number t of image n is the parity of n // (t + 1)."""
    tags: dict[str, int | None] = {tag: number // (index + 1) % 2 for index, tag in enumerate(TAGS)}
    if not filled:
        tags = {tag: value if tag in ("depiction", "body_part") else None for tag, value in tags.items()}
    name = f"{number:016x}.jpg"
    return {**tags, "filename": name, "person": person, "image": {"bytes": encoded(number, kind), "path": name}}


def write_parquet(file: Path, rows: list[dict[str, Any]], *, row_group_size: int = 4) -> None:
    """Write a parquet file as the hub's: columns in alphabetic order, `image` marked for `datasets` to decode."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    types = {"filename": pa.string(), "image": image}
    schema = pa.schema([(name, types.get(name, pa.int64())) for name in sorted(rows[0])])
    kinds = {"filename": {"dtype": "string", "_type": "Value"}, "image": {"_type": "Image"}}
    features = {name: kinds.get(name, {"dtype": "int64", "_type": "Value"}) for name in schema.names}
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file, row_group_size=row_group_size)


def persons(first: int, num: int) -> list[int]:
    """Return the column `person`: every fifth image is without a label."""
    return [-1 if number % 5 == 4 else number % 2 for number in range(first, first + num)]


def labelled(first: int, num: int) -> list[int]:
    return [number for number in range(first, first + num) if number % 5 != 4]
