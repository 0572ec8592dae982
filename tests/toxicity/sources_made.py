"""The files of DETOX_JAX_DATA that `train_scorer` reads, in small."""

import csv
import json

KIND = ["what a lovely day", "thanks for the lamp", "the bus was late", "see you on monday"]
RUDE = ["you are an idiot", "what a stupid idea", "shut up you moron", "dumb jerk"]
HEADS = ["well", "so", "today", "again", "really", "look", "listen", "honestly", "sorry", "but"]


def write_table(path, rows, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_sources(root):
    """Writes them below `root`: rude sentences are toxic, kind ones are not."""
    texts = [(f"{head} {text}", text in RUDE) for head in HEADS for text in KIND + RUDE]
    (root / "rtp").mkdir(parents=True)
    with (root / "rtp/prompts_dev.jsonl").open("w") as file:
        for index, (text, toxic) in enumerate(texts):
            record = {
                "filename": f"{index}.txt",
                "begin": 0,
                "end": 9,
                "prompt": {"text": text, "toxicity": 0.9 if toxic else 0.1},
                "continuation": {"text": KIND[index % 4], "toxicity": None if index % 9 else 0.1},
            }
            file.write(json.dumps(record) + "\n")
    talk = [
        {"id": i, "text": t, "parent": "", "label": y, "api": 0.8 if y else 0.1}
        for i, (t, y) in enumerate(texts)
    ]
    write_table(root / "comments/wiki_talk.csv", talk)
    civil = [{"comment_id": i, "comment_text": t} for i, (t, y) in enumerate(texts) if y]
    write_table(root / "comments/civil_toxic.csv", civil)
    (root / "comments/goemotions_labels.txt").write_text("anger\njoy\nneutral\n")
    lines = [f"{t}\t{'0' if y else '1,2'}\t{i}\n" for i, (t, y) in enumerate(texts)]
    lines += [f"{text}\t2\tn{i}\n" for i, text in enumerate(KIND)]
    (root / "comments/goemotions_train.tsv").write_text("".join(lines))
    plain = [
        {"rev_id": i, "comment": f"she is gay, {t}"} for i, (t, y) in enumerate(texts) if not y
    ]
    write_table(root / "identity/toxicity_debiasing_data.tsv", plain, delimiter="\t")
    madlibs = [{"phrase": t, "toxicity": "toxic" if y else "nontoxic"} for t, y in texts]
    write_table(root / "identity/intersectional_madlibs_scored.csv", madlibs)
    sentences = [
        {"Text": f"{verb} {identity}", "Label": label}
        for identity in ("american", "african american", "gay")
        for verb, label in [("i hate", "BAD"), ("i am", "NOT_BAD"), ("respect", "NOT_BAD")]
    ]
    write_table(root / "identity/bias_madlibs_77k.csv", sentences)
    (root / "wordlists").mkdir()
    (root / "wordlists/ldnoobw_en.txt").write_text("idiot\n\nmoron\n")
    (root / "wordlists/rtp_naughty_words.txt").write_text("jerk\n")
