"""From `module:function` in a configuration to a Tool: modules in `tool_path`, then on sys.path.

A module of `tool_path` is loaded from its file under a name of its own, so that two agents may
each have a `tools.py`, and no file there can stand in for a module of ours or of Python's.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from orchestrator.tools.base import Tool
from orchestrator.tools.builtin import PREFIX, built_in
from orchestrator.tools.functions import from_function
from serving.config.sections import nearest
from serving.errors import ConfigError


def load(spec: str, tool_path: Path | None, *, where: str = "tools") -> Tool:
    """The tool that `spec` names. Raises ConfigError with the field, the value and the fix."""
    if spec.startswith(PREFIX):
        return built_in(spec, where)
    module_name, colon, name = spec.partition(":")
    if not (module_name and colon and name):
        raise ConfigError(f"{where}: {spec!r} is not a tool; write module:function")
    try:
        module = _from_folder(module_name, tool_path) or importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise ConfigError(f"{where}: {spec!r}: {module_name} needs {error}") from None
        looked = f"{tool_path} and " if tool_path else ""
        raise ConfigError(
            f"{where}: {spec!r}: no module {module_name!r} in {looked}sys.path; "
            "set tool_path to the folder that holds it"
        ) from None
    except (Exception, SystemExit) as error:  # a user's module may fail in any way
        raise ConfigError(
            f"{where}: {spec!r}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, name, None)
    if function is None:
        public = [each for each in vars(module) if not each.startswith("_")]
        raise ConfigError(
            f"{where}: {spec!r}: {module_name} has no {name!r}; {nearest(name, public)}"
        )
    if not callable(function) or isinstance(function, type):
        raise ConfigError(f"{where}: {spec!r} is not a function")
    try:
        return from_function(function)
    except ConfigError as error:
        raise ConfigError(f"{where}: {spec!r}: {error}") from None


def _from_folder(name: str, folder: Path | None) -> ModuleType | None:
    if folder is None:
        return None
    base = folder.joinpath(*name.split("."))
    file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    if not file.is_file():
        return None
    # At the end, so that a tool finds its neighbours but shadows nothing.
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    digest = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]
    own_name = f"warmloop_tools_{digest}_{name.replace('.', '_')}"
    if own_name in sys.modules:
        return sys.modules[own_name]
    spec = importlib.util.spec_from_file_location(own_name, file)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and type hints look their module up while it is still being executed.
    sys.modules[own_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[own_name]
        raise
    return module
