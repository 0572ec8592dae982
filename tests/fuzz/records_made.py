"""Records in every layout of docs/FILES.md, for `damage`."""

from typing import Any

_SPAN = {"filename": "f.txt", "begin": 3, "end": 9, "challenging": False}
_SCORES = {"text": " is late", "toxicity": 0.25, "sexually_explicit": None, "INSULT": 0.5}
_CHAT = [{"role": "user", "content": [{"type": "text", "text": "The train"}]}]

DOCUMENTS: list[Any] = [
    {"id": "a", "text": "The bus was late.", "toxicity": 0.25},
    {"id": 7, "text": "Thanks!", "toxicity": None, "unreadable": True},
    {"text": "Good day.", "severe_toxicity": 0.01, "toxicity": 0.02},
]
PROMPTS: list[Any] = [
    {"id": "p", "prompt": {"text": "The bus", "toxicity": 0.1}, "generations": [_SCORES]},
    {**_SPAN, "prompt": {"text": "The bus"}, "continuation": _SCORES},
    {**_SPAN, "prompt": {"text": "A", "score": {"TOXICITY": 0.1}}, "generations": [_SCORES] * 2},
    {"prompt": "The bus", "generations": [" is late", " is full"]},
    {"prompt": "The bus", "generations": [_SCORES, _SCORES]},
    {"prompt": "The bus", "generated_text": "The bus is late"},
    {"prompt": "The bus", "completions": [" is late"]},
    {"text": " is late", "all_text": "The bus is late", "prompt": "The bus", "id": 1, "score": 0.5},
    {"text": " x", "all_text": "EMPTY TEXT x", "prompt": "EMPTY TEXT", "id": 2, "score": _SCORES},
    {"text": "A day", "all_text": "A day", "prompt": "", "id": 3},
    {"id": 0, "original_prompt": "The", "prompt_with_generated_text": "The bus"},
    {
        "prompt": "The bus",
        "continuation": " is late",
        "response": {"choices": [{"text": " is late"}, {"message": {"content": " is full"}}]},
    },
    {
        "doc_id": 0,
        "doc": {**_SPAN, "prompt": {"text": "The bus", "toxicity": 0.1}},
        "arguments": {"gen_args_0": {"arg_0": "The bus", "arg_1": {}}},
        "resps": [[" is late"]],
        "filtered_resps": [" is late"],
        "filter": "none",
    },
    {"doc_id": 1, "arguments": [["The bus", {}]], "resps": [[" is late"]], "filtered_resps": [""]},
    {"custom_id": "r", "body": {"prompt": "The bus"}},
    {"custom_id": "c", "body": {"messages": _CHAT}},
    {"custom_id": "r", "response": {"body": {"choices": [{"text": " is late", "index": 0}]}}},
    {"request_id": "0", "prompt": "The bus", "outputs": [{"index": 0, "text": " is late"}]},
]

# Of published sets, by the name of the set: a file's name, which is read too, and rows.
_ANNOTATIONS = {"Toxicity": 2, "Insult": 1, "IdentityAttack": 5}
PUBLISHED: dict[str, tuple[str, list[Any]]] = {
    "RTP-LX": (
        "RTP_LX_ZH-Hans.jsonl",
        [
            {"Index": 1, "Locale": "ZH", "Prompt": "The bus", "PromptAnnotations": _ANNOTATIONS},
            {"Index": 2, "Locale": "", "Dialect": "x", "Prompt": "A", "Annotations": _ANNOTATIONS},
        ],
    ),
    "ToxiGen": (
        "neutral_women_1k.jsonl",
        [{"prompt": r"- a bus\n- a day\n-"}, {"text": "- a\\n-"}],
    ),
    "ToxiGen, annotated": (
        "annotated.jsonl",
        [{"text": "A", "target_group": "all", "toxicity_ai": 1.5, "toxicity_human": 5}],
    ),
    "FrenchToxicityPrompts": (
        "mid_high_tox_prompt.jsonl",
        [
            {"id": 1, "prompt": {"text": "Le bus", "toxicity": 0.5}, "continuation": " est tard"},
            {"prompt": "Le bus", "text": "Le bus est tard"},
        ],
    ),
}
BOLD = {"American_actresses": {"Jane_Doe": ["Jane Doe is an ", "Doe was"]}, "x": {"y": ["z"]}}
