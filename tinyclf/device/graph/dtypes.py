"""The data types of tensors: of each its bytes, alignment, names in C and in numpy, and its bounds in verification."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataType:
    """A type of elements.

    `alignment`: of tensors, in bytes: four elements, as fast kernels load them at once. `numpy` names the type as it
    stands in files, little-endian.
    """

    name: str
    num_bytes: int
    alignment: int
    c_type: str
    numpy: str

    def __repr__(self) -> str:
        """Name the type alone: what is decided of a step is told from its repr."""
        return repr(self.name)


FLOAT32 = DataType("float32", 4, 16, "float", "<f4")
FLOAT16 = DataType("float16", 2, 8, "uint16_t", "<f2")  # stored; C99 has no type for it, these are its bits
INT8 = DataType("int8", 1, 4, "int8_t", "<i1")

TYPES = {t.name: t for t in (FLOAT32, FLOAT16, INT8)}
BLOCK = FLOAT32  # what the arrays in C that hold tensors are declared as
BLOCK_ALIGNMENT = max(t.alignment for t in TYPES.values())  # of these arrays, and of the tiles' buffers
MOST_TILE_BYTES = BLOCK_ALIGNMENT << 16  # of L1: as far as buffers are numbered, in uint16_t
WORD_BYTES = 4  # uint32_t: of records, of the result stream; int and pointers of a 32-bit target


@dataclass(frozen=True)
class Bounds:
    """How far a device's values of a type may be from PyTorch's in double precision, by `relative_error`.

    `layer`: what one direction of a layer makes. `step`: a value of a step; also how near to a jump of a derivative,
    relative to the largest input, an input is a tie. `least_scale`: an array's errors count relative to at least this.
    """

    layer: float
    step: float
    least_scale: float


@dataclass(frozen=True)
class RunBounds:
    """The same at the end of a whole run: of each step's loss, absolute, and of each trained parameter."""

    loss: float
    weight: float


# Nearer to float32's smallest number, 1e-38, products lose their relative precision. Of int8 the errors are those of
# scale x code beyond the rounding to codes: of the float32 that was rounded, and of the scale.
BOUNDS = {
    FLOAT32: Bounds(layer=1e-5, step=1e-4, least_scale=1e-30),
    INT8: Bounds(layer=1e-5, step=1e-4, least_scale=1e-30),
}
RUN_BOUNDS = {FLOAT32: RunBounds(loss=1e-3, weight=1e-3)}


def aligned(num_bytes: int, alignment: int = BLOCK_ALIGNMENT) -> int:
    """Round up to a multiple of `alignment`."""
    return -(-num_bytes // alignment) * alignment


def num_blocks(num_bytes: int) -> int:
    """Count the elements of a C array that holds `num_bytes`, a multiple of theirs."""
    count, rest = divmod(num_bytes, BLOCK.num_bytes)
    assert rest == 0, f"{num_bytes} bytes are no whole number of {BLOCK.name}"
    return count


def num_words(num_bytes: int) -> int:
    """Count the words that hold `num_bytes`."""
    return -(-num_bytes // WORD_BYTES)
