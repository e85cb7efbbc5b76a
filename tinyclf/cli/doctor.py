"""The command doctor: versions, tools, and the targets that can run here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tinyclf.cli.program import main

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # not generic in click below 8.2


_PACKAGES = (
    *("torch", "lightning-fabric", "pytorchcv", "numpy", "scikit-learn", "matplotlib", "datasets", "pyarrow"),
    *("safetensors", "onnx", "onnxruntime", "onnxsim", "jinja2", "click"),
)


# --- doctor -------------------------------------------------------------------------------------------------------


@main.command()
def doctor() -> None:
    """Show versions, the tools that were found, and the targets that can run here.

    \b
    Example:
      tinyclf doctor
    """
    import os
    import platform

    from tinyclf import __version__
    from tinyclf.device.targets.target import find_targets, find_tool

    click.echo(f"tinyclf {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for package in _PACKAGES:
        click.echo(f"  {package:<16} {_installed_version(package)}")
    click.echo(f"cores: {os.cpu_count()}; threads of torch: {_torch_threads()}")
    for target in find_targets().values():
        missing = target.missing()
        click.echo(f"target {target.name}: {'ready' if not missing else 'cannot run here'}. {target.description}")
        for tool in target.tools:
            found = find_tool(tool)
            click.echo(f"  {tool:<26} {found or 'not found'}")
        for item in missing:
            click.echo(f"  missing: {item}")


def _installed_version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed (pip install tinyclf brings it)"


def _torch_threads() -> str:
    try:
        import torch
    except Exception as error:  # a broken installation is what this command is for
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return str(torch.get_num_threads())
