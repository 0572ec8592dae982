"""A user's files that carry names of this package's: `tasks`, and files in `gin_configs`.

Both lie beside `detox_jax` wherever it is installed, since T5X and gin files know them by these
names, and `tasks.py` is what Celery and Invoke call a file too. Gin files import this package's
`tasks` whatever lies in the current directory; a gin file of the user's is read in place of this
package's. Either is said in a line.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from detox_jax.errors import UserError
from detox_jax.parallel import processes

_TASKS = "tasks"
_IMPORTS_TASKS = re.compile(rf"^(from|import) {_TASKS}\b", re.MULTILINE)


def import_tasks(package_root: Path) -> None:
    """Imports `tasks` from beside the package, before a file of that name can come first.

    Args:
      package_root: the directory that holds `detox_jax` and `tasks`.

    Raises:
      UserError: if this process has imported another `tasks`.
    """
    directory = (package_root / _TASKS).resolve()
    if loaded := sys.modules.get(_TASKS):
        place = getattr(loaded, "__file__", None) or next(iter(loaded.__path__))
        if directory not in (Path(place).resolve(), *Path(place).resolve().parents):
            raise UserError(
                f"{place}: imported as `{_TASKS}`, which is the name of {directory} too; rename it"
            )
        return
    spec = importlib.util.spec_from_file_location(
        _TASKS, directory / "__init__.py", submodule_search_locations=[str(directory)]
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[_TASKS] = module
    spec.loader.exec_module(module)


def name_other_tasks(texts: Iterable[str], roots: Sequence[str], package_root: Path) -> None:
    """Names a user's `tasks`, where gin files import from `tasks` and so not from it.

    Args:
      texts: of the gin files.
      roots: where modules are looked for, the user's directories first.
      package_root: the directory that holds `detox_jax` and `tasks`.
    """
    if not any(map(_IMPORTS_TASKS.search, texts)):
        return
    for root in dict.fromkeys(roots):
        for other in (Path(root, f"{_TASKS}.py"), Path(root, _TASKS, "__init__.py")):
            if other.is_file() and not other.resolve().is_relative_to(package_root.resolve()):
                processes.warn(
                    f"{other} is not read: `{_TASKS}` in gin files is "
                    f"{package_root / _TASKS}; rename it to import it there"
                )


def name_other_gin_files(names: Iterable[str], roots: Sequence[str], package_root: Path) -> None:
    """Names the gin files that are read in place of this package's of the same name.

    Args:
      names: of the files, as they were given or included.
      roots: where they are looked for, in this order.
      package_root: the directory that holds `detox_jax` and `gin_configs`.
    """
    for name in dict.fromkeys(names):
        ours = package_root / name
        if Path(name).is_absolute() or not ours.is_file():
            continue
        read = next(file for root in [*roots, package_root] if (file := Path(root, name)).is_file())
        if read.read_bytes() != ours.read_bytes():
            processes.warn(f"{read} is read in place of {ours}")
