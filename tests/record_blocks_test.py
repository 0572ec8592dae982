"""Records by the block: the same as `records` reads, refused with the same words."""

import gzip
import json

import numpy as np
import pytest

from detox_jax import bad_records, record_blocks, records
from detox_jax.errors import UserError
from detox_jax.formats import jsonl, plain_documents, plain_prompts


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """A few lines each, so that a file of some lines has many."""
    monkeypatch.setattr(jsonl, "_LINES_BLOCK", 200)
    monkeypatch.setattr(record_blocks, "_RECORDS_AT_ONCE", 3)


def line(i, **more):
    return json.dumps({"id": f"d{i:02}", "text": f"text {i}", "toxicity": i / 100, **more})


PLAIN = [line(i) for i in range(40)]
PROMPT = '{"prompt": {"text": "p"}, "generations": [{"text": "g"}]}'
OTHER = '{"id": "q", "prompt": {"text": "q"}, "generations": [{"text": "g"}]}'
INPUTS = {
    "plain": PLAIN,
    "blank lines": [text for pair in zip(PLAIN, [""] * 40, strict=True) for text in pair],
    "others among them": [line(i, n=i) if i in (17, 30) else PLAIN[i] for i in range(40)],
    "others alone": [line(i, n=i) for i in range(40)],
    "samples of a prompt between documents": [*PLAIN[:20], PROMPT, PROMPT, *PLAIN[20:], OTHER],
    "without ids": [line(i, id=None, text=f"text {i % 3}") for i in range(12)],
}
REFUSED = {
    "twice": [*PLAIN, PLAIN[3]],
    "twice, then malformed": [*PLAIN, PLAIN[3], *[line(i) for i in range(40, 60)], "{"],
    "malformed, then twice": [*PLAIN[:20], "{", *PLAIN[20:], PLAIN[3]],
    "twice, once with more": [*PLAIN, line(3, n=1)],
    "beyond 1": [*PLAIN, line(41, toxicity=1.01)],
    "no record": [""],
}


def read(source, aside=None, **how):
    return [
        record
        for _, blocks in record_blocks.read_by_file(str(source), aside, **how)
        for block in blocks
        for record in record_blocks.as_records(block)
    ]


def write(path, lines):
    path.write_text("".join(f"{text}\n" for text in lines))
    return path


@pytest.mark.parametrize("name", INPUTS)
def test_records_are_those_that_records_reads(name, tmp_path):
    source = write(tmp_path / "in.jsonl", INPUTS[name])
    expected = list(records.read_records(str(source)))
    assert read(source) == read(source, again=True) == expected
    aside = bad_records.opened(bad_records.SetAside(str(tmp_path / "aside.jsonl")))
    assert aside is not None
    assert read(source, aside) == expected and aside.num_records == len(
        [text for text in INPUTS[name] if text]
    )


def test_a_block_of_whole_lines_is_plain_until_another_line_comes(tmp_path):
    source = write(tmp_path / "in.jsonl", INPUTS["others among them"])
    ((_, blocks),) = record_blocks.read_by_file(str(source))
    kinds = [isinstance(block, plain_documents.Plain) for block in blocks]
    assert kinds[:3] == [True] * 3 and not any(kinds[8:])


@pytest.mark.parametrize("name", INPUTS)
def test_the_first_records_are_all_by_the_block_or_a_few_one_by_one(name, tmp_path, monkeypatch):
    source = write(tmp_path / "in.jsonl", INPUTS[name])
    expected = list(records.read_records(str(source)))
    lines, parsed = [], jsonl.parsed
    monkeypatch.setattr(jsonl, "parsed", lambda raw, where: lines.append(raw) or parsed(raw, where))
    for limit, number in ((None, len(expected)), (5, 5), (1000, len(expected))):
        lines.clear()
        blocks = record_blocks.first(str(source), limit)
        assert [r for b in blocks for r in record_blocks.as_records(b)] == expected[:number]
        assert limit != 5 or len(lines) < 9
        assert (limit, name) != (None, "plain") or not lines


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("documents", [True, False])
def test_what_is_wrong_is_said_as_records_says_it(name, documents, tmp_path):
    source = write(tmp_path / "in.jsonl", REFUSED[name])
    with pytest.raises(UserError) as expected:
        list(records.read_records(str(source)))
    with pytest.raises(UserError) as error:
        read(source, documents=documents)
    assert str(error.value) == str(expected.value)


def test_an_id_in_two_files_is_refused_and_so_are_prompts_among_documents(tmp_path):
    write(tmp_path / "a.jsonl", PLAIN)
    write(tmp_path / "b.jsonl", PLAIN[39:])
    with pytest.raises(UserError, match=r"b\.jsonl:1: duplicate id 'd39'"):
        read(f"{tmp_path}/*.jsonl")
    mixed = write(tmp_path / "mixed.jsonl", [*PLAIN, OTHER, "{"])
    with pytest.raises(UserError, match="holds prompts"):
        read(mixed, documents=True)


