"""The files that a training run on the device reads and writes; docs/device-files.md describes each byte by byte."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.errors import BadInput
from tinyclf.device.graph.dtypes import FLOAT32, INT8, WORD_BYTES
from tinyclf.recipe.variant import Variant, parse_fractions

VERSION = 1
SAMPLES_MAGIC, WEIGHTS_MAGIC = b"TCLD", b"TCLW"
_SAMPLES_HEADER = struct.Struct("<4sIIIIIQQQ12x")  # without its CRC
_WEIGHTS_HEADER = struct.Struct("<4sIII")
_LOG_ENTRY = np.dtype([("number", "<u8"), ("value", "<u4"), ("zero", "<u4"), ("cycles", "<u8")])
_CRC_BYTES = WORD_BYTES
MOST_BLOCKS = 2**16  # of a net, as a limit of what is believed
_PIECE_BYTES = 4 << 20  # about so many are in memory at once

# Codes of tcl_files.h, and what they mean to a user.
REFUSALS = {
    1: "samples.bin is no samples file: deploy again",
    2: "samples.bin is of another version of the format: deploy again",
    3: "the header of samples.bin is damaged (wrong CRC): deploy again",
    4: "samples.bin has images or classes of another net: deploy again, with the dataset for this net",
    5: "samples.bin has no training samples, or more than can be counted: deploy again",
    6: "samples.bin is truncated: deploy again",
    7: "sample {index} of samples.bin is damaged (wrong CRC): deploy again",
    8: "sample {index} of samples.bin has a label that is no class: deploy again",
    9: "a checkpoint is of another version of the format: begin anew with make restart",
    10: "a checkpoint is of another net, other samples or other settings: begin anew with make restart",
    12: "samples.bin has another number of training samples than the program keeps features of: deploy again",
}


@dataclass(frozen=True)
class Samples:
    """What a run trains and is measured on: images (N, C, H, W) float32 as the net takes them, classes (N,)."""

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]


def sample_bytes(shape: Sequence[int]) -> int:
    """Return the bytes that a sample takes in the file: image (C, H, W), class and CRC."""
    return FLOAT32.num_bytes * math.prod(shape) + WORD_BYTES + _CRC_BYTES


def samples_file_bytes(num: int, shape: Sequence[int]) -> int:
    """Return the size of a samples file of `num` images of `shape`."""
    return _SAMPLES_HEADER.size + _CRC_BYTES + num * sample_bytes(shape)


@dataclass(frozen=True)
class SamplesFile:
    """The samples file; the training samples come first. It may be large: it is made a piece at a time."""

    samples: Samples
    num_classes: int

    def pieces(self) -> Iterator[bytes]:
        """Yield the file from its beginning."""
        s = self.samples
        digest = hashlib.sha256()  # as `number_of` has it
        shape, counts = s.train_images.shape[1:], (len(s.train_images), len(s.test_images))
        body_bytes = sum(counts) * sample_bytes(shape)
        digest.update(struct.pack("<Q", body_bytes))
        for piece in self._body():
            digest.update(piece)
        for count in counts:
            digest.update(_number_part(count))
        identity = int.from_bytes(digest.digest()[:8], "little")
        header = _SAMPLES_HEADER.pack(SAMPLES_MAGIC, VERSION, *shape, self.num_classes, *counts, identity)
        yield header + struct.pack("<I", zlib.crc32(header))
        yield from self._body()

    def _body(self) -> Iterator[bytes]:
        s = self.samples
        shape = s.train_images.shape[1:]
        record = np.dtype([("image", FLOAT32.numpy, shape), ("label", "<u4"), ("crc", "<u4")])
        at_once = max(_PIECE_BYTES // record.itemsize, 1)
        for images, labels in ((s.train_images, s.train_labels), (s.test_images, s.test_labels)):
            for first in range(0, len(images), at_once):
                part = slice(first, first + at_once)
                records = np.zeros(len(images[part]), dtype=record)
                records["image"], records["label"] = images[part], labels[part]
                assert np.isfinite(records["image"]).all()
                assert ((labels[part] >= 0) & (labels[part] < self.num_classes)).all()
                for one in records:
                    one["crc"] = zlib.crc32(one.tobytes()[:-_CRC_BYTES])
                yield records.tobytes()

    def write(self, path: Path) -> None:
        """Write it to `path`."""
        with path.open("wb") as file:
            file.writelines(self.pieces())

    def is_in(self, path: Path) -> bool:
        """Tell whether `path` holds it, and nothing else."""
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return all(file.read(len(piece)) == piece for piece in self.pieces()) and not file.read(1)


def number_of(*parts: bytes | str | int) -> int:
    """Return a number of 64 bits that names `parts`: the first bytes of their SHA-256, each with its length."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(_number_part(part))
    return int.from_bytes(digest.digest()[:8], "little")


