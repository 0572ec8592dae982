"""The report's page in Chromium: it renders, hides, shows, and runs no script but its own."""

import dataclasses
import re

import markupsafe
import pytest

from detox_jax.evaluation.results_files import Continuation, Sample, load
from detox_jax.report import origins
from detox_jax.report import page as pages
from tests.evaluation import results_made

_BUTTON = "document.querySelector('button[aria-controls]')"
_SHOWN = f"document.getElementById({_BUTTON}.getAttribute('aria-controls')).checkVisibility()"


def open_page(browser, tmp_path, source, width=1280):
    file = tmp_path / "page.html"
    file.write_text(pages.page([load(source)]))
    browser.open(file, width)


def test_texts_are_shown_by_click_and_by_keyboard_and_never_printed(browser, tmp_path, fake):
    open_page(browser, tmp_path, fake)
    assert not browser.run(_SHOWN)
    browser.run(f"{_BUTTON}.click()")
    assert browser.run(_SHOWN)
    assert browser.run(f"{_BUTTON}.getAttribute('aria-expanded')") == "true"
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert not browser.run(_SHOWN)
    browser.call("Emulation.setEmulatedMedia", media="screen")
    browser.run(f"{_BUTTON}.focus()")
    browser.press("Enter", "\r")
    assert not browser.run(_SHOWN)
    browser.press(" ", " ")
    assert browser.run(_SHOWN)
    assert not browser.problems()


def test_a_phone_scrolls_tables_and_not_the_page(browser, tmp_path, fake):
    open_page(browser, tmp_path, fake, width=390)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.run("document.querySelectorAll('figure svg').length") == 8


def test_a_script_in_a_generation_does_not_run(browser, tmp_path):
    results = results_made.renamed(results_made.made_results(), "adapter", results_made.ATTACK)
    open_page(browser, tmp_path, results_made.write(tmp_path / "evaluation", results))
    browser.run("document.querySelectorAll('button').forEach((button) => button.click())")
    assert browser.run("document.title").startswith("Toxicity report")
    assert browser.run("document.scripts.length") == 1
    assert not browser.problems()


def test_the_policy_stops_a_script_that_got_past_the_escaping(browser, tmp_path, fake):
    file = tmp_path / "page.html"
    injected = "<script>document.title = 'attacked'</script></body>"
    file.write_text(pages.page([load(fake)]).replace("</body>", injected))
    browser.open(file)
    assert browser.run("document.title").startswith("Toxicity report")
    assert browser.problems()


def test_what_one_scorer_finds_toxic_is_hidden_under_the_other_too(tmp_path):
    """Not the texts that both find mild."""
    mild = [
        dataclasses.replace(
            sample,
            prompt_toxicity=0.1,
            continuations={
                name: dataclasses.replace(text, toxicity=0.2)
                for name, text in sample.continuations.items()
            },
        )
        for sample in results_made.made_samples()
    ]
    results = results_made.made_results()
    first = load(results_made.write(tmp_path / "a", results))
    second = load(results_made.write(tmp_path / "b", results_made.of_scorer(results, "other")))
    second = dataclasses.replace(second, samples=tuple(mild))
    assert "another scorer rates toxic" not in pages.page([second])
    page = pages.page([first, second])
    hidden = re.findall(r'class="text secret" id="[^"]+" dir="auto" hidden>([^<]*)<', page)
    attack = str(markupsafe.escape(results_made.ATTACK))
    assert hidden == [" you are an idiot and a moron.", attack, attack, "Moron!"]
    assert page.count('data-show="Show text that another scorer rates toxic"') == 1  # a prompt
    assert page.count('<span class="text" dir="auto"> the garden looks lovely.</span>') == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (59.4, "59 s"), (125, "2 min 05 s"), (11220, "3 h 07 min")],
)
def test_duration(seconds, text):
    assert origins.duration(seconds) == text


# --- nothing twice ----------------------------------------------------------------------------


def of_two_scorers(tmp_path):
    """One evaluation by two scorers, with the same continuations, models and settings."""
    results = results_made.made_results()
    first = load(results_made.write(tmp_path / "a", results))
    second = load(results_made.write(tmp_path / "b", results_made.of_scorer(results, "other")))
    return first, second


def test_what_no_scorer_changes_stands_once(tmp_path):
    first, second = of_two_scorers(tmp_path)
    page = pages.page([first, second])
    assert page.count(" the garden looks lovely.") == 1
    assert "toxicity by lexicon 0.02, other 0.02" in page
    assert page.count("<figcaption>Long curves") == 2  # training and validation
    assert page.count(first.results.provenance.command) == 1
    assert page.count("bootstrap_draws") == 1


