"""The frozen part of a net is run once: what it gives is kept as shards, and training reads those instead of images."""

from __future__ import annotations

import hashlib
import json
import operator
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from tinyclf.base.errors import BadInput, Unsupported
from tinyclf.workstation.data import Loader, Position, Sampler, Split

VERSION = 1  # of what a cache holds; part of its key
SHARD = 4096  # images per shard
BATCH = 128
COMPLETE = "about.json"  # written last


@dataclass(frozen=True)
class Parts:
    """A net cut in two; the modules are those of the net itself. trained(frozen(images)) are its logits."""

    frozen: nn.Module
    trained: nn.Module


def cut(model: nn.Module) -> Parts:
    """Cut `model`, in the mode that it trains in, before the first module that training changes or that is random.

    Raises:
        Unsupported: it cannot be traced, nothing is frozen, or more than one tensor crosses the cut.
    """
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:  # whatever the code of a net raises when it is traced
        raise Unsupported(f"{type(model).__name__} cannot be traced ({type(error).__name__})") from error
    late = _late_nodes(model, graph)
    crossing = _crossing(graph, late)
    # What only takes a tensor apart, or has no weights, is computed again: so that one tensor crosses.
    while _is_splitting(crossing) and (movable := [n for n in crossing if n.op in ("call_function", "call_method")]):
        late.update(movable)
        crossing = _crossing(graph, late)
    if len(crossing) != 1:
        raise Unsupported(f"{len(crossing)} tensors cross from the frozen to the trained part: one can be kept")
    if crossing[0].op == "placeholder":
        raise Unsupported("nothing is frozen")
    return Parts(_part(model, graph, crossing[0], late=late, first=True), _part(model, graph, crossing[0], late=late))


