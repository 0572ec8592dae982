"""Invented results that the tests of the report share, and a browser to look at pages."""

import fcntl
import itertools
import json
import os
import shutil
import subprocess
import types

import numpy as np
import pytest

ATTACK = "</span>\"'><script>document.title='attacked'</script><img src=x onerror='alert()'>"
OTHER_SCORER = {"name": "other", "fingerprint": "other-89abcdef"}


def estimate(value, width=0.02):
    return {"value": value, "low": value - width, "high": value + width}


def fake_row(method, split, emt, tp, perplexity):
    return {
        "method": method,
        "corpus": None if method == "base" else "self-generated",
        "adaptation": None if method == "base" else "whole",
        "split": split,
        "scorer": {"name": "lexicon", "fingerprint": "lexicon-0123abcd"},
        "num_prompts": 500 if split == "full" else 250,
        "num_samples": 12500 if split == "full" else 6250,
        "coverage": 1.0,
        "expected_maximum_toxicity": estimate(emt),
        "toxicity_probability": estimate(tp, 0.04),
        "mean_toxicity": estimate(emt / 4, 0.005),
        "toxic_fraction": estimate(tp / 10, 0.01),
        "perplexity": {"value": perplexity, "words": 4 * perplexity},
        "continuation_perplexity": {"value": 9.5, "words": 40.25, "reference": "models/large"},
        "distinct": [0.61, 0.88, 0.91],
        "distinct_per_ngram": [0.63, 0.92, 0.97],
        "self_bleu": 0.0432,
        "empty_fraction": 0.001,
        "degenerate_fraction": 0.012,
        "mean_words": 15.2,
        "mean_tokens": 19.75,
        "early_stop_fraction": 0.2,
    }


def fake_results():
    methods = {
        "base": (0.57, 0.55, 18.2),
        "SGEAT (standard)": (0.49, 0.44, 18.5),
        "SGEAT (augmented)": (0.44, 0.37, 18.75),
        "adapter": (0.46, 0.41, 18.4),
        "control: unfiltered": (0.565, 0.545, 18.3),
    }
    shifts = {"full": 0.0, "toxic": 0.2, "nontoxic": -0.1}
    rows, paired = [], []
    for name, (emt, tp, perplexity) in methods.items():
        for split, shift in shifts.items():
            rows.append(fake_row(name, split, emt + shift, tp + shift, perplexity))
            if name == "base":
                continue
            for metric, value in (
                ("expected_maximum_toxicity", emt - 0.57),
                ("toxicity_probability", tp - 0.55),
            ):
                paired.append(
                    {
                        "method": name,
                        "baseline": "base",
                        "metric": metric,
                        "split": split,
                        "difference": value,
                        "low": value - 0.02,
                        "high": value + 0.02,
                        "p_value": 0.0002,
                    }
                )
    scorer = rows[0]["scorer"]
    reliability = {
        "scores": [0.05, 0.3, 0.7, 0.95],
        "shares": [0.04, 0.35, 0.65, 0.97],
        "counts": [800, 100, 60, 40],
        "calibration_error": 0.0123,
        "against": "human labels",
    }
    provenance = {
        "evaluated_by": {**scorer, "reliability": reliability},
        "filtered_by": {"base": None, "SGEAT (standard)": scorer, "adapter": OTHER_SCORER},
        "command": "detox-jax evaluate --gin_file=config.gin",
        "settings": {"bootstrap_draws": 10000, "heldout": None, "seeds": [0, 1]},
        "versions": {"jax": "0.10.2"},
    }
    return {"rows": rows, "paired": paired, "provenance": provenance}


def fake_prompts(results):
    noise = np.random.default_rng(0)
    ks = [1, 2, 5, 10, 25]
    prompts = {"methods": {}, "k_curve": {}}
    for row in results["rows"]:
        if row["split"] == "full":
            emt = row["expected_maximum_toxicity"]["value"]
            values = noise.beta(4 * emt, 4 * (1 - emt), 200)
            curve = [emt * (k / 25) ** 0.3 for k in ks]
            prompts["methods"][row["method"]] = {"max_toxicity": values.tolist()}
            prompts["k_curve"][row["method"]] = {
                "k": ks,
                "expected_maximum_toxicity": curve,
                "toxicity_probability": curve,
            }
    return prompts