def _number_part(part: bytes | str | int) -> bytes:
    content = part if isinstance(part, bytes) else str(part).encode()
    return struct.pack("<Q", len(content)) + content


# --- order ------------------------------------------------------------------------------------------------------------


def shuffled(num: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order (num,) in which the device visits its training samples in `epoch`, from 0 on.

    A Feistel network of four rounds permutes 0 .. 4^h - 1, the smallest such range that holds 0 .. num - 1; what lands
    outside goes round again. `tcl_shuffled` of tcl_files.c is the same function of one index: it needs no memory.
    """
    half_bits = next(h for h in range(17) if 4**h >= num)
    mask = np.uint32(2**half_bits - 1)
    key = _mixed(seed & 0xFFFFFFFF)
    for word in (seed >> 32, epoch & 0xFFFFFFFF, epoch >> 32):
        key = _mixed(int(key[0]) ^ word)
    order = np.arange(num, dtype=np.uint64)
    outside = np.ones(num, dtype=bool)
    while outside.any():
        left = (order[outside] >> np.uint64(half_bits)).astype(np.uint32)
        right = order[outside].astype(np.uint32) & mask
        for turn in range(1, 5):
            round_key = _mixed((int(key[0]) + turn) & 0xFFFFFFFF)
            left, right = right, left ^ (_mixed(right ^ round_key) & mask)
        order[outside] = left.astype(np.uint64) << np.uint64(half_bits) | right.astype(np.uint64)
        outside = order >= num
    return order.astype(np.int64)


def _mixed(x: Any) -> Any:
    """Spread every bit of `x`, uint32, over all: the final mix of MurmurHash3."""
    x = np.atleast_1d(np.asarray(x, dtype=np.uint32))
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    x = (x ^ x >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    return x ^ x >> np.uint32(16)


# --- weights ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainedTensor:
    """A trained parameter's place in the weights of the file; `offset` in bytes. Trained in part: its leading rows."""

    name: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class WeightsHeader:
    """What a weights file says of its weights.

    `net` names the deployed net (names and shapes of its parameters), `source` the weights of the run that was
    deployed: the file holds only what was trained, all else is there. Both are numbers of 64 bits.
    """

    net: int
    source: int
    trained: Variant
    tensors: tuple[TrainedTensor, ...]
    num_bytes: int

    def to_bytes(self) -> bytes:
        """Return the file's beginning, up to the weights: a multiple of 16 bytes."""
        what = self.trained
        about = {
            "net": f"{self.net:016x}",
            "source": f"{self.source:016x}",
            "variant": what.name,
            "k": what.k,
            **({"layers": what.layers} if what.layers else {}),
            **({"bias_only": True} if what.bias_only else {}),
            **({"train_channels": what.fractions} if what.channels else {}),
            "tensors": [{"name": t.name, "shape": list(t.shape), "offset": t.offset} for t in self.tensors],
        }
        text = json.dumps(about).encode()
        text += b" " * (-len(text) % 16)
        return _WEIGHTS_HEADER.pack(WEIGHTS_MAGIC, VERSION, len(text), self.num_bytes) + text


def read_weights(path: Path) -> tuple[WeightsHeader, dict[str, NDArray[np.float32]]]:
    """Read a weights file: its header, and each trained parameter by name.

    Raises:
        BadInput: no weights file, or one of another version, cut or damaged.
    """
    content = path.read_bytes()
    if len(content) < _WEIGHTS_HEADER.size or content[:4] != WEIGHTS_MAGIC:
        raise BadInput(f"{path}: is no weights file of a device: tinyclf deploy --epochs --execute writes weights.bin")
    _, version, about_bytes, num_bytes = _WEIGHTS_HEADER.unpack_from(content)
    if version != VERSION:
        raise BadInput(f"{path}: is of version {version} of the format, this tinyclf reads version {VERSION}")
    start = _WEIGHTS_HEADER.size + about_bytes
    wanted = start + num_bytes + _CRC_BYTES
    if len(content) != wanted:
        raise BadInput(f"{path}: is cut or longer than it says: {len(content):,} bytes, {wanted:,} expected")
    if zlib.crc32(content[:-_CRC_BYTES]) != int.from_bytes(content[-_CRC_BYTES:], "little"):
        raise BadInput(f"{path}: is damaged (wrong CRC): take it from the device again")
    try:
        header = _parse_about(json.loads(content[_WEIGHTS_HEADER.size : start]), num_bytes)
        block = content[start : start + num_bytes]
        values = {
            t.name: np.frombuffer(block, FLOAT32.numpy, math.prod(t.shape), t.offset).reshape(t.shape)
            for t in header.tensors
        }
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, BadInput) as error:
        raise BadInput(f"{path}: its header makes no sense ({type(error).__name__})") from error
    if not all(np.isfinite(value).all() for value in values.values()):
        raise BadInput(f"{path}: holds weights that are no numbers: the training has diverged, try a smaller --lr")
    return header, values


