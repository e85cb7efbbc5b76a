"""A net as an ONNX graph: exported, in half precision, quantised, with its preprocessing inside."""

from __future__ import annotations

import contextlib
import copy
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tinyclf import __version__
from tinyclf.base.errors import ToolFailed, Unsupported
from tinyclf.workstation.data import Preprocessing
from tinyclf.workstation.nets.build import fold_batchnorm
from tinyclf.workstation.results.classifiers import INPUT

OUTPUT = "logits"
OPSET = 17
NORMALISED = "normalised"  # what the net's input is called once the preprocessing is in front of it


def fold_for_export(model: nn.Module) -> tuple[nn.Module, bool]:
    """Return a copy of `model` in eval mode, with BatchNorm folded where that can be done, and whether it was."""
    try:
        return fold_batchnorm(model), True
    except Unsupported:
        return copy.deepcopy(model).eval(), False


def to_onnx(model: nn.Module, *, size: int) -> onnx.ModelProto:
    """Return the simplified graph of `model`: "images" (N, 3, size, size) float32 -> "logits" (N, classes) float32.

    Raises:
        Unsupported: the net does something that ONNX, or the exporter, does not know.
        ToolFailed: the graph cannot be simplified.
    """
    import onnxsim  # type: ignore[import-untyped]

    with quiet(), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        try:
            # The older exporter, which follows the calls of one example: ten times faster than the other one, needs no
            # further package, and gives one file and the same graph for every net of ours, which branch on nothing.
            torch.onnx.export(
                model,
                (torch.zeros(2, 3, size, size),),
                file,
                dynamo=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "N"}, OUTPUT: {0: "N"}},
                opset_version=OPSET,
            )
        except Exception as error:  # whatever the net's own code, or the exporter, makes of it
            raise Unsupported(f"{type(model).__name__} cannot be exported to ONNX: {_one_line(error)}") from error
        try:
            simplified, same = onnxsim.simplify(onnx.load(file))
        except Exception as error:  # onnxsim raises what its C++ code throws
            raise ToolFailed(f"onnxsim cannot simplify the graph: {_one_line(error)}") from error
    if not same:
        raise ToolFailed("onnxsim changed what the graph computes: export with another version of onnxsim")
    assert isinstance(simplified, onnx.ModelProto)
    return simplified


def to_half(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return `graph` with weights and arithmetic in float16; its input and output stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16  # type: ignore[import-untyped]

    with quiet():
        half: onnx.ModelProto = convert_float_to_float16(copy.deepcopy(graph), keep_io_types=True)
    _sort(half.graph)  # the converter puts its casts last
    return half


def to_int8(graph: onnx.ModelProto, batches: Iterable[NDArray[np.float32]]) -> onnx.ModelProto:
    """Return `graph` quantised to int8: weights per channel, activations by the ranges seen on `batches`.

    `batches` are images (n, 3, size, size) as the net takes them. The graph has QuantizeLinear and DequantizeLinear
    around each operator (QDQ); weights are symmetric, activations are not.
    """
    from onnxruntime.quantization import (  # type: ignore[import-untyped]
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    with quiet(), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        quantize_static(
            copy.deepcopy(graph),
            file,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(file)


def with_preprocessing(graph: onnx.ModelProto, preprocessing: Preprocessing) -> onnx.ModelProto:
    """Return `graph` with normalisation and order of channels in front: "images" (N, size, size, 3) uint8 RGB."""
    complete = copy.deepcopy(graph)
    net = complete.graph
    for node in net.node:
        node.input[:] = [NORMALISED if name == INPUT else name for name in node.input]
    std = np.array(preprocessing.std)
    constants = {
        "preprocessing_scale": (1 / (255 * std)).astype(np.float32).reshape(1, 3, 1, 1),
        "preprocessing_offset": (-np.array(preprocessing.mean) / std).astype(np.float32).reshape(1, 3, 1, 1),
    }
    nodes = [
        helper.make_node("Cast", [INPUT], ["pixels_float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels_float"], ["pixels_rgb"], perm=[0, 3, 1, 2]),
    ]
    pixels = "pixels_rgb"
    if preprocessing.channels == "BGR":
        constants["preprocessing_channels"] = np.array([2, 1, 0], dtype=np.int64)
        nodes.append(helper.make_node("Gather", [pixels, "preprocessing_channels"], ["pixels_bgr"], axis=1))
        pixels = "pixels_bgr"
    nodes.append(helper.make_node("Mul", [pixels, "preprocessing_scale"], ["pixels_scaled"]))
    nodes.append(helper.make_node("Add", ["pixels_scaled", "preprocessing_offset"], [NORMALISED]))
    net.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants.items())
    net.node.extend(nodes)
    _sort(net)
    size = preprocessing.size
    net.input[0].CopyFrom(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", size, size, 3]))
    return complete


def with_metadata(graph: onnx.ModelProto, entries: Mapping[str, str]) -> onnx.ModelProto:
    """Return `graph` checked against the ONNX standard, with `entries` as its metadata."""
    described = copy.deepcopy(graph)
    helper.set_model_props(described, dict(entries))
    described.producer_name, described.producer_version = "tinyclf", __version__
    onnx.checker.check_model(described, full_check=True)
    return described


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings and log lines of the exporters, which say nothing that a user could act on, from the terminal."""
    import onnxruntime as ort  # type: ignore[import-untyped]

    ort.set_default_logger_severity(3)  # errors only; the default of the library for sessions that it opens itself
    root = logging.getLogger()
    handlers, disabled = list(root.handlers), logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers  # logging.warning() installs one, also when it is disabled


def _sort(net: onnx.GraphProto) -> None:
    """Bring the nodes of a graph into an order in which they can be computed, otherwise the one they have."""
    known = {"", *(entry.name for entry in (*net.input, *net.initializer))}
    waiting, ordered = [copy.deepcopy(node) for node in net.node], []
    while waiting:
        later = []
        for node in waiting:
            if known.issuperset(node.input):
                ordered.append(node)
                known.update(node.output)
            else:
                later.append(node)
        assert len(later) < len(waiting), "the graph has a cycle"
        waiting = later
    del net.node[:]
    net.node.extend(ordered)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no reason given'])[0][:160]}"
