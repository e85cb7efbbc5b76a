"""The device's files in C and Python: order, samples, weights; the C readers on sound and broken files, sanitized."""

from __future__ import annotations

import ctypes
import json
import re
import struct
import subprocess
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from tests.kit.paths import LIBRARY, ROOT
from tinyclf.base.errors import BadInput, ToolFailed
from tinyclf.device.run.files import (
    REFUSALS,
    Samples,
    SamplesFile,
    TrainedTensor,
    WeightsHeader,
    number_of,
    read_features,
    read_log,
    read_weights,
    samples_file_bytes,
    shuffled,
)
from tinyclf.device.run.training import net_number
from tinyclf.device.targets.elf import read_elf
from tinyclf.device.targets.results import read_results
from tinyclf.jobs.training import _check_belongs
from tinyclf.recipe.variant import Variant

FUZZ = ROOT / "tests" / "library" / "fuzz"
SEEDS = sorted((FUZZ / "seeds").iterdir())
pytestmark = pytest.mark.target("host")


def _compile(out: Path, *arguments: str) -> Path:
    harness = [FUZZ / "device_files.c", LIBRARY / "src" / "run" / "tcl_files.c"]
    folders = [f"-I{LIBRARY / 'include'}"]
    command = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-g", "-DNUM_CORES=1", *arguments, *folders, *harness]
    done = subprocess.run([*command, "-o", out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Return tcl_files.c as a shared library."""
    return ctypes.CDLL(str(_compile(tmp_path_factory.mktemp("c") / "files.so", "-shared", "-fPIC")))


@pytest.mark.parametrize("num", [1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097])
def test_the_order_is_a_permutation_and_the_same_in_c(library: ctypes.CDLL, num: int) -> None:
    library.tcl_shuffled.restype = ctypes.c_uint64
    library.tcl_shuffled.argtypes = [ctypes.c_uint64] * 4
    for seed, epoch in ((0, 0), (0, 1), (7, 3), (2**63 + 5, 2**40)):
        order = shuffled(num, seed=seed, epoch=epoch)
        assert sorted(order) == list(range(num))
        assert order.tolist() == [library.tcl_shuffled(i, num, seed, epoch) for i in range(num)]


def test_orders_differ_and_look_random() -> None:
    orders = [shuffled(1000, seed=s, epoch=e) for s in range(10) for e in range(10)]
    assert len({o.tobytes() for o in orders}) == len(orders)
    # In a random order each position holds every index equally often: the mean of 100 draws of 0 .. 999 has a
    # standard deviation of 28.9, so that of 1000 means the largest is rarely more than 4.5 of them away.
    assert np.abs(np.mean(orders, axis=0) - 499.5).max() < 4.5 * 28.9
    neighbours = np.mean([np.mean(np.abs(np.diff(o))) for o in orders])
    assert neighbours == pytest.approx(1000 / 3, rel=0.02)


def test_crc_is_zlibs(library: ctypes.CDLL) -> None:
    library.tcl_crc32.restype = ctypes.c_uint32
    library.tcl_crc32.argtypes = [ctypes.c_uint32, ctypes.c_char_p, ctypes.c_size_t]
    for content in (b"", b"123456789", bytes(range(256)) * 3):
        assert library.tcl_crc32(0, content, len(content)) == zlib.crc32(content)
        half = library.tcl_crc32(0, content[:5], len(content[:5]))
        assert library.tcl_crc32(half, content[5:], len(content[5:])) == zlib.crc32(content)


def test_every_refusal_of_the_c_reader_has_words() -> None:
    header = (LIBRARY / "include" / "tcl_files.h").read_text()
    codes = {int(code) for code in re.findall(r"^    TCL_\w+ = (\d+)", header, re.MULTILINE)}
    assert codes - {0, 11} == set(REFUSALS)  # 0: accepted; 11: no slot, which is no refusal


def test_the_samples_file_is_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((3, 1, 2, 3)).astype(np.float32)
    samples = SamplesFile(Samples(images[:2], np.array([1, 0]), images[2:], np.array([3])), num_classes=4)
    samples.write(tmp_path / "s")
    content = (tmp_path / "s").read_bytes()
    assert content[:4] == b"TCLD"
    assert struct.unpack_from("<5I2Q", content, 4) == (1, 1, 2, 3, 4, 2, 1)
    assert struct.unpack_from("<Q", content, 40)[0] == number_of(content[64:], 2, 1)
    assert struct.unpack_from("<I", content, 60)[0] == zlib.crc32(content[:60])
    assert len(content) == samples_file_bytes(3, (1, 2, 3)) == 64 + 3 * (24 + 8)
    third = content[64 + 2 * 32 :]
    np.testing.assert_array_equal(np.frombuffer(third, "<f4", 6), images[2].ravel())
    assert struct.unpack_from("<II", third, 24) == (3, zlib.crc32(third[:28]))
    for at_once in (1, 33, 64):
        monkeypatch.setattr("tinyclf.device.run.files._PIECE_BYTES", at_once)
        assert b"".join(samples.pieces()) == content
    assert samples.is_in(tmp_path / "s")
    for other in (content[:-1], content + b"x", content[:70] + b"x" + content[71:], b""):
        (tmp_path / "other").write_bytes(other)
        assert not samples.is_in(tmp_path / "other")
    assert not samples.is_in(tmp_path / "nothing")


# --- weights and log --------------------------------------------------------------------------------------------------


def _weights() -> bytes:
    tensors = (TrainedTensor("a.weight", (2, 3), 0), TrainedTensor("a.bias", (2,), 32))
    header = WeightsHeader(net=5, source=6, trained=Variant("FT", 1), tensors=tensors, num_bytes=48)
    content = header.to_bytes() + np.arange(12, dtype="<f4").tobytes()
    return content + struct.pack("<I", zlib.crc32(content))


def test_weights_come_back(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(_weights())
    header, values = read_weights(tmp_path / "w")
    assert (header.net, header.source, header.trained) == (5, 6, Variant("FT", 1))
    np.testing.assert_array_equal(values["a.weight"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(values["a.bias"], [8, 9])


def test_broken_weights_are_refused_in_one_line(tmp_path: Path) -> None:
    whole = _weights()
    rng = np.random.default_rng(3)
    broken = [(whole[:n], "weights.bin|is cut") for n in range(len(whole))]
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        broken.append((bytes(changed), "is (no|of version|cut|damaged)"))
    broken += [(b"PK" + whole[2:], "is no weights file"), (whole + b"x", "longer than it says")]
    broken += [(whole[:4] + b"\x02" + whole[5:], "is of version 2 of the format"), (whole[:-9], "is cut")]
    for about in ("{", "[]", '{"net": "zz"}', '{"net":"1","source":"1","variant":"FT","k":1,"tensors":[{}]}'):
        text = about.encode()
        content = struct.pack("<4sIII", b"TCLW", 1, len(text), 4) + text + bytes(4)
        broken.append((content + struct.pack("<I", zlib.crc32(content)), "makes no sense"))
    far = json.loads(whole[16 : 16 + struct.unpack_from("<I", whole, 8)[0]])
    for offset in (44, 4096, -4):
        far["tensors"][1]["offset"] = offset
        text = json.dumps(far).encode()
        content = struct.pack("<4sIII", b"TCLW", 1, len(text), 48) + text + bytes(48)
        broken.append((content + struct.pack("<I", zlib.crc32(content)), "makes no sense"))
    for content, message in broken:
        (tmp_path / "w").write_bytes(content)
        with pytest.raises(BadInput, match=message) as refusal:
            read_weights(tmp_path / "w")
        assert len(str(refusal.value).splitlines()) == 1


# Values that JSON can hold and a description should not; written as they stand.
_WEIRD = (
    *("null", "true", "-1", "0", "1", "3", "49", "1.5", "1e999", "-1e999", "NaN", "1e-320"),
    *(str(2**31), str(2**63), str(2**64), str(2**70), "9" * 5000),
    *('""', '"0"', '"zz"', '"FT"', '"a.weight"', '"\\u0000\\n"', "[]", "[0]", "[[]]", "{}", '{"name": 1}'),
    *("[1, 1]", f"[{2**62}, 4]", "[4294967296, 4294967296]", f"[{', '.join(['1'] * 100)}]", "[" * 20000),
)


def _places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the places in a JSON value, itself first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in _places(part, (*path, key)))]


def _with(value: Any, path: tuple[str | int, ...], text: str) -> str:
    """Return JSON with `text` at a place."""
    if not path:
        return text
    changed: Any = json.loads(json.dumps(value))
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = "HERE"
    return json.dumps(changed).replace('"HERE"', text)


def _whole(about: str, num_bytes: int = 48) -> bytes:
    """Return a weights file with the description `about`, whose CRC is right."""
    content = struct.pack("<4sIII", b"TCLW", 1, len(about.encode()), num_bytes) + about.encode()
    content += np.arange(num_bytes // 4, dtype="<f4").tobytes()
    return content + struct.pack("<I", zlib.crc32(content))


def _net() -> nn.Sequential:
    return nn.Sequential(OrderedDict(a=nn.Linear(3, 2)))


def test_weights_with_any_description_are_read_or_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyclf.jobs.training.source_number", lambda run: 6)
    seed = 31
    rng = np.random.default_rng(seed)
    tensors = (TrainedTensor("a.weight", (2, 3), 0), TrainedTensor("a.bias", (2,), 32))
    trained = Variant("layers", 1, ("a*",), True, (("a", 0.5),))
    header = WeightsHeader(net_number(_net()), 6, trained, tensors, 48)
    about = json.loads(header.to_bytes()[16:])
    texts = [_with(about, place, weird) for place in _places(about) for weird in _WEIRD]
    whole = json.dumps(about)
    for _ in range(500):
        changed = list(whole)
        for _ in range(int(rng.integers(1, 4))):
            changed[int(rng.integers(len(changed)))] = chr(int(rng.choice([*range(32, 127), 0, 9, 233, 0x20AC])))
        texts.append("".join(changed))
    num_read, num_fitting, refusals = 0, 0, []
    for text in texts:
        (tmp_path / "w").write_bytes(_whole(text))
        try:
            found, values = read_weights(tmp_path / "w")
            num_read += 1
            assert all(values[t.name].shape == t.shape for t in found.tensors)
            _check_belongs(found, _net(), run=tmp_path, file=tmp_path / "w")
            num_fitting += 1
            assert {n: v.shape[1:] for n, v in values.items()} == {"a.weight": (3,), "a.bias": ()}
        except BadInput as refusal:
            refusals.append(str(refusal))
    assert not [text for text in refusals if len(text.splitlines()) != 1], f"seed {seed}"
    assert num_fitting < num_read < len(texts) // 2, "most changes are seen"
    assert num_fitting > 10, "what does not matter is let through"


def test_weights_that_lack_a_trained_tensor_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyclf.jobs.training.source_number", lambda run: 6)
    tensors = (TrainedTensor("a.weight", (2, 3), 0), TrainedTensor("a.bias", (2,), 32))
    header = WeightsHeader(net_number(_net()), 6, Variant("LP"), tensors, 48)
    _check_belongs(header, _net(), run=tmp_path, file=tmp_path)
    for wrong in (tensors[:1], (*tensors, TrainedTensor("b", (1,), 0)), (tensors[0], TrainedTensor("a.bias", (), 32))):
        with pytest.raises(BadInput, match="weights of another net"):
            _check_belongs(replace(header, tensors=wrong), _net(), run=tmp_path, file=tmp_path)


def test_readers_survive_random_changes(tmp_path: Path) -> None:
    seed = 32
    rng = np.random.default_rng(seed)
    project = tmp_path / "p"
    (project / "build").mkdir(parents=True)
    (project / "trace.json").write_text('[{"tensor": "x", "shape": [2, 1]}]')
    log = b"".join(struct.pack("<QfIQ", i + 1, i / 2, 0, 100 + i) for i in range(5))
    features = b"".join(struct.pack("<Qf3bx", i + 1, i / 2, i, -i, 127) for i in range(3))
    step = struct.pack("<iiQff", 0, 2, 0, 1.0, 2.0) + struct.pack("<iiQQ", -1, 2, 0, 5)
    results = step + struct.pack("<iiQff", 0, 2, 1, 1.0, 2.0) + struct.pack("<iiQQ", -1, 2, 1, 5)
    results += struct.pack("<iiQ", -2, 0, 2)
    elf = _tiny_elf()
    readers: dict[str, tuple[bytes, Callable[[Path], object]]] = {
        "log": (log, lambda file: read_log(file, num_steps=3)),
        "features": (features, lambda file: read_features(file, num_samples=3, sizes=(3,))),
        "elf": (elf, read_elf),
        "results.bin": (results, lambda file: read_results(project)),
    }
    for name, (whole, read) in readers.items():
        file = project / "build" / name
        file.write_bytes(whole)
        read(file)
        refusals = []
        for number in range(500):
            content = bytearray(whole)
            for _ in range(int(rng.integers(1, 4))):
                size = int(rng.choice([1, 4, 8]))
                place = int(rng.integers(max(len(content) - size, 1)))
                weird = int(rng.choice([0, 1, 2, 0x7F, 0x80, 0xFF])).to_bytes(1, "little") * size
                content[place : place + size] = weird if number % 2 else rng.bytes(size)
            file.write_bytes(content[: int(rng.integers(len(content)))] if number % 5 == 0 else content)
            try:
                read(file)
            except (BadInput, ToolFailed) as refusal:
                refusals.append(str(refusal))
        assert not [text for text in refusals if len(text.splitlines()) != 1], f"seed {seed}"
        assert len(refusals) > 100, name


def _tiny_elf() -> bytes:
    """Return an ELF file of 64 bits with names, a section of code, and a table of one symbol."""
    names = b"\0.text\0main\0"
    symbols = struct.pack("<IBBHQQ", 7, 0, 0, 1, 0, 16)
    sections = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (1, 1, 6, 0x1000, 64, 16, 0, 0, 16, 0),
        (1, 3, 0, 0, 80, len(names), 0, 0, 1, 0),
        (1, 2, 0, 0, 96, len(symbols), 2, 0, 8, 24),
    ]
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQI6H", 2, 243, 1, 0, 0, 120, 0, 64, 0, 0, 64, 4, 2
    )
    body = head.ljust(80, b"\0") + names.ljust(16, b"\0") + symbols
    return body + b"".join(struct.pack("<IIQQQQIIQQ", *section) for section in sections)


def test_a_section_that_lies_nowhere_is_refused(tmp_path: Path) -> None:
    whole = _tiny_elf()
    (tmp_path / "elf").write_bytes(whole)
    elf = read_elf(tmp_path / "elf")
    assert ([s.name for s in elf.sections], elf.symbol_bytes) == ([".text"], {"main": 16})
    (tmp_path / "elf").write_bytes(whole[: 120 + 2 * 64 + 24] + b"\xff" * 8 + whole[120 + 2 * 64 + 32 :])
    with pytest.raises(BadInput, match="the ELF file is cut or damaged"):
        read_elf(tmp_path / "elf")


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    content = bytearray(_weights()[:-4])
    content[-48:-44] = struct.pack("<f", float("nan"))
    (tmp_path / "w").write_bytes(bytes(content) + struct.pack("<I", zlib.crc32(bytes(content))))
    with pytest.raises(BadInput, match="has diverged"):
        read_weights(tmp_path / "w")


def test_a_log_with_a_hole_is_refused(tmp_path: Path) -> None:
    entries = [struct.pack("<QfIQ", i + 1, i / 2, 0, 100 + i) for i in range(5)]
    (tmp_path / "log").write_bytes(b"".join(entries))
    log = read_log(tmp_path / "log", num_steps=3)
    assert log.losses.tolist() == [0.5, 1.0, 1.5]
    assert log.cycles.tolist() == [101, 102, 103]
    for content in (b"".join(entries[:4]), b"".join([*entries[:2], bytes(24), *entries[3:]]), b""):
        (tmp_path / "log").write_bytes(content)
        with pytest.raises(BadInput, match="does not hold the 5 entries"):
            read_log(tmp_path / "log", num_steps=3)


def test_features_come_back_or_are_refused(tmp_path: Path) -> None:
    rows = [struct.pack("<Qf3bxfb3x", i + 1, i / 2, i, -i, 127, 0.25, -i) for i in range(3)]
    (tmp_path / "f").write_bytes(b"".join(rows))
    (scales, codes), (others, single) = read_features(tmp_path / "f", num_samples=3, sizes=(3, 1))
    assert scales.tolist() == [0, 0.5, 1]
    assert codes.tolist() == [[0, 0, 127], [1, -1, 127], [2, -2, 127]]
    assert (others.tolist(), single.tolist()) == ([0.25] * 3, [[0], [-1], [-2]])
    for content in (b"".join(rows[:2]), rows[0] + bytes(24) + rows[2], b"".join(rows)[:-1], b""):
        (tmp_path / "f").write_bytes(content)
        with pytest.raises(BadInput, match="does not hold the features of 3 samples"):
            read_features(tmp_path / "f", num_samples=3, sizes=(3, 1))


def test_numbers_name_parts_not_their_concatenation() -> None:
    assert number_of("ab", "c") != number_of("a", "bc")
    assert number_of("a", 1) == number_of("a", "1") < 2**64


# --- the C readers on broken files ------------------------------------------------------------------------------------


def test_c_readers_survive_the_fuzzers_seeds(tmp_path: Path) -> None:
    assert len(SEEDS) >= 25
    replay = _compile(tmp_path / "replay", "-DREPLAY", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover")
    done = subprocess.run([replay, *SEEDS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == f"{len(SEEDS)} inputs\n"


def test_c_readers_survive_random_changes(tmp_path: Path) -> None:
    seed = 11
    rng = np.random.default_rng(seed)
    for number in range(1500):
        content = bytearray(SEEDS[number % len(SEEDS)].read_bytes())
        for _ in range(int(rng.integers(1, 6))):
            place = int(rng.integers(len(content)))
            content[place] = int(rng.integers(256))
        (tmp_path / f"{number:04}").write_bytes(
            content[: int(rng.integers(1, len(content) + 1))] if number % 5 == 0 else content
        )
    inputs = sorted(tmp_path.iterdir())
    replay = _compile(tmp_path / "replay", "-DREPLAY", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover")
    done = subprocess.run([replay, *inputs], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-2000:]}"
