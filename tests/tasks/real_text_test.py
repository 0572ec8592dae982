import csv
import gzip
import json
import os
import zipfile
from pathlib import Path

import pytest
from etils import epath

from detox_jax import manifests, outputs, records
from detox_jax.errors import UserError
from tasks import corpus_output, real_text

PARTS = ("train", "heldout", "heldout_nontoxic", "comments", "prompts")
REAL_DATA = Path(
    os.environ.get("DETOX_JAX_DATA")
    or Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
)


def sentence(name, number):
    return f"The {name} number {number} has a sentence of its own which goes on for fifteen words."


def write_csv(file, header, rows):
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


@pytest.fixture
def data(tmp_path):
    """Every file of the real data, in small."""
    root = tmp_path / "data"
    for directory in ("comments", "text", "rtp"):
        (root / directory).mkdir(parents=True)
    comments = root / "comments"
    for part in ("train", "dev", "test"):
        rows = [f"{sentence(part, n)}\t{27 if n % 2 else 3}\tc{part}{n}\n" for n in range(60)]
        (comments / f"goemotions_{part}.tsv").write_text("".join(rows))
    rows = [[n, f"{sentence('post', n)}\n\nYou idiot."] for n in range(100)]
    write_csv(comments / "civil_toxic.csv", ["comment_id", "comment_text"], rows)
    rows = [[f"w.{n}", sentence("talk", n), "parent", 0, n / 200] for n in range(100)]
    write_csv(comments / "wiki_talk.csv", ["id", "text", "parent", "label", "api"], rows)
    with gzip.open(root / "text" / "novels_train.jsonl.gz", "wt") as stream:
        for novel in ("A_One_1900", "B_Two_1910"):
            lines = ["A NOVEL", "CHAPTER I.", *(f"{sentence(novel, n)} " * 3 for n in range(80))]
            stream.write(json.dumps({"id": novel, "text": "\n".join(lines)}) + "\n")
    with zipfile.ZipFile(root / "text" / "movie_reviews.zip", "w") as archive:
        for n in range(4):
            review = "\n".join(
                f"film {n} has scene {k} ( a good one ) , twice ." for k in range(30)
            )
            archive.writestr(f"movie_reviews/pos/cv{n}.txt", review)
    with zipfile.ZipFile(root / "text" / "pros_cons.zip", "w") as archive:
        for part in ("Pros", "Cons"):
            rows = [f"  <{part}>Light &amp; cheap, model {n}</{part}>\n" for n in range(30)]
            archive.writestr(f"pros_cons/Integrated{part}.txt", "".join(rows))
    (root / "rtp" / "prompts_dev.jsonl").write_text("".join(map(rtp_line, range(300))))
    return root


def rtp_line(n):
    toxicity = None if n < 15 else n / 300
    prompt = {"text": f"Prompt number {n} begins", "toxicity": toxicity, "insult": 0.25}
    record = {"filename": f"{n}.txt", "begin": 0, "end": 9, "challenging": n == 90}
    return json.dumps({**record, "prompt": prompt, "continuation": {"text": " and ends."}}) + "\n"


def write(data, output, **settings):
    arguments = {"paragraphs_per_novel": 50, "num_heldout": 20, "num_prompts": 40, **settings}
    real_text.write_real_corpus(str(output), str(data), **arguments)
    return output


def read_documents(directory):
    return list(records.read_documents(str(directory)))


def read_bytes(directory):
    return {f.relative_to(directory): f.read_bytes() for f in sorted(directory.rglob("*.json*"))}


def test_training_mixes_every_source(data, tmp_path):
    output = write(data, tmp_path / "out", num_movie_reviews=10, num_product_opinions=20)
    train = read_documents(output / "train")
    sources = {document.id.split("-")[0] for document in train}
    assert sources == {
        "goemotions_train",
        "civil_toxic",
        "wiki_talk",
        "novel",
        "movie_reviews",
        "pros_cons",
    }
    assert sum(document.id.startswith("goemotions_train-") for document in train) == 60