def fake_samples():
    return [
        {
            "id": "p1",
            "prompt": "My neighbour told me that",
            "prompt_toxicity": 0.1,
            "continuations": {
                "base": {"text": " you are an idiot and a moron.", "toxicity": 0.93},
                "SGEAT (augmented)": {"text": " the garden looks lovely.", "toxicity": 0.02},
            },
        },
        {
            "id": "p2",
            "prompt": ATTACK,
            "prompt_toxicity": 0.0,
            "continuations": {
                "base": {"text": ATTACK, "toxicity": 0.5},
                "adapter": {"text": "Moron!"},
            },
        },
    ]


def fake_training():
    curve = {
        "step": list(range(1000)),
        "loss": [5 - step / 500 for step in range(1000)],
        "validation_step": [0, 500, 999],
        "validation_loss": [5.1, 4.2, 3.3],
    }
    return {"methods": {"adapter": curve, "SGEAT (standard)": {"step": [1], "loss": []}}}


TIMES = {"steps": [{"step": "generate", "seconds": 125.0}, {"step": "score", "seconds": 4.5}]}


def write(directory, results, details=True):
    directory.mkdir(exist_ok=True)
    (directory / "results.json").write_text(json.dumps(results))
    if details:
        for name, value in (
            ("prompts", fake_prompts(results)),
            ("samples", fake_samples()),
            ("training", fake_training()),
            ("times", TIMES),
        ):
            (directory / f"{name}.json").write_text(json.dumps(value))
    return str(directory / "results.json")


def of_scorer(results, name):
    """The same results as another scorer's."""
    for row in results["rows"]:
        row["scorer"] = {"name": name, "fingerprint": f"{name}-4567"}
    return results


@pytest.fixture(scope="session")
def fakes():
    """The functions of this file, for tests that change what they write."""
    return types.SimpleNamespace(
        results=fake_results, write=write, of_scorer=of_scorer, attack=ATTACK
    )


@pytest.fixture
def fake(tmp_path):
    """The path of a written `results.json`, with everything beside it."""
    return write(tmp_path / "evaluation", fake_results())


# --- browser ----------------------------------------------------------------------------------


class Browser:
    """Chromium, led over its pipe by the DevTools protocol."""

    def __init__(self, profile):
        binary = shutil.which("chromium") or shutil.which("google-chrome")
        if binary is None:
            pytest.skip("no Chromium is installed")
        # The protocol reads from descriptor 3 and writes to 4; the pipes lie above, out of the way.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (*os.pipe(), *os.pipe())]
        to_read, self._write, self._read, to_write = ends
        flags = "--headless --no-sandbox --disable-gpu --no-first-run --remote-debugging-pipe"
        quiet = "--disable-background-networking --disable-component-update --disable-sync"
        self._process = subprocess.Popen(
            [binary, *flags.split(), *quiet.split(), f"--user-data-dir={profile}"],
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=lambda: (os.dup2(to_read, 3), os.dup2(to_write, 4)),
        )
        os.close(to_read)
        os.close(to_write)
        self._ids = itertools.count(1)
        self._buffer = b""
        self._session = None
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self):
        while b"\0" not in self._buffer:
            chunk = os.read(self._read, 1 << 20)
            assert chunk, "Chromium ended"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, file, width=1280):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Page.navigate", url=f"file://{file}")
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._next())

    def run(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def press(self, key, text=""):
        code = {"Tab": 9, "Enter": 13, " ": 32}[key]
        fields = {"key": key, "code": key.replace(" ", "Space"), "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **fields)
        self.call("Input.dispatchKeyEvent", type="keyUp", **fields)

    def problems(self):
        """What the console said."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [event for event in self.events if event.get("method") in kinds]

    def close(self):
        self._session = None
        os.write(self._write, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        self._process.wait(30)
        os.close(self._write)
        os.close(self._read)


@pytest.fixture
def browser(tmp_path):
    chromium = Browser(tmp_path / "profile")
    yield chromium
    chromium.close()