def test_what_differs_stands_for_every_scorer(tmp_path):
    first, second = of_two_scorers(tmp_path)
    other = dataclasses.replace(second, samples=second.samples[:1])
    provenance = dataclasses.replace(other.results.provenance, command="another command")
    other = dataclasses.replace(
        other, results=dataclasses.replace(other.results, provenance=provenance)
    )
    page = pages.page([first, other])
    assert page.count(" the garden looks lovely.") == 2
    for heading in ("Sample continuations by lexicon", "Provenance by other"):
        assert f">{heading}</h2>" in page
    assert "another command" in page


def test_settings_are_folded_and_the_command_is_not(fake):
    page = pages.page([load(fake)])
    folded = "".join(re.findall(r"<details>.*?</details>", page, flags=re.S))
    assert "bootstrap_draws" in folded and "2 min 05 s" in folded
    assert "--gin_file=config.gin" in page and "--gin_file=config.gin" not in folded


# --- words and width --------------------------------------------------------------------------


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_the_page_fits_and_at_1280_and_on_a_phone_every_table_does(browser, tmp_path, width):
    results = results_made.renamed(results_made.made_results(), "adapter", "adapter-" * 8)
    source = results_made.write(tmp_path / "evaluation", results)
    open_page(browser, tmp_path, source, width)
    assert browser.run("document.documentElement.scrollWidth") <= width
    wider = "[...document.querySelectorAll('.scroll')].filter(x => x.scrollWidth > x.clientWidth)"
    if width != 768:
        assert browser.run(f"{wider}.length") == 0
    assert not browser.problems()


def test_perplexity_stands_once_and_no_split_repeats_it(tmp_path):
    page = pages.page(of_two_scorers(tmp_path))
    assert page.count('<th scope="col" role="columnheader">Perplexity</th>') == 1
    assert page.count(">18.75</td>") == 1


def test_landmarks_have_names_of_their_own_and_the_measures_are_said_in_words(tmp_path):
    first, second = of_two_scorers(tmp_path)
    same_name = dataclasses.replace(first, samples=())
    page = pages.page([first, second, same_name])
    titles = dict(re.findall(r'<h\d id="([^"]+)">([^<]*)</h\d>', page))
    named = re.findall(r'<(?:section|article)[^>]* aria-labelledby="([^"]+)"', page)
    regions = re.findall(r'role="region" tabindex="0" aria-label="([^"]+)"', page)
    names = [titles[name] for name in named if not name.startswith("samples-1")] + regions
    assert len(names) == len(set(names)) > 20
    links = re.findall(r'<li><a href="#[^"]+">([^<]+)</a>', page)
    assert "Figures by lexicon (2)" in links and not any("/" in link for link in links)
    assert "every prompt is continued 25 times" in page
    assert "the share of prompts of which at least one" in page
    assert "<noscript>" in page


# --- samples ----------------------------------------------------------------------------------


def drawn_samples(scores=(0.1, 0.2, 0.9)):
    """Three prompts, two methods, two continuations drawn of three and the worst."""
    samples = []
    for number, prompt_toxicity in enumerate((0.1, 0.7, 0.2)):
        texts = {
            name: tuple(
                Continuation(f" {name} writes {number}{i}", score) for i, score in enumerate(scores)
            )
            for name in ("base", "adapter", "control: unfiltered")
        }
        samples.append(
            Sample(
                f"p{number}",
                f"Prompt of number {number}",
                prompt_toxicity,
                {name: several[0] for name, several in texts.items()},
                {name: several[:2] for name, several in texts.items()},
                {name: several[2] for name, several in texts.items()},
                count=3,
                seed=0,
            )
        )
    return tuple(samples)


def test_samples_of_prompts_of_unequal_numbers_are_said_to_be_drawn(fake):
    """They were called the first continuations, and stood there with the worst."""
    few, *others = drawn_samples()
    few = dataclasses.replace(few, drawn={k: x[:1] for k, x in few.drawn.items()}, count=1)
    evaluation = dataclasses.replace(load(fake), samples=(few, *others))
    (shown,) = pages.samples.shown_samples([evaluation])
    said = "Of 1 to 3 continuations a method, at most 2 are shown, drawn by chance with seed 0, and"
    assert shown.choice.startswith(said)
    alike = dataclasses.replace(evaluation, samples=(dataclasses.replace(few, count=3), *others))
    assert "Of 3 continuations a method" in pages.samples.shown_samples([alike])[0].choice


