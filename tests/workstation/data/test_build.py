"""Building: killed or interrupted, in one process or several, a build gives the same bytes; selection and options."""

from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from tinyclf import cli
from tinyclf.base.errors import BadInput
from tinyclf.base.resources import resource_dir
from tinyclf.workstation.data import (
    Item,
    Source,
    build_dataset,
    build_from,
    check_dataset,
    load_source,
    open_dataset,
    source_names,
)

PLUG_IN = '''"""Noisy squares from a plug-in."""
import io, os, time
import numpy as np
from PIL import Image
from tinyclf.workstation.data import Item

OPTIONS = {"num": (90, "How many."), "pause": (0.0, "Seconds per image."), "corrupt": (False, "Break some."),
           "mark": ((), "Names.")}

def classes(options):
    return ["cat", "dog", "owl"]

def make(options):
    """Squares, one by one."""
    rng = np.random.default_rng(options["seed"])
    for index in range(options["num"]):
        time.sleep(options["pause"])
        pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        content = stream.getvalue()
        if options["corrupt"] and index % 10 == 3:
            content = content[: len(content) // 2]
        split = "train" if index % 4 else "test"
        yield Item(split, content, index * index // 3 % 3, {"even": index % 2, "number": index}, f"square {index}")
'''
PLUG_IN_NAME = "noisy_squares:make"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a folder that has a plug-in."""
    (tmp_path / "noisy_squares.py").write_text(PLUG_IN)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("noisy_squares", None)


def build(out: str, **given: Any) -> Path:
    how = {name: given.pop(name) for name in ("resume", "num_workers") if name in given}
    build_dataset(PLUG_IN_NAME, out=Path(out), options={"size": 16, "shard_size": 7, **given}, **how)
    return Path(out)


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def numbers(folder: Path, split: str) -> list[int]:
    numbers: list[int] = open_dataset(folder).split(split).tags["number"].tolist()
    return numbers


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli.main, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


# --- interrupted ------------------------------------------------------------------------------------------------------


def command(out: Path, *more: str) -> list[str]:
    options = ["--size", "16", "--shard-size", "7", "--num", "240", "--corrupt", "--pause", "0.003", *more]
    return [sys.executable, "-m", "tinyclf", "data", "build", PLUG_IN_NAME, "--out", str(out), *options]


@pytest.mark.parametrize("more", [(), ("--balance", "--num-workers", "2")], ids=["plain", "balanced, two workers"])
def test_killed_at_random_moments(folder: Path, more: tuple[str, ...]) -> None:
    """TINYCLF_KILLS=20 kills more often; the moments come from TINYCLF_SEED, which is printed."""
    seed, kills = int(os.environ.get("TINYCLF_SEED", time.time_ns() % 10**6)), int(os.environ.get("TINYCLF_KILLS", 4))
    print(f"seed {seed}")
    rng = random.Random(seed)
    undisturbed, out = folder / "undisturbed", folder / "out"
    begin = time.monotonic()
    subprocess.run(command(undisturbed, *more), check=True, capture_output=True)
    whole = time.monotonic() - begin
    killed = attempts = 0
    while killed < kills and attempts < 4 * kills:  # a build that ended before the signal does not count
        attempts += 1
        process = subprocess.Popen(
            command(out, "--resume", *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        # While it writes: from when the interpreter is up. What is resumed ends sooner.
        time.sleep(rng.uniform(0.35, 0.95) * whole)
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert process.returncode in (0, -signal.SIGKILL), errors
        if out.exists():
            check_dataset(out)
            assert hashes(out) == hashes(undisturbed), f"seed {seed}"
            for file in out.iterdir():  # and from the beginning
                file.unlink()
            out.rmdir()
    done = subprocess.run(command(out, "--resume", *more), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert killed == kills, f"seed {seed}: only {killed} of {attempts} builds were killed"
    assert hashes(out) == hashes(undisturbed), f"seed {seed}"
    check_dataset(out)
    assert not list(folder.glob(".out*"))


class Stop(Exception):
    pass


def stopping(source: Source, after: int) -> Source:
    """Return `source`, which breaks after so many items."""

    def items(options: dict[str, Any]) -> Iterator[Item]:
        for index, item in enumerate(source.build(options)):
            if index == after:
                raise Stop
            yield item

    return Source(source.name, source.doc, source.options, source.classes, items)


@pytest.mark.parametrize("after", [1, 20, 55, 89])
@pytest.mark.parametrize(
    "given", [{}, {"balance": True}, {"limit": 20}, {"balance": True, "limit": 20, "corrupt": True, "shard_size": 4}]
)
def test_resumed_where_it_stopped(folder: Path, after: int, given: dict[str, Any]) -> None:
    expected = hashes(build("undisturbed", **given))
    source = load_source(PLUG_IN_NAME)
    options = source.complete({"size": 16, "shard_size": 7, **given})
    try:
        build_from(stopping(source, after), options, out=Path("out"))
    except Stop:
        assert not Path("out").exists()
        assert Path(".out.partial").exists() == (after > 10), "without a finished shard nothing is left"
    build("out", resume=True, **given)
    assert hashes(Path("out")) == expected
    assert not Path(".out.partial").exists()


def stopped(folder: Path, after: int = 60) -> Path:
    source = load_source(PLUG_IN_NAME)
    with pytest.raises(Stop):
        build_from(stopping(source, after), source.complete({"size": 16, "shard_size": 7}), out=folder / "out")
    return folder / ".out.partial"


def test_an_unfinished_build_is_not_overwritten(folder: Path) -> None:
    partial = stopped(folder)
    with pytest.raises(
        BadInput, match=r"out: an earlier build did not finish: go on with --resume, or remove .*partial"
    ):
        build("out")
    with pytest.raises(BadInput, match=r"was begun with --seed 0, now it is 1: repeat the first command, or remove"):
        build("out", resume=True, seed=1)
    assert len((partial / "journal.jsonl").read_text().splitlines()) > 5


@pytest.mark.parametrize("damage", ["torn", "garbage", "flipped shard", "missing shard", "stray", "empty", "no folder"])
def test_what_is_damaged_is_made_again(folder: Path, damage: str) -> None:
    expected = hashes(build("undisturbed"))
    partial = stopped(folder)
    journal, shard = partial / "journal.jsonl", partial / "dataset" / "train-00001.npy"
    if damage == "torn":
        journal.write_bytes(journal.read_bytes()[:-20])
    elif damage == "garbage":
        journal.write_bytes(journal.read_bytes() + b"\0" * 40)
    elif damage == "flipped shard":
        raw = bytearray(shard.read_bytes())
        raw[-1] ^= 1
        shard.write_bytes(raw)
    elif damage == "missing shard":
        shard.unlink()
    elif damage == "stray":
        (partial / "dataset" / "train-00099.npy").write_bytes(b"x")
    elif damage == "empty":
        journal.write_bytes(b"")
    else:
        for file in (partial / "dataset").iterdir():
            file.unlink()
        (partial / "dataset").rmdir()
    build("out", resume=True)
    assert hashes(folder / "out") == expected


def test_resuming_a_finished_build_changes_nothing(folder: Path) -> None:
    before = hashes(build("out"))
    (folder / ".out.partial").mkdir()  # killed between the last rename and the tidying
    build("out", resume=True)
    assert hashes(Path("out")) == before
    assert not (folder / ".out.partial").exists()
    for given in ({"resume": True, "seed": 1}, {}):
        with pytest.raises(BadInput, match="out: exists already"):
            build("out", **given)


def test_two_builds_at_once(folder: Path) -> None:
    source = load_source(PLUG_IN_NAME)
    options = source.complete({"size": 16})

    def items(options: dict[str, Any]) -> Iterator[Item]:
        with pytest.raises(BadInput, match="another process is building it"):
            build_from(source, options, out=Path("out"), resume=True)
        yield from source.build(options)

    build_from(Source(source.name, "", source.options, source.classes, items), options, out=Path("out"))
    check_dataset(Path("out"))


def test_a_source_that_can_pass_over_items_is_asked_to(folder: Path) -> None:
    expected = hashes(build("undisturbed"))
    stopped(folder)
    source, asked = load_source(PLUG_IN_NAME), {}

    def resume(options: dict[str, Any], done: Any) -> Iterator[Item]:
        asked.update(done)
        left = dict(done)
        for item in source.build(options):
            left[item.split] = left.get(item.split, 0) - 1
            if left[item.split] < 0:
                yield item

    again = Source(source.name, "", source.options, source.classes, source.build, resume=resume)
    build_from(again, source.complete({"size": 16, "shard_size": 7}), out=Path("out"), resume=True)
    assert asked == {"train": 42, "test": 14}
    assert hashes(Path("out")) == expected


# --- several processes ------------------------------------------------------------------------------------------------


def test_workers_give_the_same_bytes(folder: Path) -> None:
    given = {"corrupt": True, "limit": 50, "balance": True}
    assert hashes(build("one", **given)) == hashes(build("two", num_workers=2, **given))


def test_an_error_in_a_worker(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"square 3: cannot be read \(OSError"):
        build("out", corrupt=True, strict=True, num_workers=2)
    assert sorted(file.name for file in folder.iterdir() if file.name.startswith((".out", "out"))) == []


# --- selection --------------------------------------------------------------------------------------------------------


def test_limit(folder: Path) -> None:
    everything = build("all")
    for limit in (1, 7, 8, 20):
        out = build(f"limit{limit}", limit=limit)
        for split in ("train", "test"):
            assert numbers(out, split) == numbers(everything, split)[:limit]
        check_dataset(out)
    assert open_dataset(build("much", limit=10**6)).manifest.counts == open_dataset(everything).manifest.counts


def test_balance(folder: Path) -> None:
    counts = open_dataset(build("all")).manifest.counts
    assert any(len(set(row)) > 1 for row in counts.values())


def labelled(labels: list[int], *, split: str = "train") -> Source:
    items = [Item(split, np.full((8, 8, 3), i, np.uint8), label, {"n": i}) for i, label in enumerate(labels)]
    return Source("test", "", {}, classes=lambda _: ["a", "b"], build=lambda _: iter(items))


@pytest.mark.parametrize(
    ("limit", "kept"), [(0, [0, 4, 1, 5, 2, 7]), (4, [0, 4, 1, 5]), (5, [0, 4, 1, 5]), (100, [0, 4, 1, 5, 2, 7])]
)
def test_balance_takes_as_many_of_each(tmp_path: Path, limit: int, kept: list[int]) -> None:
    source = labelled([0, 0, 0, 0, 1, 1, 0, 1])
    manifest = build_from(source, source.complete({"size": 8, "balance": True, "limit": limit}), out=tmp_path / "d")
    assert manifest.counts == {"train": (len(kept) // 2,) * 2}
    assert open_dataset(tmp_path / "d").split("train").tags["n"].tolist() == kept


def test_balance_holds_though_images_are_corrupt(folder: Path) -> None:
    source = labelled([0, 1] * 6)
    items = [
        Item(i.split, b"broken" if n in (2, 7) else i.image, i.label, i.tags, str(n))
        for n, i in enumerate(source.build({}))
    ]
    broken = Source("test", "", {}, source.classes, lambda _: iter(items))
    manifest = build_from(broken, broken.complete({"size": 8, "balance": True}), out=Path("d"))
    assert manifest.counts == {"train": (4, 4)}
    assert [line.split(":")[0] for line in manifest.splits["train"].skipped] == ["2", "7"]


def test_splits_asked_for(folder: Path) -> None:
    assert open_dataset(build("out", split=("test",))).manifest.splits.keys() == {"test"}
    with pytest.raises(BadInput, match="yields no image"):
        build("none", split=("validation",))


def test_corrupt_images_are_listed_or_refused(folder: Path) -> None:
    out = build("out", corrupt=True)
    splits = open_dataset(out).manifest.splits
    listed = {line.split(":")[0] for split in splits.values() for line in split.skipped}
    assert listed == {f"square {index}" for index in range(3, 90, 10)}
    assert set(numbers(out, "train")) | set(numbers(out, "test")) == {i for i in range(90) if i % 10 != 3}
    check_dataset(out)
    with pytest.raises(BadInput, match=r"square 3: cannot be read \(.*\): repair or remove it, or leave out --strict"):
        build("strict", corrupt=True, strict=True)
    shown = run("data", "build", PLUG_IN_NAME, "--out", "cli", "--corrupt", "--size", 16)
    assert "left out, they cannot be read:" in shown.stdout
    assert "square 3: " in shown.stdout


# --- pixels -----------------------------------------------------------------------------------------------------------


def one_image(tmp_path: Path, image: Any, **options: Any) -> NDArray[np.uint8]:
    source = Source("test", "", {}, classes=lambda _: ["a"], build=lambda _: iter([Item("train", image, 0)]))
    build_from(source, source.complete({"size": 16, **options}), out=tmp_path / "d")
    pixels: NDArray[np.uint8] = open_dataset(tmp_path / "d").split("train").gather([0])[0]
    return pixels


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def content(image: Image.Image, kind: str, **how: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_resized_as_pillow_does(tmp_path: Path, kind: str) -> None:
    raw = content(picture(40, 23), kind)
    due = Image.open(io.BytesIO(raw)).convert("RGB").resize((16, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(one_image(tmp_path, raw), np.asarray(due))


def test_the_centre(tmp_path: Path) -> None:
    due = picture(41, 24).crop((8, 0, 32, 24)).resize((16, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(one_image(tmp_path, np.asarray(picture(41, 24)), crop="centre"), np.asarray(due))


def test_the_right_size_is_left_alone(tmp_path: Path) -> None:
    pixels = np.asarray(picture(16, 16))
    assert np.array_equal(one_image(tmp_path, content(picture(16, 16), "PNG")), pixels)
    (tmp_path / "x.png").write_bytes(content(picture(16, 16), "PNG"))
    assert np.array_equal(one_image(tmp_path / "file", tmp_path / "x.png"), pixels)
    assert np.array_equal(one_image(tmp_path / "array", pixels), pixels)


def test_forms_of_image_files(tmp_path: Path) -> None:
    grey = picture(16, 16).convert("L")
    assert np.array_equal(one_image(tmp_path / "l", content(grey, "PNG")), np.asarray(grey.convert("RGB")))
    clear = Image.new("RGBA", (16, 16), (200, 0, 0, 0))
    assert (one_image(tmp_path / "rgba", content(clear, "PNG")) == 255).all(), "what is transparent is white"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = picture(16, 16).transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(one_image(tmp_path / "exif", content(picture(16, 16), "PNG", exif=exif)), np.asarray(turned))


def test_a_missing_file_is_a_corrupt_image(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="none of its 1 images can be read"):
        one_image(tmp_path, tmp_path / "gone.jpg")


# --- sources and options ----------------------------------------------------------------------------------------------


def test_digits(digits_dir: Path) -> None:
    manifest = check_dataset(digits_dir)
    assert (manifest.size, manifest.classes) == (32, tuple("0123456789"))
    assert tuple(manifest.splits) == ("train", "validation", "test")
    assert [manifest.num_images(split) for split in manifest.splits] == [1258, 270, 269]
    for counts in manifest.counts.values():
        assert max(counts) - min(counts) <= 6, "every split holds every digit about equally often"


def test_shifted_digits_are_the_same_digits_turned_inverted_and_noisy(digits_dir: Path, shifted_dir: Path) -> None:
    clean, shifted = open_dataset(digits_dir).split("test"), open_dataset(shifted_dir).split("test")
    assert np.array_equal(clean.labels, shifted.labels)
    dark_on_light = shifted.gather(range(len(shifted)))
    assert clean.gather(range(len(clean))).mean() < 100 < 155 < dark_on_light.mean()
    assert 5 < dark_on_light[:, :3, :3].std() < 40, "noise in the corners, where no ink is"


@pytest.mark.parametrize("shifted", [False, True])
def test_same_seed_same_bytes(tmp_path: Path, digits_dir: Path, shifted_dir: Path, shifted: bool) -> None:
    build_dataset("digits", out=tmp_path / "again", options={"shifted": shifted})
    build_dataset("digits", out=tmp_path / "other", options={"shifted": shifted, "seed": 1})
    first = hashes(shifted_dir if shifted else digits_dir)
    assert hashes(tmp_path / "again") == first
    other = hashes(tmp_path / "other")
    assert all(first[name] != other[name] for name in first if name.endswith(".npy"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 4}, "must be 8 to 512"),
        ({"size": 0}, "--size 0: must be 1 to 4096"),
        ({"seed": -1}, "--seed -1"),
        ({"limit": -1}, "--limit -1: must be 0 or more"),
        ({"shard_size": 0}, "--shard-size 0: must be 1 or more"),
        ({"crop": "round"}, "--crop round: choose one of squash, centre"),
        ({"limit": 9, "balance": True}, "--limit 9 with --balance: there are 10 classes"),
        ({"colour": True}, "has no option 'colour': it has shifted, size"),
    ],
)
def test_options_that_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build_dataset("digits", out=tmp_path / "d", options=options)
    assert list(tmp_path.iterdir()) == []


def test_a_type_for_a_default_means_required() -> None:
    source = Source("x", "", {"path": (str, "Folder.")}, classes=lambda _: [], build=lambda _: iter(()))
    assert source.complete({"path": "a"})["path"] == "a"
    with pytest.raises(BadInput, match="source 'x' needs --path"):
        source.complete({})


def test_a_source_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pale_blank.py").write_text(
        PLUG_IN.replace("def make", "def build").replace("OPTIONS", "SIZE = 8\nOPTIONS")
    )
    monkeypatch.setattr("tinyclf.workstation.data.sources.resource_dir", lambda name: tmp_path)
    assert source_names() == ["pale-blank"]
    manifest = build_dataset("pale-blank", out=tmp_path / "out", options={"num": 8})
    assert (manifest.size, manifest.num_images("train")) == (8, 6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnist", r"unknown source 'mnist': choose one of .*digits.*, or give package\.module:function"),
        ("nowhere:make", r"cannot import nowhere \(ModuleNotFoundError"),
        ("noisy_squares:other", "noisy_squares has no function 'other'"),
        ("textwrap:dedent", "textwrap has no function 'classes'"),
    ],
)
def test_sources_that_are_refused(folder: Path, name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_source(name)


def test_plug_in_on_the_command_line(folder: Path) -> None:
    shown = run("data", "build", PLUG_IN_NAME, "--help")
    assert "Squares, one by one." in shown.output
    assert "--mark" in shown.output
    done = run("data", "build", PLUG_IN_NAME, "--out", "out", "--size", 16, "--num", 12, "--mark", "a", "--mark", "b")
    assert done.exit_code == 0, done.output
    options = check_dataset(Path("out")).provenance["options"]
    assert (options["mark"], options["num"], options["size"]) == (["a", "b"], 12, 16)
    info = run("data", "info", "out").stdout
    assert f"source {PLUG_IN_NAME}" in info
    assert [line.split() for line in info.splitlines() if line.startswith("tag even")] == [
        ["tag", "even", "6", "66.7%", "0", "0.0%"]
    ]


def test_a_contact_sheet(digits_dir: Path, tmp_path: Path) -> None:
    done = run("data", "show", digits_dir, "--out", tmp_path / "sheet.png", "--split", "test", "--max", 10)
    assert done.stdout == f"{tmp_path / 'sheet.png'}: 10 of 269 images of test\n"
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.format == "PNG"
    assert sheet.size == (8 * 100 + 4, 2 * 116 + 4)
    test = open_dataset(digits_dir).split("test")
    first = np.sort(np.random.default_rng([0]).permutation(len(test))[:10])[0]
    shown = np.asarray(sheet)[4 : 4 + 96 : 3, 4 : 4 + 96 : 3]
    assert np.array_equal(shown, test.gather([first])[0])
    for arguments, message in ((("--max", 0), "--max 0"), (("--out", "x.jpg"), "must end in .png")):
        refused = run("data", "show", digits_dir, "--out", tmp_path / "s.png", *arguments)
        assert (refused.exit_code, message in refused.stderr) == (1, True)


def test_git_lfs_takes_the_data_and_nothing_else() -> None:
    attributes = (resource_dir("datasets").parent / ".gitattributes").read_text()
    for suffix in ("npy", "parquet"):
        assert f"datasets/**/*.{suffix} filter=lfs diff=lfs merge=lfs -text" in attributes
