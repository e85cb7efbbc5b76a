"""Datasets: folders of memory-mapped uint8 shards; built, checked, read, sampled and cut into batches."""

from tinyclf.workstation.data.augment import parse_augmentations
from tinyclf.workstation.data.batches import Loader, batches, make_loader
from tinyclf.workstation.data.build import build_dataset, build_from, write_dataset
from tinyclf.workstation.data.check import check_dataset, verify_files
from tinyclf.workstation.data.manifest import Manifest
from tinyclf.workstation.data.preprocessing import MEAN, STD, Preprocessing
from tinyclf.workstation.data.sampling import Position, Sampler
from tinyclf.workstation.data.shards import Dataset, Split, open_dataset
from tinyclf.workstation.data.sources import COMMON, Item, Source, load_source, source_names

__all__ = [
    "COMMON",
    "MEAN",
    "STD",
    "Dataset",
    "Item",
    "Loader",
    "Manifest",
    "Position",
    "Preprocessing",
    "Sampler",
    "Source",
    "Split",
    "batches",
    "build_dataset",
    "build_from",
    "check_dataset",
    "load_source",
    "make_loader",
    "open_dataset",
    "parse_augmentations",
    "source_names",
    "verify_files",
    "write_dataset",
]