def test_drawn_samples_stand_with_the_worst_which_is_hidden(fake):
    evaluation = dataclasses.replace(load(fake), samples=drawn_samples())
    page = pages.page([evaluation])
    assert "Of 3 continuations a method, 2 are shown, drawn by chance with seed 0" in page
    assert page.count('data-show="Show the most toxic of 3, rated 0.90"') == 9
    assert page.count(" adapter writes 00") == page.count(" adapter writes 02") == 1
    hidden = re.findall(r'class="text secret" id="[^"]+" dir="auto" hidden>([^<]*)<', page)
    assert " base writes 02" in hidden and " base writes 01" not in hidden


def test_every_scorer_has_a_worst_and_none_stands_twice(fake):
    first = dataclasses.replace(load(fake), samples=drawn_samples())
    other = dataclasses.replace(
        first, samples=tuple(dataclasses.replace(x, worst=x.continuations) for x in first.samples)
    )
    page = pages.page([first, other])
    assert page.count(" adapter writes 00") == page.count(" adapter writes 02") == 1
    assert page.count("<small>the most toxic of 3 by lexicon (2)</small>") == 9
    assert page.count('data-show="Show the most toxic of 3 by lexicon (1), rated 0.90"') == 9


def test_samples_are_searched_filtered_and_two_methods_compared(browser, tmp_path, fake):
    file = tmp_path / "page.html"
    evaluation = dataclasses.replace(load(fake), samples=drawn_samples())
    file.write_text(pages.page([evaluation]))
    browser.open(file)

    def choose(tool, value):
        browser.run(
            f"""{{const field = document.querySelector('[data-tool="{tool}"]');
            field.value = {value!r}; field.dispatchEvent(new Event('input', {{bubbles: true}}))}}"""
        )
        return browser.run("document.querySelector('.tools [role=status]').textContent")

    def places():
        shown = "[...document.querySelectorAll('[data-method]')].filter(x => x.checkVisibility())"
        return browser.run(f"{shown}.map(x => [x.dataset.method, x.offsetTop, x.offsetLeft])")

    assert choose("search", "OF NUMBER 1") == "1 of 3 prompts"
    assert choose("search", "") == "3 of 3 prompts"
    assert choose("kind", "toxic") == "1 of 3 prompts"
    choose("first", "adapter")
    choose("second", "base")
    (a, a_top, a_left), (b, b_top, b_left) = sorted(places())
    assert (a, b) == ("adapter", "base")
    assert a_top == b_top and a_left < b_left  # side by side, in the order that was asked for
    assert choose("search", "control: unfiltered writes") == "0 of 3 prompts, 2 of 3 methods"
    assert not browser.problems()


def test_of_many_methods_the_baseline_and_the_least_toxic_are_compared_at_first(fake, monkeypatch):
    """A matrix of forty rows filled a hundred pages with its samples."""
    evaluation = dataclasses.replace(load(fake), samples=drawn_samples())
    assert " selected>" not in pages.page([evaluation])
    monkeypatch.setattr(pages.samples, "_MOST_METHODS", 2)
    chosen = re.findall(r'<option value="([^"]+)" selected>', pages.page([evaluation]))
    assert chosen == []  # the least toxic one has no samples
    names = ("base", "adapter", "control: unfiltered")
    results = results_made.of_methods(evaluation.results, names)
    page = pages.page([dataclasses.replace(evaluation, results=results)])
    assert re.findall(r'<option value="([^"]+)" selected>', page) == ["base", "adapter"]


def test_methods_that_do_not_count_stand_below_the_headline(tmp_path):
    results = results_made.made_results()
    rows = [
        dataclasses.replace(row, spoiled=("it writes nothing",)) if row.method == "adapter" else row
        for row in results.rows
    ]
    spoiled = dataclasses.replace(results, rows=tuple(rows))
    page = pages.page([load(results_made.write(tmp_path / "evaluation", spoiled))])
    assert "<li>Not counted: adapter, for it writes nothing.</li>" in page
    assert "Not counted" not in page.partition('class="headline">')[2].partition("</p>")[0]


def test_samples_of_two_scorers_fit_a_phone(browser, tmp_path):
    several = [dataclasses.replace(x, samples=drawn_samples()) for x in of_two_scorers(tmp_path)]
    file = tmp_path / "page.html"
    file.write_text(pages.page(several))
    browser.open(file, 390)
    assert browser.run("document.documentElement.scrollWidth") <= 390
