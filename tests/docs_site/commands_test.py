"""Each command of the documentation goes through the real command line, and each link leads on."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from detox_jax import cli, configuration, run_files
from docs_site import links, reference

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")], key=lambda path: str(path))
_COMMAND = re.compile(r"^(?:    |\$ )((?:\w+=\S+ +)*(?:\S*/)?detox-jax +[a-z-].*)$")
# A quoted value that goes over several lines.
_OPEN_QUOTE = re.compile(
    r"^    .*detox-jax [^\"\n]*(?:\"[^\"\n]*\"[^\"\n]*)*\"[^\"\n]*\n[^\"]*\"", re.M
)
_PATTERN = re.compile(r"[…]|\.\.\.|<[a-z]+>")
# Words that stand for what a reader puts there.
_PLACE = re.compile(r"^[A-Z_]+$|\.\.\.|…|^\[")
_REST = {"...", "…"}  # For what such a command needs besides, and another one shows.


def lines(text):
    """The command lines of a page's code blocks as they are written, continued lines joined."""
    joined = re.sub(r"\\\n *", "", text)
    joined = _OPEN_QUOTE.sub(lambda match: " ".join(match[0].split("\n")), joined)
    for line in joined.splitlines():
        if not (match := _COMMAND.match(line)):
            continue
        yield match[1]


def commands(text):
    """The commands of a page as lists of words, behind the program's name."""
    for line in lines(text):
        # To a shell, and not to `comments=True`, a sign within a word is a part of it.
        words = shlex.split(re.sub(r"\s#.*", "", line))
        start = next(i for i, word in enumerate(words) if word.endswith("detox-jax"))
        yield words[start + 1 :]


def documented():
    for page in PAGES:
        for i, words in enumerate(commands(page.read_text())):
            if not words[0].startswith("-"):
                yield pytest.param(words, id=f"{page.stem}-{i}-{words[0]}")


def macros(arguments):
    """The macros of the run file and of the gin files over it, where these are this project's."""
    known = {name for block in run_files.of_verb(arguments.verb).blocks() for name in block.macros}
    for name in arguments.gin_files:
        file = ROOT / name
        if not file.is_file():
            return None
        known |= set(re.findall(r"^([A-Z][A-Z0-9_]*) *=", file.read_text(), re.MULTILINE))
        for included in re.findall(r"^include ['\"](.+)['\"]", file.read_text(), re.MULTILINE):
            known |= set(re.findall(r"^([A-Z][A-Z0-9_]*) *=", (ROOT / included).read_text(), re.M))
    return known


def test_commands_are_found_in_pages():
    text = "Do:\n\n    detox-jax score --gin.INPUT=a \\\n        --gin.OUTPUT_DIR=b  # so\n"
    assert list(commands(text)) == [["score", "--gin.INPUT=a", "--gin.OUTPUT_DIR=b"]]
    assert {page.stem for page in PAGES} >= {"laptop", "one_gpu", "v5e_8", "HOWTO", "README"}
    assert len(list(documented())) > 40


@pytest.mark.parametrize("words", documented())
def test_a_documented_command_is_parsed(words, monkeypatch):
    is_whole = not _REST & set(words)
    words = [word for word in words if word not in _REST]
    if any(_PLACE.search(word) for word in words):
        pytest.skip("a pattern, not a command")
    words = [word for word in words if word not in ("--multihost",)]
    words = [word for word in words if not re.match("--(process|coordinator)", word)]
    arguments = cli.parse_arguments(words)
    assert arguments.verb in cli.VERBS
    known = macros(arguments)
    if known is None:
        return  # A gin file of the reader's.
    monkeypatch.setenv("DETOX_JAX_DATA", "data")  # `train_scorer` asks that it has a value.
    if is_whole:
        with configuration.apart():
            verb, defaults = cli.load_config(arguments)
            configuration.check(verb, defaults, arguments.bindings)
    for binding in arguments.bindings:
        name = binding.partition(" = ")[0]
        if re.fullmatch("[A-Z][A-Z0-9_]*", name):
            assert name in known, f"{arguments.verb} has no setting {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_shell_reads_the_commands(page):
    """Parentheses and braces need quotes there; words alone do not tell."""
    script = "\n".join(line for line in lines(page.read_text()) if not _PATTERN.search(line))
    read = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr


