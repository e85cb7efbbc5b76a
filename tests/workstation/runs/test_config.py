"""The configuration: files, overrides and options, what is refused and how, and that it reads back."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tinyclf.base.errors import BadInput
from tinyclf.recipe.variant import VARIANTS, Variant
from tinyclf.workstation.runs.config import DEFAULTS, TrainConfig, config_from, from_dict, resolve, to_dict, to_yaml


def test_defaults() -> None:
    config = config_from()
    assert config == TrainConfig()
    assert config.variant == Variant("scratch")


def test_a_file_then_overrides_then_options(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("lr: 1e-3\nepochs: 5\nbatch-size: 16\nmilestones: [0.2, 0.9]\ndata: digits\nseed: 7\n")
    config = config_from(file=file, overrides=["epochs=6", "no_decay=bias,norm", "seed=8"], options={"seed": 9})
    assert (config.lr, config.epochs, config.batch_size, config.seed) == (1e-3, 6, 16, 9)
    assert config.milestones == (0.2, 0.9)
    assert config.no_decay == ("bias", "norm")
    assert config.data == tmp_path / "digits", "a path in a file is relative to the file"


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("lr=1e-3", "lr", 1e-3),
        ("clip=1", "clip", 1.0),
        ("epochs=3.0", "epochs", 3),
        ("keep_features=off", "keep_features", "off"),
        ("keep_features=on", "keep_features", "on"),
        ("small_input=true", "small_input", True),
        ("mean=[0.1, 0.2, 0.3]", "mean", (0.1, 0.2, 0.3)),
        ("mean=0.1,0.2,0.3", "mean", (0.1, 0.2, 0.3)),
        ("threads=null", "threads", None),
        ("precision=32", "precision", "32"),
        ("devices=2", "devices", "2"),
        ("augment=flip,crop=0.3:0.9", "augment", "flip,crop=0.3:0.9"),
        ("class_weights=1,2.5", "class_weights", "1,2.5"),
        ("batch-size=8", "batch_size", 8),
    ],
)
def test_overrides_become_the_type_of_their_key(text: str, key: str, value: Any) -> None:
    found = getattr(config_from(overrides=[text]), key)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("content", "overrides", "options", "variant"),
    [
        ("variant: FT K=3\n", [], {}, Variant("FT", 3)),
        ("variant: FT\nk: 3\nlayers: []\nbias_only: false\n", [], {}, Variant("FT", 3)),  # every part apart
        ("variant: FT K=3 bias-only\n", ["k=1"], {}, Variant("FT", 1, bias_only=True)),
        ("variant: FT K=3 bias-only\n", ["bias_only=false"], {}, Variant("FT", 3)),
        ("variant: FT K=3\n", ["k=1"], {"variant": "LP"}, Variant("LP")),
        ("k: 3\n", ["variant=FT"], {"train_channels": ["*=0.5"]}, Variant("FT", 3, channels=(("*", 0.5),))),
        ("variant: layers a,b\n", ["layers=output"], {}, Variant("layers", layers=("output",))),
        (
            "",
            ["variant=LP channels output=0.5"],
            {"train_channels": ["output=1"]},
            Variant("LP", channels=(("output", 1),)),
        ),
        ("", [], {"variant": Variant("FT", 5)}, Variant("FT", 5)),
    ],
)
def test_what_is_trained_is_one_value(
    content: str, overrides: list[str], options: dict[str, Any], variant: Variant, tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(content)
    config = config_from(file=tmp_path / "run.yaml", overrides=overrides, options=options)
    assert config.variant == variant
    assert from_dict(to_dict(config)).variant == variant


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["learning_rate=1"], "unknown key 'learning_rate' in the configuration: "),
        (["schedul=step"], "unknown key 'schedul' .*: did you mean schedule?"),
        (["epoch=1"], "did you mean epochs?"),
        (["lr"], "'lr': an override is KEY=VALUE, for instance lr=0.01"),
        (["epochs=many"], "epochs: 'many' is not a whole number"),
        (["epochs=1.5"], "epochs: 1.5 is not a whole number"),
        (["lr=true"], "lr: True is not a number"),
        (["small_input=3"], "small_input: 3 is not true or false"),
        (["milestones=[a]"], "milestones: .* is not a list"),
        (["lr=[1"], "is not YAML"),
        (["epochs=0"], "--epochs 0: must be 1 or more"),
        (["batch_size=0"], "--batch-size 0"),
        (["lr=0"], "--lr 0.0: must be more than 0"),
        (["lr=.nan"], "--lr nan"),
        (["lr=.inf"], "--lr inf"),
        (["weight_decay=-1"], "--weight-decay -1.0"),
        (["seed=-1"], "--seed -1"),
        (["threads=0"], "--threads 0"),
        (["momentum=1"], "--momentum 1.0: must be 0 or more and less than 1"),
        (["ema=1"], "--ema 1.0"),
        (["warmup=2"], "--warmup 2.0: must be 0 to 1"),
        (["k=-1"], "k is -1"),
        (["milestones=[0.5, 2]"], "milestones: give shares of the run"),
        (["mean=[1, 2]"], "mean: give three numbers"),
        (["variant=3"], "unknown variant '3'"),
        (["variant=FT", "layers=output"], "--layers and --variant FT both say"),
        (["variant=adapter"], "unknown variant 'adapter': choose one of scratch, full"),
        (["optimizer=lion"], "--optimizer lion: choose one of sgd, adamw"),
        (["channels=GRB"], "--channels GRB"),
        (["augment=blur"], "--augment blur"),
        (["sampler=balanced", "window=9"], "leave out --window"),
        (["weights=x.pth"], "scratch starts from random weights"),
        (["from_run=x", "weights=y", "variant=LP"], "give one of them"),
        (["bn=folded"], "has nothing to fold"),
    ],
)
def test_what_is_refused_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        config_from(overrides=overrides)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"lr: [", "is not YAML"),
        (b"- 1\n", "must hold KEY: VALUE lines"),
        (b"\xff\xfe\x00", r"run\.yaml: (is not YAML|cannot be read)"),
        (b"rate: 1\n", "unknown key 'rate'"),
        (b"lr: {a: 1}\n", "is not a number"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        config_from(file=file)
    with pytest.raises(BadInput, match=r"nothing\.yaml: cannot be read \(No such file"):
        config_from(file=tmp_path / "nothing.yaml")


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("# nothing\n")
    assert config_from(file=tmp_path / "run.yaml") == TrainConfig()


def test_yaml_and_dict_read_back(tmp_path: Path) -> None:
    config = resolve(
        config_from(
            overrides=[
                "variant=FT",
                "k=3",
                "mean=0.1,0.2,0.3",
                "keep_features=on",
                "data=d",
                "augment=flip",
                "gamma=1e-9",
            ]
        )
    )
    for text in (to_yaml(config), to_yaml(config, with_meanings=True)):
        (tmp_path / "c.yaml").write_text(text)
        assert config_from(file=tmp_path / "c.yaml") == config
    assert from_dict(to_dict(config)) == config


def test_every_variant_has_defaults() -> None:
    assert set(DEFAULTS) == set(VARIANTS)
    config = resolve(config_from())
    assert (config.arch, config.epochs, config.lr) == ("mobilenet_wd4", 20, 0.05)
    assert resolve(config_from(overrides=["variant=FD"])).arch == "fdmobilenet_wd4"
    assert resolve(config_from(overrides=["variant=LP", "lr=0.5", "weight_decay=0"])).lr == 0.5
    assert resolve(config_from(overrides=["optimizer=adamw"])).lr == pytest.approx(0.005)


def test_architectures_that_do_not_go_together() -> None:
    with pytest.raises(BadInput, match="for mobilenet_wd4 use --variant LP"):
        resolve(config_from(overrides=["variant=FD", "arch=mobilenet_wd4"]))
    config = config_from(overrides=["variant=LP", "arch=mobilenet_w1", "from_run=r"])
    with pytest.raises(BadInput, match="contradicts --from r, which holds mobilenet_wd4"):
        resolve(config, inherited_arch="mobilenet_wd4")
    assert resolve(replace(config, arch=None), inherited_arch="mobilenet_wd2").arch == "mobilenet_wd2"


def test_it_needs_no_torch() -> None:
    code = (
        "import sys; from tinyclf.workstation.runs.config import *; to_yaml(resolve(config_from(overrides=['lr=1'])))"
    )
    done = subprocess.run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], check=False)
    assert done.returncode == 0
