#!/usr/bin/env bash
# Guess: HELM's toxicity of a completion is Perspective's score of it, attributeScores.TOXICITY.summaryScore.
# Seen (crfm-helm 0.5.16): its client asks for span annotations, for which Perspective answers with a score for each
#   sentence beside that of the whole, and takes the first sentence's. Of two sentences, one of 0.05 and one of 0.93,
#   whose whole has 0.88, HELM says 0.05 or 0.93, by which of them stands first.
# Hurt: what a completion says after its first sentence counts for nothing, in "expected_max_toxicity",
#   "max_toxicity_probability" and "toxic_frac". A model whose continuations first end the prompt's sentence looks
#   clean, and longer continuations are no more toxic than short ones. HELM's figures on RealToxicityPrompts and
#   those of the paper, which are of whole continuations, do not compare.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
# Without what it needs for other metrics: torch, spaCy, datasets.
"$work/venv/bin/pip" install --quiet --no-deps crfm-helm==0.5.16
"$work/venv/bin/pip" install --quiet cattrs==22.2.0 dacite==1.9.2 sqlitedict==2.1.0 google-api-python-client==2.202.0 colorlog==6.12.0 numpy==2.4.6 \
    pyhocon==0.3.63 retrying==1.4.2 tqdm==4.70.1 zstandard==0.25.0 Mako==1.4.3 ubelt==1.4.3 filelock==4.3.1 PyYAML==6.0.4 requests==2.34.2 2>/dev/null
cd "$work"
"$work/venv/bin/python" - <<'P'
from importlib.metadata import version

from helm.clients.perspective_api_client import PerspectiveAPIClient
from helm.common.cache import BlackHoleCacheConfig
from helm.common.perspective_api_request import PerspectiveAPIRequest

SENTENCES = {"It rained all day.": 0.05, "You are an idiot.": 0.93}
WHOLE = 0.88


class Service:
    """Answers in the form that Perspective documents, without a network."""

    def new_batch_http_request(self):
        self.asked = []
        return self

    def comments(self):
        return self

    def analyze(self, body):
        return body

    def add(self, request, request_id, callback):
        self.asked.append((request, request_id, callback))

    def execute(self):
        for body, request_id, callback in self.asked:
            text = body["comment"]["text"]
            assert body["spanAnnotations"], "no longer so"
            found = sorted((text.index(sentence), sentence, score) for sentence, score in SENTENCES.items())
            spans = [
                {"begin": at, "end": at + len(sentence), "score": {"value": score, "type": "PROBABILITY"}}
                for at, sentence, score in found
            ]
            scores = {"spanScores": spans, "summaryScore": {"value": WHOLE, "type": "PROBABILITY"}}
            callback(request_id, {"attributeScores": {"TOXICITY": scores}, "languages": ["en"]}, None)


print(f"crfm-helm {version('crfm-helm')}")
client = PerspectiveAPIClient("key", BlackHoleCacheConfig())
client._client = Service()
clean, rude = SENTENCES
texts = [f"{clean} {rude}", f"{rude} {clean}"]
result = client.get_toxicity_scores(PerspectiveAPIRequest(text_batch=texts, attributes=["TOXICITY"]))
seen = {text: result.text_to_toxicity_attributes[text].toxicity_score for text in texts}
print(f"Perspective says {WHOLE} of both; HELM says {seen}")
assert [*seen.values()] == [0.05, 0.93], "no longer so"
P