def test_two_ids_of_one_hash_are_no_repetition(tmp_path, monkeypatch):
    monkeypatch.setattr(record_blocks, "hash", lambda text: 0, raising=False)
    source = write(tmp_path / "in.jsonl", PLAIN)
    assert len(read(source)) == 40


def test_a_compressed_file_that_is_cut_short_is_refused_with_its_line(tmp_path):
    whole = gzip.compress("\n".join(PLAIN).encode(), mtime=0)
    (tmp_path / "in.jsonl.gz").write_bytes(whole[:-30])
    with pytest.raises(UserError) as expected:
        list(records.read_records(f"{tmp_path}/in.jsonl.gz"))
    with pytest.raises(UserError) as error:
        read(f"{tmp_path}/in.jsonl.gz")
    assert str(error.value) == str(expected.value)


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_groups_have_their_size_and_all_records_in_order(name, size, tmp_path):
    source = write(tmp_path / "in.jsonl", INPUTS[name])
    expected = list(records.read_records(str(source)))
    ((_, blocks),) = record_blocks.read_by_file(str(source))
    groups = [record_blocks.as_records(g) for g in record_blocks.in_groups(blocks, size)]
    assert [record for group in groups for record in group] == expected
    assert {len(group) for group in groups[:-1]} <= {size}
    assert len(groups) == -(-len(expected) // size)


# --- prompts ----------------------------------------------------------------------------------


def prompt_line(i, **more):
    texts = [{"text": f" {i} {k}", "toxicity": k / 4} for k in range(3)]
    return json.dumps(
        {"id": f"p{i:02}", **more, "prompt": {"text": f"So {i}"}, "generations": texts}
    )


PROMPTS = [prompt_line(i) for i in range(20)]
PROMPT_INPUTS = {
    "plain": PROMPTS,
    "others among them": [*PROMPTS[:9], prompt_line(30, list=[1]), *PROMPTS[9:]],
    "samples of a prompt among them": [*PROMPTS[:9], PROMPT, PROMPT, *PROMPTS[9:]],
}
NO_PROMPTS = {
    "a document": [*PROMPTS, line(1)],
    "twice": [*PROMPTS, PROMPTS[3]],
    "malformed, then twice": [*PROMPTS[:9], "{", *PROMPTS[9:], PROMPTS[3]],
    "a field twice": [*PROMPTS, prompt_line(40).replace('"toxicity"', '"text": "", "toxicity"', 1)],
    "beyond 1": [*PROMPTS, prompt_line(40).replace("0.5", "1.5")],
}


def flat(blocks):
    """Ids, texts, scores of the prompts, whatever they came as."""
    read = []
    for block in blocks:
        if isinstance(block, plain_prompts.Plain):
            ends = np.cumsum(block.counts)
            texts = zip(block.continuations, block.scores_T.tolist(), strict=True)
            several = list(texts)
            for i, end in enumerate(ends.tolist()):
                of = several[end - block.counts[i] : end]
                read.append((block.ids[i], block.texts[i], block.toxicity[i], of))
        else:
            read += [
                (p.id, p.text, p.toxicity, [(g.text, g.toxicity) for g in p.generations])
                for p in block
            ]
    return read


@pytest.mark.parametrize("name", PROMPT_INPUTS)
def test_prompts_are_those_that_records_reads(name, tmp_path):
    source = str(write(tmp_path / "in.jsonl", PROMPT_INPUTS[name]))
    blocks = list(record_blocks.read_prompts(source))
    assert flat(blocks) == flat([list(records.read_prompts(source))])
    plain = [isinstance(block, plain_prompts.Plain) for block in blocks]
    assert plain[0] and all(plain) == (name == "plain")
    for is_plain in {all(plain), False}:
        some = list(record_blocks.prompts_of(source, {"p03", "p11"}, is_plain))
        assert [prompt.id for prompt in some] == ["p03", "p11"]
        assert some == [p for p in records.read_prompts(source) if p.id in ("p03", "p11")]


@pytest.mark.parametrize("name", NO_PROMPTS)
def test_what_is_no_prompt_is_refused_as_records_refuses_it(name, tmp_path):
    source = str(write(tmp_path / "in.jsonl", NO_PROMPTS[name]))
    with pytest.raises(UserError) as expected:
        list(records.read_prompts(source))
    with pytest.raises(UserError) as raised:
        list(record_blocks.read_prompts(source))
    assert str(raised.value) == str(expected.value)


def test_a_few_prompts_of_many_are_parsed_alone(tmp_path, monkeypatch):
    source = str(write(tmp_path / "in.jsonl", PROMPTS))
    lines, parsed = [], jsonl.parsed
    monkeypatch.setattr(jsonl, "parsed", lambda raw, where: lines.append(raw) or parsed(raw, where))
    assert len(list(record_blocks.prompts_of(source, {"p03", "p11"}, True))) == 2
    assert len(lines) == 2
