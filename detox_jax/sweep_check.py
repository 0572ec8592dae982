"""Checks many command lines without doing their work: what `sweep` runs in a process of its own.

Reads a JSON list of command lines on standard input, `[["sgeat", "--gin_file=..."], ...]`. Prints
a line of JSON for each: `status`, and what was printed to `output` and `errors`.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback

from detox_jax import cli


def main() -> None:
    """Reads command lines, prints what their dry runs say."""
    for arguments in json.load(sys.stdin):
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            try:
                status = cli.main([*arguments, "--dry_run"])
            except Exception:  # A fault of the program is one of this cell's alone.
                traceback.print_exc()
                status = 1
        said = {"status": status, "output": output.getvalue(), "errors": errors.getvalue()}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
