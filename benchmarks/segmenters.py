"""How far ICU's words agree with those of segmenters of one language (docs/PANEL.md).

pip install jieba fugashi unidic-lite pythainlp
python -m benchmarks.segmenters
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from detox_jax import segmenters

# The beginnings of articles 1 to 5 of the Universal Declaration of Human Rights.
TEXTS = {
    "zh": [
        "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
        "人人有资格享有本宣言所载的一切权利和自由，不分种族、肤色、性别、语言、宗教、政治或其他见解、国籍或社会出身、财产、出生或其他身分等任何区别。",
        "人人有权享有生命、自由和人身安全。",
        "任何人不得使为奴隶或奴役；一切形式的奴隶制度和奴隶买卖，均应予以禁止。",
        "任何人不得加以酷刑，或施以残忍的、不人道的或侮辱性的待遇或刑罚。",
    ],
    "ja": [
        "すべての人間は、生れながらにして自由であり、かつ、尊厳と権利とについて平等である。人間は、理性と良心とを授けられており、互いに同胞の精神をもって行動しなければならない。",
        "すべて人は、生命、自由及び身体の安全に対する権利を有する。",
        "何人も、奴隷にされ、又は苦役に服することはない。奴隷制度及び奴隷売買は、いかなる形においても禁止する。",
        "何人も、拷問又は残虐な、非人道的な若しくは屈辱的な取扱若しくは刑罰を受けることはない。",
    ],
    "th": [
        "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ "
        "ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
        "บุคคลมีสิทธิในการดำเนินชีวิต ในเสรีธรรมและในความมั่นคงแห่งร่างกาย",
        "บุคคลใดจะถูกบังคับให้เป็นทาส หรืออยู่ในภาระจำยอมใด ๆ มิได้ การเป็นทาสและการค้าทาสจะมีไม่ได้ทุกรูปแบบ",
    ],
}


def main() -> None:
    """Prints a line a language."""
    import fugashi
    import jieba
    from pythainlp import tokenize

    tagger: Any = fugashi.Tagger()
    others: dict[str, tuple[str, Callable[[str], Iterable[str]]]] = {
        "zh": ("jieba", jieba.cut),
        "ja": ("fugashi", lambda text: [word.surface for word in tagger(text)]),
        "th": ("pythainlp", lambda text: tokenize.word_tokenize(text, engine="newmm")),
    }
    icu = segmenters.Icu()
    for language, texts in TEXTS.items():
        name, other = others[language]
        pairs = [
            (_ends(icu.spaced(text).split()), _ends(_with_punctuation(other(text))))
            for text in texts
        ]
        both = sum(len(ours & theirs) for ours, theirs in pairs)
        ours, theirs = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
        print(
            f"{language}: {sum(map(len, texts))} characters, white space "
            f"{sum(len(text.split()) for text in texts)}, ICU {ours}, {name} {theirs} words, "
            f"F1 of boundaries {2 * both / (ours + theirs):.3f}"
        )


def _with_punctuation(words: Iterable[str]) -> list[str]:
    """Words with the punctuation behind them, as ours have it."""
    joined: list[str] = []
    for word in words:
        if not joined or any(map(str.isalnum, word)):
            joined += [word] if word.strip() else []
        else:
            joined[-1] += word.strip()
    return joined


def _ends(words: Iterable[str]) -> set[int]:
    """Where words end, white space not counted."""
    ends, place = set(), 0
    for word in words:
        place += len("".join(word.split()))
        ends.add(place)
    return ends


if __name__ == "__main__":
    main()