def _parse_about(about: dict[str, Any], num_bytes: int) -> WeightsHeader:
    """Return what the description says; anything but what `WeightsHeader.to_bytes` writes raises ValueError or so."""

    def count(value: Any, most: int = num_bytes) -> int:
        if type(value) is not int or not 0 <= value <= most:
            raise ValueError("no count, or one too large")
        return value

    tensors = tuple(
        TrainedTensor(str(t["name"]), tuple(count(n) for n in t["shape"]), count(t["offset"])) for t in about["tensors"]
    )
    if len({t.name for t in tensors}) != len(tensors):
        raise ValueError("a tensor stands there twice")
    if not all(t.shape and 0 < FLOAT32.num_bytes * math.prod(t.shape) <= num_bytes - t.offset for t in tensors):
        raise ValueError("a tensor is empty, or ends behind the weights")
    net, source = int(about["net"], 16), int(about["source"], 16)
    return WeightsHeader(
        net=net,
        source=source,
        trained=Variant(
            str(about["variant"]),
            count(about["k"], MOST_BLOCKS),
            tuple(str(glob) for glob in about.get("layers", ())),
            bool(about.get("bias_only", False)),
            parse_fractions([str(text) for text in about.get("train_channels", ())]),
        ),
        tensors=tensors,
        num_bytes=num_bytes,
    )


# --- log --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeviceLog:
    """What the device measured: test samples called right before and after, loss (steps,) and cycles (steps,)."""

    right_before: int
    right_after: int
    losses: NDArray[np.float32]
    cycles: NDArray[np.uint64]


def read_log(path: Path, *, num_steps: int) -> DeviceLog:
    """Read the log of a run that is complete.

    Raises:
        BadInput: entries are missing.
    """
    content = path.read_bytes()
    entries = np.frombuffer(content[: len(content) // _LOG_ENTRY.itemsize * _LOG_ENTRY.itemsize], _LOG_ENTRY)
    num = num_steps + 2
    if len(entries) != num or not np.array_equal(entries["number"], np.arange(1, num + 1)):
        raise BadInput(f"{path}: does not hold the {num:,} entries of the run: begin anew with make restart")
    steps = entries[1:-1]
    right = int(entries["value"][0]), int(entries["value"][-1])
    return DeviceLog(*right, steps["value"].copy().view(FLOAT32.numpy), steps["cycles"].copy())


# --- features ---------------------------------------------------------------------------------------------------------


def read_features(
    path: Path, *, num_samples: int, sizes: Sequence[int]
) -> list[tuple[NDArray[np.float32], NDArray[np.int8]]]:
    """Return for each tensor of a sample, of `sizes` elements, scales (samples,) and codes (samples, elements).

    Raises:
        BadInput: entries are missing.
    """
    fields: list[Any] = [("number", "<u8")]
    for i, size in enumerate(sizes):
        fields += [(f"scale{i}", FLOAT32.numpy), (f"codes{i}", INT8.numpy, (size,))]
        fields.append((f"filling{i}", INT8.numpy, (-size % WORD_BYTES,)))
    entry = np.dtype(fields)
    content = path.read_bytes()
    entries = np.frombuffer(content[: len(content) // entry.itemsize * entry.itemsize], entry)
    if not np.array_equal(entries["number"], np.arange(1, num_samples + 1)):
        raise BadInput(f"{path}: does not hold the features of {num_samples:,} samples: begin anew with make restart")
    return [(entries[f"scale{i}"], entries[f"codes{i}"]) for i in range(len(sizes))]
