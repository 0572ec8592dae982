"""The pages of the reference: a verb each, all macros by name, the public names of Python."""

from __future__ import annotations

import html
import re
import textwrap

import detox_jax
from detox_jax import cli, command_line, run_files

# As a comment of a gin file names a page.
_PAGE = re.compile(r"docs/(?P<name>[A-Z0-9_]+)\.md")


def verb_page(verb: str) -> str:
    """The page of a verb: what its run file says of its macros, its flags, its function."""
    run_file = run_files.of_verb(verb)
    lines = [f"# {verb}", "", run_file.summary, "", _escaped(run_file.needs), ""]
    lines.append(textwrap.indent(textwrap.dedent(run_file.example), "    "))
    lines += ["", "## Settings", "", f"From `gin_configs/runs/{verb}.gin`; `--gin.NAME=VALUE`.", ""]
    for block in run_file.blocks():
        lines += [_escaped(" ".join(block.comments)), "", "| setting | default |", "|---|---|"]
        for name, default in block.macros.items():
            shown = "**required**" if default == run_files.REQUIRED else _code(default)
            lines.append(f'| <a id="{name.lower()}"></a>`{name}` | {shown} |')
        lines.append("")
    if flags := command_line.short_names(verb):
        lines += ["## Flags", "", "| flag | sets |", "|---|---|"]
        lines += [f"| `{flag}` | `{macro}` |" for macro, flag in flags.items()]
    lines += ["", "## Function", "", f"::: {cli.VERBS[verb]}.{verb}"]
    return "\n".join(lines) + "\n"


def macros_page() -> str:
    """All macros by name, with the verbs that have them and the default of each."""
    users: dict[str, list[tuple[str, str]]] = {}
    for verb in cli.VERBS:
        for block in run_files.of_verb(verb).blocks():
            for name, default in block.macros.items():
                users.setdefault(name, []).append((verb, default))
    lines = ["# Settings by name", "", "| setting | verb and default |", "|---|---|"]
    for name in sorted(users):
        places = ", ".join(
            f"[{verb}](verbs/{verb}.md#{name.lower()}) "
            + ("required" if default == run_files.REQUIRED else _code(default))
            for verb, default in users[name]
        )
        lines.append(f"| `{name}` | {places} |")
    return "\n".join(lines) + "\n"


def python_page() -> str:
    """The public names of `import detox_jax`."""
    lines = ["# Python", "", "The names of `import detox_jax`, loaded when they are used.", ""]
    for name in detox_jax.__all__:
        module = detox_jax._PUBLIC.get(name, "detox_jax.api.verbs")  # a verb that is called
        lines += [f"::: {module}.{name}", ""]
    return "\n".join(lines)


def _code(text: str) -> str:
    """Text as code in a cell of a table."""
    return f"<code>{html.escape(text)}</code>".replace("|", "&#124;")


def _escaped(text: str) -> str:
    """A comment of a gin file as Markdown: no emphasis, and the pages that it names as links."""
    escaped = re.sub(r"([\\*_<>\[\]{}])", r"\\\1", text)
    return _PAGE.sub(r"[\g<name>](../../\g<name>.md)", escaped)
