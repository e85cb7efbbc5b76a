"""The program: its group, where errors become one line and an exit code, and what commands share."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import click

from tinyclf import __version__
from tinyclf.base.errors import TinyclfError

FOLDER = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False)
PATH = click.Path(path_type=Path)  # a folder or a file: a run, or a checkpoint of one


class _Command(click.Command):
    """A command whose help shows a default that is said in words as it shows one that is a value."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, without the parentheses that click puts around words."""
        records = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            words = getattr(param, "show_default", None)
            if record:
                text = record[1].replace(f"({words})", words) if isinstance(words, str) else record[1]
                records.append((record[0], text))
        with formatter.section("Options"):
            formatter.write_dl(records)


class _Group(click.Group):
    """A group of such commands."""

    command_class = _Command


class _Program(_Group):
    """The one place that turns errors into one line on stderr and an exit code."""

    group_class = _Group

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TinyclfError as error:
            for line in str(error).splitlines():
                click.echo(f"error: {line}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # click ends quietly when the reader of a pipe has gone
            click.echo(f"error: {error.filename or 'system'}: {error.strerror or error}", err=True)
            ctx.exit(1)


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", prog_name="tinyclf")
def main() -> None:
    """Train image classifiers that go on learning on a microcontroller.

    \b
    From nothing to a trained model, without a network:
      tinyclf data build digits --out demo/digits
      tinyclf train --variant scratch --data demo/digits --out demo/clean
      tinyclf eval demo/clean --split test

    Exit codes: 0 done, 1 error, 2 wrong usage, 3 a check found a difference.
    """