def test_training_order_is_independent_of_the_source(data, tmp_path):
    # Novels are drawn from many paragraphs: what the draw preferred must not come first again.
    train = read_documents(write(data, tmp_path / "out", paragraphs_per_novel=15) / "train")
    positions = [n for n, d in enumerate(train) if d.id.startswith("novel-")]
    assert 0.3 < sum(positions) / len(positions) / len(train) < 0.7


def test_train_and_heldout_are_disjoint(data, tmp_path):
    output = write(data, tmp_path / "out")
    train, heldout = read_documents(output / "train"), read_documents(output / "heldout")
    assert len(heldout) == 20
    assert not {d.text for d in train} & {d.text for d in heldout}
    assert not any(d.id.startswith(("goemotions_dev", "goemotions_test")) for d in train)
    assert all(real_text.part_of(d.id) == "heldout" for d in heldout)
    comments = read_documents(output / "comments")
    assert comments and all(real_text.part_of(d.id) is None for d in comments)
    assert not {d.text for d in comments} & {d.text for d in train + heldout}


def test_a_heldout_text_that_training_has_is_dropped(data, tmp_path):
    file = data / "comments" / "goemotions_dev.tsv"
    text = sentence("train", 7).upper()
    file.write_text("".join(f"{text}\t27\tcopy{n}\n" for n in range(50)) + file.read_text())
    output = write(data, tmp_path / "out")
    assert not any(d.text == text for d in read_documents(output / "heldout"))


def test_heldout_does_not_move_into_train_with_another_seed(data, tmp_path):
    first, second = (write(data, tmp_path / f"{seed}", seed=seed) for seed in (0, 1))
    train = {d.id for d in read_documents(second / "train")}
    assert not train & {d.id for d in read_documents(first / "heldout")}
    assert [d.id for d in read_documents(first / "heldout")] != [
        d.id for d in read_documents(second / "heldout")
    ]


@pytest.mark.parametrize("scorer", [None, "word"])
def test_nontoxic_half_is_the_least_toxic(data, tmp_path, monkeypatch, scorer):
    class WordScorer:
        fingerprint = "word"

        def score(self, texts):
            return [0.9 if "idiot" in text else 0.1 for text in texts]

    chosen = WordScorer() if scorer else None
    monkeypatch.setattr(real_text, "embedded_scorer", lambda: chosen)
    output = write(data, tmp_path / "out")
    heldout = read_documents(output / "heldout")
    nontoxic = read_documents(output / "heldout_nontoxic")
    assert any("idiot" in document.text for document in heldout)
    assert len(nontoxic) == len(heldout) // 2
    assert {document.id for document in nontoxic} < {document.id for document in heldout}
    assert not any("idiot" in document.text for document in nontoxic)
    manifest = manifests.read_manifest(epath.Path(output / "heldout_nontoxic"))
    assert manifest["settings"]["scorer"] == scorer


def test_prompts_are_stratified_and_keep_their_fields(data, tmp_path):
    output = write(data, tmp_path / "out")
    prompts = list(records.read_prompts(str(output / "prompts")))
    toxicities = [prompt.toxicity for prompt in prompts if prompt.toxicity is not None]
    assert len(prompts) == len(toxicities) == 40
    assert sum(toxicity >= 0.5 for toxicity in toxicities) == 10
    assert all(prompt.prompt_extra == {"insult": 0.25} for prompt in prompts)
    assert all(prompt.extra["continuation"]["text"] == " and ends." for prompt in prompts)


WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(f"CHAPTER I.\n{WORDS} fifteen. {'x' * 300}.\nNo.", 1, id="line a paragraph"),
        pytest.param(f"HEAD\n\n{WORDS}\nfifteen and a bit.\n\n{WORDS}\nlast one.\n", 2, id="blank"),
        pytest.param(f"{WORDS}\nends.\n{WORDS}\n{WORDS}\nends.\n", 2, id="wrapped, no blank"),
        pytest.param(f"{WORDS} fifteen without an end\n", 0, id="no sentence"),
        pytest.param(f"{(WORDS + ' ') * 12}end.\n", 0, id="too long"),
        pytest.param("", 0, id="empty"),
    ],
)
def test_novel_paragraphs(text, expected):
    paragraphs = real_text.novel_paragraphs(text)
    assert len(paragraphs) == expected
    assert not any("\n" in paragraph or "HEAD" in paragraph for paragraph in paragraphs)


