"""Datasets: folders of memory-mapped uint8 shards; written, checked, read and cut into batches."""

from tinyclf.data.batches import MEAN, STD, batches, normalise
from tinyclf.data.manifest import Manifest
from tinyclf.data.shards import Dataset, Split, check_dataset, open_dataset, write_dataset
from tinyclf.data.sources import Source, build_dataset, load_source, source_names

__all__ = [
    "MEAN",
    "STD",
    "Dataset",
    "Manifest",
    "Source",
    "Split",
    "batches",
    "build_dataset",
    "check_dataset",
    "load_source",
    "normalise",
    "open_dataset",
    "source_names",
    "write_dataset",
]
