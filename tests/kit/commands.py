"""Commands of the command line, run in this process, and what a refusal looks like."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
from click.testing import CliRunner, Result

from tinyclf import cli


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli.main, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def check_refusal(result: Result, *, code: int, message: str, folder: Path) -> None:
    """Assert the exit code, one line on stderr, nothing on stdout, and that `folder` is as empty as before."""
    assert (result.exit_code, result.stdout) == (code, "")
    assert re.search(message, result.stderr), result.stderr
    assert code == 2 or len(result.stderr.splitlines()) == 1
    assert list(folder.iterdir()) == []


def parse(line: str) -> None:
    """Parse a command line that begins with `tinyclf`, without running it."""
    command: click.Command = cli.main
    arguments = shlex.split(line)[1:]
    while isinstance(command, click.Group):
        child = command.get_command(click.Context(command), arguments.pop(0))
        assert child is not None, line
        command = child
    # With the program's settings: click keeps the help option that a command's first context gives it.
    parent = click.Context(cli.main, help_option_names=cli.main.context_settings["help_option_names"])
    command.make_context("x", arguments, parent=parent)


def refused(result: Result, message: str) -> None:
    """Assert that a command ended with one line that says `message`."""
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    assert message in result.stderr