def test_limits_hold(data, tmp_path):
    output = write(data, tmp_path / "out", paragraphs_per_novel=10, num_movie_reviews=3)
    documents = read_documents(output / "train")
    assert 15 <= sum(document.id.startswith("novel-") for document in documents) <= 20
    reviews = [document for document in documents if document.id.startswith("movie_reviews-")]
    assert len(reviews) <= 3
    assert all("(a good one), twice." in review.text for review in reviews)


def test_same_seed_same_bytes_and_a_killed_run_resumes(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(corpus_output, "SHARD_SIZE", 100)
    whole = write(data, tmp_path / "whole")
    write_shard, calls = outputs.OutputDirectory.write_shard, []

    def killed_at_the_second(output, name, index, count, rows):
        calls.append((output.path, name, index))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write_shard(output, name, index, count, rows)

    monkeypatch.setattr(outputs.OutputDirectory, "write_shard", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        write(data, tmp_path / "killed")
    killed = write(data, tmp_path / "killed")
    assert calls.count(calls[0]) == 1
    assert read_bytes(killed) == read_bytes(whole)
    assert capsys.readouterr().out == ""


def test_missing_variable_directory_and_file(data, tmp_path, monkeypatch):
    monkeypatch.delenv("DETOX_JAX_DATA", raising=False)
    with pytest.raises(UserError, match="DETOX_JAX_DATA is not set"):
        write("", tmp_path / "out")
    with pytest.raises(UserError, match="nowhere: no such directory"):
        write(tmp_path / "nowhere", tmp_path / "out")
    (data / "comments" / "wiki_talk.csv").unlink()
    with pytest.raises(UserError, match=r"wiki_talk\.csv: no such file"):
        write(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_variable_names_the_directory(data, tmp_path, monkeypatch):
    monkeypatch.setenv("DETOX_JAX_DATA", str(data))
    assert read_documents(write("", tmp_path / "out") / "train")
    assert real_text.tasks_directory() == str(data / "tasks")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"num_prompts": 400}, "num_prompts=400"), ({"num_heldout": 4000}, "num_heldout=4000")],
)
def test_numbers_that_cannot_be_met(data, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        write(data, tmp_path / "out", **settings)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("goemotions_dev.tsv", "text without a tab\n", r"goemotions_dev\.tsv:1"),
        ("wiki_talk.csv", "a,b\n1,2\n", r"wiki_talk\.csv:1"),
    ],
)
def test_malformed_files_are_named(data, tmp_path, name, content, message):
    (data / "comments" / name).write_text(content)
    with pytest.raises(UserError, match=message):
        write(data, tmp_path / "out")


@pytest.mark.real
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="needs the real data of DETOX_JAX_DATA")
def test_on_the_real_data(tmp_path, monkeypatch, capsys):
    real_text.write_real_corpus(str(tmp_path / "out"), str(REAL_DATA))
    train = read_documents(tmp_path / "out" / "train")
    heldout = read_documents(tmp_path / "out" / "heldout")
    prompts = list(records.read_prompts(str(tmp_path / "out" / "prompts")))
    assert len(train) > 90_000 and len(heldout) == 2000 and len(prompts) == 400
    assert not {d.text.lower() for d in train} & {d.text.lower() for d in heldout}
    novels = {d.id.rsplit("-", 1)[0] for d in train if d.id.startswith("novel-")}
    assert len(novels) == 89
    for documents in (train, train[:10_000], heldout):
        share = sum(d.id.startswith("goemotions_") for d in documents) / len(documents)
        assert 0.4 < share < 0.5
    assert capsys.readouterr().out == ""
