"""Several processes: the same weights as one with twice the batch, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.kit.sessions import made_once
from tinyclf.base.errors import BadInput
from tinyclf.workstation.runs.config import config_from
from tinyclf.workstation.runs.directory import read_rows
from tinyclf.workstation.training.loop import resume, train
from tinyclf.workstation.training.parallel import GlobalBatchNorm2d, make_fabric, synchronise_batchnorm


@pytest.fixture(scope="module")
def start(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = config_from(options={"data": digits_dir, "epochs": 2, "threads": 1})
    return made_once(tmp_path_factory, "start", lambda folder: train(config, out=folder / "run")) / "run"


def torchrun(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=300)


@pytest.mark.parametrize(
    ("variant", "more"),
    [
        ("LP", []),
        # Training layers below others amplifies rounding: of all of a net, a difference of 1e-14 in one weight grows
        # tenfold in a step. So these are compared in double precision, all of it over few steps from trained weights.
        pytest.param("FT", ["keep_features=off", "augment=", "precision=64"], marks=pytest.mark.long),
        pytest.param("full", ["precision=64", "batch_size=128"], marks=pytest.mark.long),
    ],
)
def test_two_processes_are_one_with_twice_the_batch(
    variant: str, more: list[str], digits_dir: Path, start: Path, tmp_path: Path
) -> None:
    given = [f"variant={variant}", f"from_run={start}", f"data={digits_dir}", "epochs=2", "lr=0.01", "threads=1"]
    whole = {key: value for key, _, value in (text.partition("=") for text in ["batch_size=64", *given, *more])}
    half = whole | {"batch_size": str(int(whole["batch_size"]) // 2)}
    one = train(config_from(overrides=[f"{k}={v}" for k, v in whole.items()]), out=tmp_path / "one")
    done = torchrun("-m", "tinyclf", "train", *[f"{k}={v}" for k, v in half.items()], "--out", "two", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/2") == 1, "one process speaks"
    assert "processes: 2" in done.stdout
    first, second = load_file(one / "last.safetensors"), load_file(tmp_path / "two" / "last.safetensors")
    for name, tensor in first.items():
        scale = max(1.0, float(tensor.abs().max()))
        assert float((tensor - second[name]).abs().max()) <= 1e-5 * scale, name
    for a, b in zip(read_rows(one), read_rows(tmp_path / "two"), strict=True):
        assert (a.train_loss, a.val_loss) == pytest.approx((b.train_loss, b.val_loss), rel=1e-4)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["world"] == 2


def test_two_processes_go_on_where_they_were_stopped(digits_dir: Path, start: Path, tmp_path: Path) -> None:
    """The state that the first process saves is that of all."""
    common = [f"from_run={start}", f"data={digits_dir}", "epochs=2", "threads=1", "variant=LP", "save_steps=7"]
    for name in ("whole", "parts"):
        done = torchrun("-m", "tinyclf", "train", *common, "--out", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    code = (
        "import sys; from pathlib import Path; from tinyclf.workstation.training import loop\n"
        "steps = [0]\n"
        "def stop():\n"
        "    steps[0] += 1\n"
        "    return steps[0] >= 9\n"
        "from tinyclf.workstation.runs.config import config_from; from tinyclf.base.errors import Interrupted\n"
        "try: loop.train(config_from(overrides=sys.argv[2:]), out=Path(sys.argv[1]), should_stop=stop)\n"
        "except Interrupted: sys.exit(0)\n"
    )
    (tmp_path / "stop.py").write_text(code)
    done = torchrun("stop.py", "cut", *common, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = torchrun("-m", "tinyclf", "train", "--resume", "cut", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "going on in epoch 1 after step 9" in done.stdout
    whole = load_file(tmp_path / "whole" / "last.safetensors")
    cut = load_file(tmp_path / "cut" / "last.safetensors")
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())
    with pytest.raises(BadInput, match=r"the run began with 2 process\(es\), now there are 1: go on with as many"):
        resume(tmp_path / "cut")


@pytest.fixture
def alone(tmp_path: Path) -> object:
    """Join a group of one process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_batchnorm_over_processes_is_batchnorm(alone: object) -> None:
    generator = torch.Generator().manual_seed(0)
    plain, ours = (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).double() for _ in range(2))
    ours.load_state_dict(plain.state_dict())
    synchronise_batchnorm(ours)
    assert isinstance(ours[1], GlobalBatchNorm2d)
    for _ in range(3):
        images = torch.randn(5, 3, 4, 4, generator=generator, dtype=torch.float64)
        weights = torch.randn(5, 4, 4, 4, generator=generator, dtype=torch.float64)
        results = []
        for net in (plain, ours):
            inputs = images.clone().requires_grad_()
            net.zero_grad()
            output = net(inputs)
            (output * weights).sum().backward()
            results.append([output, inputs.grad, *(p.grad for p in net.parameters()), *net.buffers()])
        for a, b in zip(*results, strict=True):
            assert torch.allclose(a.double(), b.double(), atol=1e-12)
    assert torch.allclose(plain.eval()(images), ours.eval()(images))


def test_devices_that_are_not_there() -> None:
    for overrides in (["accelerator=cuda"], ["accelerator=abacus"], ["devices=none"]):
        with pytest.raises(BadInput, match="cannot be used here") as caught:
            make_fabric(config_from(overrides=overrides))
        assert len(str(caught.value).splitlines()) == 1
