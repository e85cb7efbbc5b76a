"""Builds a dataset folder from a source: select, decode, write; interrupted at any moment, it can be resumed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tinyclf import __version__
from tinyclf.base.errors import BadInput
from tinyclf.workstation.data.decoding import decode
from tinyclf.workstation.data.images import CROPS
from tinyclf.workstation.data.journal import DATASET, Journal, partial_folder
from tinyclf.workstation.data.manifest import FILE_NAME, VERSION, Manifest, parse_manifest
from tinyclf.workstation.data.selection import select
from tinyclf.workstation.data.sources import Item, Options, Source, load_source
from tinyclf.workstation.data.writer import Writer

OnShard = Callable[[str, int], None]


def build_dataset(
    name: str,
    *,
    out: Path,
    options: Options,
    num_workers: int = 1,
    resume: bool = False,
    on_shard: OnShard | None = None,
) -> Manifest:
    """Write the images of source `name` as the dataset folder `out`; options that are not given take their defaults.

    The bytes depend on source and options alone, not on `num_workers` or on how often the build was resumed.

    Raises:
        BadInput: unknown source or option, `out` exists, an unfinished build is in the way, the source cannot be read.
    """
    source = load_source(name)
    return build_from(
        source, source.complete(options), out=out, num_workers=num_workers, resume=resume, on_shard=on_shard
    )


def write_dataset(
    items: Iterable[Item],
    *,
    out: Path,
    classes: Sequence[str],
    source: str,
    size: int,
    multi_label: bool = False,
    **options: Any,
) -> Manifest:
    """Write `items` as the dataset folder `out`; `options` are those of `sources.COMMON`.

    Raises:
        BadInput: as `build_dataset`.
    """
    made = Source(
        source, source, {}, classes=lambda _: classes, build=lambda _: iter(items), multi_label=lambda _: multi_label
    )
    return build_from(made, made.complete({"size": size, **options}), out=out)


def build_from(
    source: Source,
    options: Options,
    *,
    out: Path,
    num_workers: int = 1,
    resume: bool = False,
    on_shard: OnShard | None = None,
) -> Manifest:
    """Build from a loaded source with complete options; see `build_dataset`."""
    classes, multi_label = tuple(source.classes(options)), bool(source.multi_label(options))
    _check_options(options, classes=classes, multi_label=multi_label, num_workers=num_workers)
    plan = _plan(source, options, classes=classes, multi_label=multi_label)
    if out.exists():
        return _finished(out, plan, resume=resume)
    journal = Journal(out, plan=plan, resume=resume)
    limit = options["limit"] - (options["limit"] % len(classes) if options["balance"] else 0)
    writer = Writer(
        journal,
        classes=classes,
        multi_label=multi_label,
        size=options["size"],
        shard_size=options["shard_size"],
        limit=limit,
        strict=options["strict"],
        on_shard=on_shard,
    )
    try:
        _run(source, options, writer, num_workers=num_workers)
        return writer.finish(plan["provenance"])
    except BaseException:
        if not journal.records:
            journal.remove()  # nothing is lost
        raise
    finally:
        journal.close()


def _run(source: Source, options: Options, writer: Writer, *, num_workers: int) -> None:
    def wants(split: str) -> bool:
        return (not options["split"] or split in options["split"]) and not writer.is_full(split)

    full_options = {**options, "wants": wants}
    done = writer.next_groups()
    if done and source.resume and not options["balance"]:  # then a group is an item
        items, first = source.resume(full_options, done), done
    else:
        items, first = source.build(full_options), {}
    groups = select(
        _until_full(items, options["split"], writer),
        classes=writer.classes,
        multi_label=writer.multi_label,
        balance=options["balance"],
        # A full split goes on being counted where items of it are numbered anew: it is the writer that drops them.
        wants=wants,
        first=first,
    )
    pending = (group for group in groups if group.index >= done.get(group.split, 0))
    for group, images in decode(pending, size=options["size"], crop=options["crop"], num_workers=num_workers):
        writer.add(group, images)


def _until_full(items: Iterator[Item], splits: Sequence[str], writer: Writer) -> Iterator[Item]:
    """Stop when all the splits asked for are full."""
    for item in items:
        yield item
        if splits and all(writer.is_full(split) for split in splits):
            return


def _plan(source: Source, options: Options, *, classes: tuple[str, ...], multi_label: bool) -> dict[str, Any]:
    """Return all that the bytes of the dataset depend on, as JSON can hold it."""
    provenance = {
        "source": source.name,
        "options": {name: list(v) if isinstance(v, tuple) else v for name, v in options.items()},
        "tinyclf": __version__,
        **source.provenance(options),
    }
    provenance["options"] = {k: str(v) if isinstance(v, Path) else v for k, v in provenance["options"].items()}
    return {
        "format": VERSION,
        "options": provenance["options"],
        "provenance": provenance,
        "classes": list(classes),
        "multi_label": multi_label,
    }


def _finished(out: Path, plan: dict[str, Any], *, resume: bool) -> Manifest:
    """Return the manifest of a build that was killed after its last step, or that is resumed once more than needed."""
    file = out / FILE_NAME
    if resume and file.is_file():
        manifest = parse_manifest(file.read_bytes())
        if manifest.provenance == plan["provenance"]:
            left = partial_folder(out)
            if left.exists() and not (left / DATASET).exists():
                shutil.rmtree(left)
            return manifest
    raise BadInput(f"{out}: exists already: remove it, or choose another --out")


def _check_options(options: Options, *, classes: tuple[str, ...], multi_label: bool, num_workers: int) -> None:
    for name, value, least, most in (
        ("size", options["size"], 1, 4096),
        ("limit", options["limit"], 0, None),
        ("shard-size", options["shard_size"], 1, None),
        ("seed", options["seed"], 0, None),
        ("num-workers", num_workers, 1, 256),
    ):
        if value < least or (most and value > most):
            raise BadInput(f"--{name} {value}: must be {least} " + (f"to {most}" if most else "or more"))
    if options["crop"] not in CROPS:
        raise BadInput(f"--crop {options['crop']}: choose one of {', '.join(CROPS)}")
    if not classes or len(set(classes)) != len(classes) or not all(classes):
        raise BadInput("the source has no class names, an empty one, or one twice")
    if options["balance"] and multi_label:
        raise BadInput("--balance: an image with several labels belongs to no one class: leave it out")
    if options["balance"] and 0 < options["limit"] < len(classes):
        raise BadInput(f"--limit {options['limit']} with --balance: there are {len(classes)} classes")