def _late_nodes(model: nn.Module, graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes whose value changes while training goes on."""
    late: set[fx.Node] = set()
    for node in graph.nodes:
        if any(source in late for source in node.all_input_nodes) or node.op == "output" or _changes(model, node):
            late.add(node)
    return late


def _crossing(graph: fx.Graph, late: set[fx.Node]) -> list[fx.Node]:
    """Return the nodes whose value the trained part takes from the frozen one."""
    return [node for node in graph.nodes if node not in late and any(user in late for user in node.users)]


def _is_splitting(crossing: list[fx.Node]) -> bool:
    """Say whether several values cross, or one that is taken apart."""
    return len(crossing) > 1 or any(user.target is operator.getitem for node in crossing for user in node.users)


def _changes(model: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        return any(p.requires_grad for p in module.parameters()) or any(
            _is_random_or_adapts(m) for m in module.modules()
        )
    if node.op == "get_attr":
        owner, _, name = str(node.target).rpartition(".")
        return bool(getattr(getattr(model.get_submodule(owner), name), "requires_grad", False))
    return False


def _is_random_or_adapts(module: nn.Module) -> bool:
    kinds = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
    return module.training and isinstance(module, kinds)


def _part(
    model: nn.Module, graph: fx.Graph, boundary: fx.Node, *, late: set[fx.Node], first: bool = False
) -> nn.Module:
    """Return the part up to `boundary`, or the part from it on, as a module that shares its layers with `model`."""
    part = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {} if first else {boundary: part.placeholder("features")}
    for node in graph.nodes:
        if (node in late) != first:
            copies[node] = part.node_copy(node, lambda source: copies[source])
    if first:
        part.output(copies[boundary])
    part.lint()
    return fx.GraphModule(model, part)


@dataclass(frozen=True)
class FeatureLoader:
    """As `data.Loader`, but of kept features: epoch e reads view (e - 1) mod the number of views."""

    views: tuple[Split, ...]
    sampler: Sampler

    @property
    def split(self) -> Split:
        """Return the first view."""
        return self.views[0]

    def __len__(self) -> int:
        return self.sampler.num_batches()

    def batches(self, position: Position) -> Iterator[tuple[Position, torch.Tensor, torch.Tensor]]:
        """Yield what is left of the epoch from `position` on: (position after the batch, features, labels)."""
        view = self.views[(position.epoch - 1) % len(self.views)]
        for after, indices in self.sampler.batches(position):
            yield after, to_tensor(view.gather(indices)), torch.from_numpy(view.labels[indices])


def to_tensor(features: NDArray[Any]) -> torch.Tensor:
    """Undo `_to_array`: maps (n, H, W, C) become (n, C, H, W), channels last in memory."""
    tensor = torch.from_numpy(features)
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


def _to_array(features: torch.Tensor) -> NDArray[Any]:
    return (features.permute(0, 2, 3, 1) if features.ndim == 4 else features).contiguous().cpu().numpy()


def feature_bytes(frozen: nn.Module, loader: Loader) -> int:
    """Return the bytes of one image's features."""
    with torch.inference_mode():
        features = frozen(loader.preprocessing.apply(loader.split.gather([0])).to(_device(frozen)))
    if not isinstance(features, torch.Tensor) or len(features) != 1:
        raise Unsupported("the frozen features are not one tensor per image")
    return features.numel() * features.element_size()


def kept_features(
    frozen: nn.Module, loader: Loader, validation: Split, *, num_views: int, folder: Path, limit: float
) -> tuple[tuple[Split, ...], Split, Path, bool]:
    """Return the features of the training split (a split per view) and of the validation split.

    They are read from `folder` if it has them, else computed and written there: (views, validation, where, were there).
    What tells one set from another is a hash over the frozen weights and their graph, the data, the preprocessing, the
    augmentations with their seed, and the versions. `limit`: bytes of the whole folder; the oldest sets are removed.

    Raises:
        BadInput: they are larger than `limit`, or than the disk has room for.
    """
    where = folder / _key(frozen, loader, num_views=num_views)
    found = (where / COMPLETE).is_file()
    if found:
        os.utime(where)
    else:
        num_bytes = feature_bytes(frozen, loader) * (num_views * len(loader.split) + len(validation))
        _make_room(folder, num_bytes, limit=limit)
        _build(frozen, loader, validation, num_views=num_views, where=where)
    views = tuple(_open(where, f"train-{view}", loader.split) for view in range(num_views))
    return views, _open(where, "validation", validation), where, found


def _key(frozen: nn.Module, loader: Loader, *, num_views: int) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(frozen.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    augmented = [loader.augmentations, loader.sampler.seed, num_views] if loader.augmentations else []
    what = {
        "graph": getattr(frozen, "code", ""),
        "modules": {name: str(module) for name, module in frozen.named_modules() if not list(module.children())},
        "data": loader.split.manifest.to_json(),
        "split": loader.split.name,
        "preprocessing": loader.preprocessing.to_dict(),
        "augmentations": augmented,
        "versions": [VERSION, torch.__version__],
    }
    digest.update(json.dumps(what, sort_keys=True).encode())
    return digest.hexdigest()[:32]


def _make_room(folder: Path, num_bytes: int, *, limit: float) -> None:
    """Remove the sets that were not used for longest until `num_bytes` more fit."""
    if num_bytes > limit:
        raise BadInput(f"the features take {num_bytes / 2**30:.1f} GiB, feature_limit is {limit / 2**30:.1f}")
    folder.mkdir(parents=True, exist_ok=True)
    sets = sorted((p for p in folder.iterdir() if (p / COMPLETE).is_file()), key=lambda p: p.stat().st_mtime)
    used = {path: sum(file.stat().st_size for file in path.iterdir()) for path in sets}
    for path in sets:
        if sum(used.values()) + num_bytes <= limit:
            break
        shutil.rmtree(path, ignore_errors=True)
        del used[path]
    free = shutil.disk_usage(folder).free
    if num_bytes > 0.9 * free:
        raise BadInput(f"the features take {num_bytes / 2**30:.1f} GiB, {folder} has {free / 2**30:.1f} free")


def _build(frozen: nn.Module, loader: Loader, validation: Split, *, num_views: int, where: Path) -> None:
    """Compute and write a set under a temporary name, then rename it."""
    partial = where.with_name(f".{where.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        for view in range(num_views):
            _write(partial, f"train-{view}", _features(frozen, loader, epoch=view + 1))
        plain = replace(loader, split=validation, augmentations={})
        _write(partial, "validation", _features(frozen, plain, epoch=1))
        (partial / COMPLETE).write_text(json.dumps({"version": VERSION, "views": num_views}) + "\n")
        try:
            partial.rename(where)
        except OSError:  # another process has just written the same
            if not (where / COMPLETE).is_file():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _features(frozen: nn.Module, loader: Loader, *, epoch: int) -> Iterator[NDArray[Any]]:
    """Yield the features of the split of `loader`, in order, a batch at a time."""
    device = _device(frozen)
    with torch.inference_mode():
        for batch, first in enumerate(range(0, len(loader.split), BATCH)):
            indices = np.arange(first, min(first + BATCH, len(loader.split)))
            images = loader.preprocessing.apply(loader.split.gather(indices))
            yield _to_array(frozen(loader.augmented(images, epoch=epoch, batch=batch).to(device)))


def _device(module: nn.Module) -> torch.device:
    return next((tensor.device for tensor in module.state_dict().values()), torch.device("cpu"))


def _write(folder: Path, name: str, batches: Iterator[NDArray[Any]]) -> None:
    for index, shard in enumerate(_shards(batches)):
        np.save(folder / f"{name}-{index:05d}.npy", shard)


def _shards(batches: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    held: list[NDArray[Any]] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= SHARD:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


def _open(folder: Path, name: str, split: Split) -> Split:
    files: Sequence[Path] = sorted(folder.glob(f"{name}-?????.npy"))
    shards = tuple(np.load(file, mmap_mode="r") for file in files)
    if sum(map(len, shards)) != len(split):
        raise BadInput(
            f"{folder}: damaged, it holds {sum(map(len, shards))} of {len(split)} images: remove this folder"
        )
    return replace(split, shards=shards)
