"""Records by the block: the same as `records` reads, refused with the same words."""

import gzip
import json

import pytest

from detox_jax import bad_records, record_blocks, records
from detox_jax.errors import UserError
from detox_jax.formats import jsonl, plain_documents


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
