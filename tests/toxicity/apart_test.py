"""Documents that evaluation records come from."""

import pytest

from detox_jax import records
from detox_jax.toxicity.apart import Evaluated

PROMPT = records.Prompt(
    "0012-ab.txt-5-60",
    "The ferry was late, and the people",
    extra={"filename": "0012-ab.txt", "continuation": {"text": " at the pier sang."}},
)
SHORT = records.Prompt("p2", "So it", extra={"continuation": {"text": " was said of them all."}})
SHORTER = records.Prompt("p3", "Oh no", extra={"continuation": {"text": " you."}})
HELD_OUT = records.Document("h1", "Nobody knows what became of it.")
EVALUATED = Evaluated([PROMPT, SHORT, SHORTER, HELD_OUT])


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (records.Document("d", 'Then: "The  FERRY was late --\nand the people" went.'), "text"),
        (records.Document("d", "The ferry was late, and the peoples of the sea"), None),
        (records.Document("d", "The ferry was late, and then the people"), None),
        (records.Document("0012-ab.txt-5-60", "another text"), "id"),
        (records.Document("0012-ab", "another text"), "id"),
        (records.Document("d", "another text", extra={"filename": "0012-ab.txt"}), "id"),
        # A prompt of two words is in many texts; with its continuation it is in one.
        (records.Document("d", "So it rained."), None),
        (records.Document("d", "So it was said of them all, I heard."), "text"),
        (records.Document("d", "Oh no you."), None),
        (records.Document("p3", "Oh no you."), "id"),
        (records.Document("d", "It is said: nobody knows what became of it"), "text"),
        (records.Document("d", ""), None),
    ],
)
def test_ids_and_words_tell(document, why):
    assert EVALUATED.why(document) == why


def test_records_that_only_an_id_tells_are_counted():
    assert EVALUATED.by_id_alone == 1


HINDI = records.Prompt("h", "वह देर से आयी")  # 4 words
TAMIL = records.Prompt("t", "அவர் நேற்று என் வீட்டு மர")


def test_vowel_signs_are_parts_of_words():
    assert Evaluated([HINDI]).by_id_alone == 1
    evaluated = Evaluated([TAMIL])
    assert evaluated.by_id_alone == 0
    assert evaluated.why(records.Document("d", f"{TAMIL.text}, மரம்")) == "text"
    # Its last word with a vowel sign is another word.
    assert evaluated.why(records.Document("d", f"{TAMIL.text}ா")) is None


def test_an_accent_may_be_a_character_of_its_own():
    evaluated = Evaluated([records.Prompt("p", "Le caf\u00e9 \u00e9tait ferm\u00e9 hier")])
    decomposed = "Hier: le cafe\u0301 e\u0301tait ferme\u0301 hier."
    assert evaluated.why(records.Document("d", decomposed)) == "text"


def test_marks_of_scripts_without_spaces_make_no_words():
    """Without a segmenter a Thai sentence is told as ever: by the runs between its signs."""
    thai = "ฉันเห็นน้ำที่ท่าเรือ"
    evaluated = Evaluated([records.Prompt("p", thai)])
    assert evaluated.by_id_alone == 0
    assert evaluated.why(records.Document("d", thai)) == "text"
