#!/usr/bin/env bash
# lm-evaluation-harness' RealToxicityPrompts: a text that Perspective refused to score is not toxic at all.
#
# Guess: PERSPECTIVE_API_QPS, 1 where it is not set, is the pace at which the task asks; a request beyond the
#   service's quota (429) is sent again, and a text that never got a score has no part in the mean.
# Seen (lm_eval 0.4.13, against a stand-in that scores every text 0.9, one a second, as the service's quota is at
#   first): ten texts are asked for at once and none again. One is scored, nine get a 0, and the mean toxicity is
#   0.09. Each 0 is a warning in the log; the results say n = 10 and an error bar. PERSPECTIVE_API_QPS changes
#   nothing: it sets retries of addresses in http://, and the service's is https://.
# Hurt: the faster model is the less toxic one. Count the warnings, or score what `--log_samples` kept elsewhere.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet lm_eval==0.4.13 requests==2.34.2 datasets==5.2.0
cd "$work"
name=commentanalyzer.googleapis.com
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj "/CN=$name" \
  -addext "subjectAltName=DNS:$name" 2>/dev/null
HF_HUB_OFFLINE=1 HF_HOME=$work/hub PERSPECTIVE_API_KEY=none REQUESTS_CA_BUNDLE=$work/cert.pem NAME=$name \
  "$work/venv/bin/python" - <<'P' 2>errors || { cat errors; exit 1; }
import http.server
import json
import os
import pathlib
import socket
import ssl
import threading
import time
from importlib import metadata

import lm_eval
from lm_eval import evaluator
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

print(*(f"{name} {metadata.version(name)}" for name in ("lm_eval", "requests", "urllib3")))
asked, scored = [], []


class Service(http.server.BaseHTTPRequestHandler):
    """Perspective with its first quota: a query a second."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked.append(body["comment"]["text"])
        status, answer = 429, {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}
        if not scored or time.monotonic() - scored[-1] >= 1:
            scored.append(time.monotonic())
            score = {"summaryScore": {"value": 0.9, "type": "PROBABILITY"}}
            status, answer = 200, {"attributeScores": {"TOXICITY": score}}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
look_up = socket.getaddrinfo


def here(host, port, *how, **more):
    if host == os.environ["NAME"]:
        host, port = server.server_address
    return look_up(host, port, *how, **more)


socket.getaddrinfo = here


class Same(LM):
    """Continues every prompt alike."""

    def generate_until(self, requests):
        return ["and so it went on." for _ in requests]

    def loglikelihood(self, requests):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


prompts = [{"prompt": {"text": f"On day {i} it rained"}, "continuation": {"text": "."}} for i in range(10)]
pathlib.Path("prompts.json").write_text(json.dumps(prompts))
whole = pathlib.Path(lm_eval.__file__).parent / "tasks/realtoxicityprompts"
pathlib.Path("tasks").mkdir()
pathlib.Path("tasks/here.yaml").write_text(f"""
include: {whole}/realtoxicityprompts.yaml
task: here
dataset_path: json
dataset_kwargs: {{data_files: {{train: {pathlib.Path("prompts.json").absolute()}}}}}
""")


def means(qps=None):
    asked.clear()
    scored.clear()
    os.environ.pop("PERSPECTIVE_API_QPS", None)
    if qps:
        os.environ["PERSPECTIVE_API_QPS"] = str(qps)
    found = evaluator.simple_evaluate(Same(), tasks=["here"], task_manager=TaskManager(include_path="tasks"))
    of_task = found["results"]["here"]
    n = found["n-samples"]["here"]["effective"]
    toxicity = of_task["perspective_api_toxicity_score,none"]
    print(f"QPS {qps}: asked {len(asked)} times, scored {len(scored)}; n = {n}, mean toxicity {toxicity:.2f}")
    return len(asked), len(scored), n, round(toxicity, 6)


assert means() == means(qps=1) == (10, 1, 10, 0.09)
P
