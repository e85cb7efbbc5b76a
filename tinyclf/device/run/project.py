"""A project is written to a folder whole: beside it first, then renamed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tinyclf.base.errors import BadInput

Content = bytes | Callable[[Path], object]  # of a file: its bytes, or what writes them to a path


def write_project(files: Mapping[str, Content], out: Path) -> None:
    """Write a project to the folder `out`; one that an earlier call wrote is replaced, anything else is refused.

    The files are written beside `out` and renamed at the end; an old project is deleted when the new one stands.
    """
    if out.exists() and not (out / "trace.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} exists and is not a project that tinyclf wrote: choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        fresh.chmod(0o755)
        for name, content in files.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                content(path)
        _put_in_place(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _put_in_place(fresh: Path, out: Path) -> None:
    """Rename `fresh` to `out`; what stood there is gone only when that is done."""
    if not out.exists():
        fresh.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    out.rename(old)
    try:
        fresh.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
