"""How a source's image becomes pixels: decoded, turned upright, made square, resized; with Pillow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.errors import BadInput

CROPS = ("squash", "centre")
# Of the files that are taken for images where a folder is searched.
SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"))


def is_image_file(file: Path) -> bool:
    """Tell by its name whether `file`, which exists, is an image; hidden files are not."""
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()


class Corrupt(Exception):
    """An image that cannot be read; the message says why."""


def to_pixels(image: Path | bytes | NDArray[np.uint8], *, size: int, crop: str) -> NDArray[np.uint8]:
    """Return (size, size, 3) uint8 RGB.

    The filter is Pillow's BILINEAR, which when it shrinks averages over the source pixels that a target pixel covers.
    An image that already has the size is not resampled: its pixels come back exactly. `crop`
    `centre` first cuts the longer sides to those of the largest square in the middle; `squash` keeps everything and
    changes the aspect ratio.

    Raises:
        Corrupt: not an image, truncated, or of a form that cannot be used.
    """
    from PIL import Image

    picture: Any = Image.fromarray(_rgb_array(image)) if isinstance(image, np.ndarray) else _decode(image)
    if crop == "centre" and picture.width != picture.height:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return np.array(picture)


def _rgb_array(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        # The fault of the source, not of one image: to be raised, whatever --strict says.
        raise BadInput(f"the source yields an image {image.shape} {image.dtype}: it must be (H, W, 3) uint8")
    return np.ascontiguousarray(image)


def _decode(image: Path | bytes) -> Any:
    """Decode as RGB; the orientation that a camera notes in EXIF is applied, transparency falls on white."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as picture:
            picture.load()
            upright = ImageOps.exif_transpose(picture)
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                upright = upright.convert("RGBA")
                ground = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(ground, upright)
            return upright.convert("RGB")
    except FileNotFoundError as error:
        raise Corrupt("no such file") from error
    except Exception as error:  # Pillow raises whatever its decoders meet: OSError, SyntaxError, struct.error, ...
        raise Corrupt(f"{type(error).__name__}: {str(error)[:100]}") from error
