"""Runs a notebook in a kernel of its own; `python -m tests.notebooks.executed` renews the outputs.

What a run says line by line is left out of what is stored, and so are places of this machine.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).resolve().parent.parent.parent / "notebooks"
NAMES = ("detoxify", "steering")
MOST_LINES = 12


def execute(name: str, directory: Path) -> Any:
    """The notebook with its outputs.

    Args:
      name: of the file.
      directory: where it runs, and leaves its files.
    """
    import nbclient
    import nbformat

    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(directory)}}
    nbclient.NotebookClient(notebook, timeout=3600, resources=resources).execute()
    return notebook


def stored(notebook: Any, directory: Path) -> Any:
    """The notebook as the repository keeps it."""
    for cell in notebook.cells:
        cell.metadata.clear()
        if cell.cell_type != "code":
            continue
        said = "".join(output.text for output in cell.outputs if output.output_type == "stream")
        if said.count("\n") > MOST_LINES:
            cell.outputs = [o for o in cell.outputs if o.output_type != "stream"]
        for output in cell.outputs:
            for kind, text in output.get("data", {}).items():
                if kind.startswith("text/"):
                    text = text.replace(f"{directory}/", "")
                    output.data[kind] = re.sub(r"/tmp/detox-jax-\w+", "/tmp/detox-jax", text)
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def main(directory: str | None = None) -> None:
    """Runs both notebooks, the second in what the first one left, and stores their outputs.

    Args:
      directory: where they run, and what is finished stays; one that goes where None.
    """
    import nbformat

    with tempfile.TemporaryDirectory() as temporary:
        place = Path(directory or temporary).resolve()
        for name in NAMES:
            notebook = stored(execute(name, place), place)
            nbformat.write(notebook, NOTEBOOKS / f"{name}.ipynb")
            print(name)


if __name__ == "__main__":
    main(*sys.argv[1:])
