"""Objects of the user's own, named by an import path `package.module:name`."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from tinyclf.base.errors import BadInput


def load_object(path: str, *, what: str) -> Any:
    """Import what `path` names, `package.module:name`; the current directory is searched first, as `python -m` does.

    `what` opens the messages, for instance "source" or "architecture".

    Raises:
        BadInput: `path` has another form, the module cannot be imported, or it has no such name.
    """
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise BadInput(f"{what} '{path}': give it as package.module:function")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a module of the user's raises on import
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise BadInput(
            f"{what} '{path}': cannot import {module_name} ({type(error).__name__}: {reason}): "
            "is it installed, or in the current directory?"
        ) from error
    finally:
        if here in sys.path:  # the module may have changed it
            sys.path.remove(here)
    if not hasattr(module, name):
        raise BadInput(f"{what} '{path}': {module_name} has no function '{name}'")
    return getattr(module, name)
