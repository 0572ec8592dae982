"""The pages under axe-core, at the widths, in the lights and on the paper that people have."""

import importlib.util
import json
import os
import re
from pathlib import Path

import pytest

from detox_jax.evaluation.results_files import load
from detox_jax.report import charts, drawing, figures, matrix, page, seeds
from tests.evaluation import results_made
from tests.marks import slow_but

AUDITED = [(375, "screen", "dark"), (1280, "screen", "light"), (713, "print", "light")]
# A phone's least, and more light; A4 leaves 713 between Chromium's margins.
VIEWS = [*AUDITED, (320, "screen", "light"), (1600, "screen", "light")]
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def axe():
    """The script; DETOX_JAX_AXE names another one, such as that of the npm package axe-core."""
    given = os.environ.get("DETOX_JAX_AXE")
    spec = importlib.util.find_spec("axe_core_python")
    if given is None and spec is not None and spec.origin is not None:
        given = Path(spec.origin).parent / "axe.min.js"
    if given is None:
        pytest.skip("no axe-core is installed (axe-core-python, or DETOX_JAX_AXE=axe.min.js)")
    return Path(given).read_text()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report of two scorers with seeds as one, and the page of a sweep beside it."""
    directory = tmp_path_factory.mktemp("pages")
    results = results_made.made_results()
    places = [directory / "a", directory / "b"]
    results_made.write(places[0], results)
    results_made.write(places[1], results_made.of_scorer(results, "other"))
    several = [seeds.merged(load(str(place)), {"SGEAT": SEEDS}) for place in places]
    (directory / "report.html").write_text(page.page(several))
    results = several[0].results
    methods = charts.measured(results, "full")
    picture = figures.svg(drawing.overview(methods, charts.subject(results, "full")), "toxicity")
    runs = [matrix.Run({"method": name}, results, name) for name in results.methods[1:]]
    table = matrix.matrix(runs, [matrix.Run({}, results, "base")])
    pictures = {f"Judged by {x}.": picture for x in "ab"}
    (directory / "sweep.html").write_text(matrix.page(table, pictures, {"cell": "exit 2"}))
    return directory


SEEDS = ("SGEAT (standard)", "SGEAT (augmented)")


@pytest.mark.parametrize("name", slow_but(["report"], ["report", "sweep"]))
def test_axe_finds_nothing_and_nothing_is_wider_than_the_view(browser, axe, written, name):
    browser.call("Page.setBypassCSP", enabled=True)  # for axe, which is no script of the page
    options = json.dumps({"runOnly": RULES, "resultTypes": ["violations"]})
    found = "r.violations.map(v => [v.id, v.nodes.length, v.nodes[0].html])"
    for view in VIEWS:
        width, media, scheme = view
        browser.open(written / f"{name}.html", width, media, scheme)
        if view in AUDITED:
            browser.run(axe)
            answer = browser.run(f"axe.run({options}).then(r => JSON.stringify({found}))")
            assert json.loads(answer) == [], view
        assert browser.run("document.documentElement.scrollWidth") <= width, view
        tables = "[...document.querySelectorAll('.scroll:not(.wide)')]"
        wider = f"{tables}.filter(x => x.scrollWidth > x.clientWidth)"
        assert browser.run(f"{wider}.map(x => x.getAttribute('aria-label'))") == [], view
    assert not browser.problems()


def test_hidden_texts_are_on_no_printed_page(browser, written):
    browser.open(written / "report.html", media="print")
    secrets = browser.run("[...document.querySelectorAll('.secret')].map(x => x.textContent)")
    assert " you are an idiot and a moron." in secrets
    browser.run("document.querySelectorAll('button').forEach((button) => button.click())")
    printed = browser.run("document.body.innerText")
    assert printed.count("Text hidden in print.") == len(secrets)
    assert not any(secret.strip() in printed for secret in secrets)


def test_every_control_is_reached_by_the_keyboard_and_shows_it(browser, written):
    browser.open(written / "report.html")
    wanted = browser.run(
        "[...document.querySelectorAll('a, button, input, select, summary, [tabindex]')]"
        ".filter(x => x.checkVisibility()).length"
    )
    outlines = []
    for _ in range(wanted):
        browser.press("Tab")
        outlines.append(browser.run("getComputedStyle(document.activeElement).outlineStyle"))
    assert outlines == ["solid"] * wanted
    assert browser.run("document.activeElement.tagName") == "SUMMARY"  # the last one


# --- contrast, also of what axe cannot tell: letters in pictures, and over a shade --------------


def palettes():
    """The colours of the style sheet by name: light, dark, paper."""
    style = str(page.style())
    light, dark, paper = (
        dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{3,6});", block))
        for block in re.findall(r":root \{([^}]*)\}", style)
    )
    return {"light": light, "dark": light | dark, "paper": light | paper}


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("light", ["light", "dark", "paper"])
def test_letters_and_lines_stand_out_from_their_ground(light):
    """WCAG 2.2: 4.5 for text (1.4.3), 3 for what a picture needs (1.4.11)."""
    colours = palettes()[light]
    for ground in ("page", "card"):
        for text in ("ink", "soft", "accent"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for series in (name for name in colours if name.startswith("series")):
        assert contrast(colours[series], colours["card"]) >= 3, series