def test_readme_goes_from_a_checkpoint_to_a_model_for_transformers():
    told = [" ".join(words) for words in commands((ROOT / "README.md").read_text())]
    steps = (
        "convert --from_hf=.* --to=base ",
        "sgeat --checkpoint=base --output=run .*--gin.HELDOUT=",
        "convert --from=run/models/sgeat-whole --to_hf=.* --gin.RESULTS=run/results.json",
    )
    found = [next(i for i, line in enumerate(told) if re.match(step, line)) for step in steps]
    assert found == sorted(found)


TUTORIALS = ["README.md", *(f"docs/tutorials/{name}.md" for name in ("laptop", "one_gpu", "v5e_8"))]


@pytest.mark.parametrize("page", TUTORIALS)
def test_a_tutorial_names_what_its_verbs_cannot_do_without(page):
    text = (ROOT / page).read_text()
    for words in commands(text):
        arguments = cli.parse_arguments(words)
        given = {binding.partition(" = ")[0] for binding in arguments.bindings}
        blocks = run_files.of_verb(arguments.verb).blocks()
        required = {n for b in blocks for n, v in b.macros.items() if v == run_files.REQUIRED}
        # generate: INPUT or NUM_DOCUMENTS, and TOP_K for a sampling of that name.
        optional = {"TOP_K", "INPUT" if "NUM_DOCUMENTS" in given else "NUM_DOCUMENTS"}
        if not arguments.gin_files:
            assert required - optional <= given, arguments.verb


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_reference_has_every_macro(verb):
    page = reference.verb_page(verb)
    for name in re.findall(
        r"^([A-Z][A-Z0-9_]*) =", run_files.of_verb(verb).path.read_text(), re.MULTILINE
    ):
        assert f"`{name}`" in page


def test_the_reference_by_name_leads_to_the_verbs():
    page = reference.macros_page()
    assert "[train](verbs/train.md#batch_size) <code>512</code>" in page
    assert "[score](verbs/score.md#input) required" in page
    assert "[RELIABILITY](../../RELIABILITY.md)" in reference.verb_page("train")
    assert "::: detox_jax.toxicity.ngram.NgramScorer" in reference.python_page()


def test_macros_and_their_comments_are_read():
    text = "# Does.\n\n# First,\n# and more.\nA = 1\nB = %gin.REQUIRED\n\nC = 'x'\nd.e = %A\n"
    blocks = run_files.macro_blocks(text)
    assert [(block.comments, block.macros) for block in blocks if block.macros] == [
        (("First,", "and more."), {"A": "1", "B": "%gin.REQUIRED"}),
        ((), {"C": "'x'"}),
    ]


def test_links_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "index.html").write_text(
        '<a href="other.html#there">1</a><a href="other.html#gone">2</a><a href="no.html">3</a>'
        '<img src="no.png"><a href="https://example.org/x">4</a><a href="#top">5</a>'
        '<a href="x:">6</a>'
    )
    (tmp_path / "other.html").write_text('<h1 id="there"></h1><a href="index.html">back</a>')
    assert list(links.broken(tmp_path)) == [
        "index.html: other.html#gone: no anchor 'gone' there",
        "index.html: no.html: no such page",
        "index.html: no.png: no such page",
        "index.html: #top: no anchor 'top' there",
        "index.html: x:: no address",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_between_the_sources_lead_to_files(page):
    for target in re.findall(r"\]\(([^)\s#]+)", page.read_text()):
        if "://" in target or target.startswith(("mailto:", "reference/", "../reference/")):
            continue
        assert (page.parent / target).exists(), f"{page.name}: {target}"
