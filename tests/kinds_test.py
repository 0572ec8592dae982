"""Values against annotations: what fits, as what, and how a misfit is said."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

import pytest

from detox_jax import kinds
from detox_jax.kinds import Made, MisfitError, fitted


class Draws(Protocol):
    def sample(self, seed: int) -> int: ...


class Dice:
    def sample(self, seed: int) -> int:
        return seed


class Scores(Protocol):
    def __call__(self, *, input: str) -> None: ...


MADE = Made(Dice, True, "@module.Dice()")
GIVEN = Made(Dice, False, "@module.Dice")
AUTO: Any = Annotated[str, kinds.OneOf(("auto",))]


@pytest.mark.parametrize(
    ("value", "kind", "result"),
    [
        (1000.0, int, 1000),
        (3, float, 3),
        (None, int | None, None),
        ({"targets": 1e3}, Mapping[str, int], {"targets": 1000}),
        ({"data": 2}, Mapping[str, int] | str | None, {"data": 2}),
        ((1.0, 2), Sequence[int], (1, 2)),
        ([True], Sequence[bool], [True]),
        (0.5, kinds.Share, 0.5),
        ("bfloat16", kinds.Dtype | None, "bfloat16"),
        ("b", Literal["a", "b"], "b"),
        (object, Any, object),
        (MADE, Draws, MADE),
        (MADE, Dice | None, MADE),
        (GIVEN, Scores, GIVEN),
        ({"ngram": GIVEN}, Mapping[str, Scores], {"ngram": GIVEN}),
        (GIVEN, Callable[..., Any], GIVEN),
        (Made(print, True, "@module.make()"), Draws, Made(print, True, "@module.make()")),
    ],
)
def test_what_fits(value, kind, result):
    fitting = fitted(value, kind)
    assert fitting == result and type(fitting) is type(result)


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (2.5, int, "expected a whole number, got 2.5"),
        (True, int, "expected a whole number, got True"),
        (1, bool, "expected True or False, got 1"),
        ("fast", float, "expected a number, got 'fast'"),
        (float("nan"), float, "is not finite"),
        (10**30, int, "is too large"),
        (2024, str, "expected text, got 2024"),
        (0, kinds.Count | None, "must be at least 1, got 0"),
        (1.5, kinds.Share, "must be from 0 to 1, got 1.5"),
        (0, kinds.Positive, "must be above 0, got 0"),
        (10**9, kinds.Draws, "must be from 1 to 1,000,000, got 1000000000"),
        ("fp16", kinds.Dtype, "must be one of float32, bfloat16, got 'fp16'"),
        (128, Mapping[str, int], "expected a dict of whole numbers by name, got 128"),
        ({"targets": 2.5}, Mapping[str, int] | None, "'targets': expected a whole number, got 2.5"),
        ("a", Sequence[str], "expected a list of texts, got 'a'"),
        ([1, "b"], Sequence[int], "item 1: expected a whole number, got 'b'"),
        ((1, 2), tuple[int], "expected a list of whole numbers"),
        ("c", Literal["a", "b"], "expected one of a, b, got 'c'"),
        ("dice", Draws, "expected a Draws, got 'dice'"),
        (GIVEN, Draws, "got @module.Dice: write @module.Dice()"),
        (GIVEN, Draws | None, "got @module.Dice: write @module.Dice(), with the parentheses"),
        (MADE, Sequence[Draws], "got @module.Dice(): write [@module.Dice()], with the brackets"),
        (MADE, Sequence[Draws] | None, "write [@module.Dice()], with the brackets"),
        ("a", Sequence[str], "got 'a': write ['a'], with the brackets"),
        ({"a": "b"}, Sequence[Mapping[str, str]], "write [{'a': 'b'}], with the brackets"),
        (
            {"a": 1, "b": "c"},
            Sequence[Mapping[str, str]] | None,
            "write [{'a': '1', 'b': 'c'}], with the brackets and the quotes",
        ),
        ("maybe", AUTO | bool, "must be one of auto, or True or False, got 'maybe'"),
        ("maybe", AUTO | bool | None, "must be one of auto, or True or False, got 'maybe'"),
        ("maybe", AUTO | None, "must be one of auto, got 'maybe'"),
        (MADE, int, "expected a whole number, got @module.Dice()"),
        (Made(str, True, "@module.Text()"), Draws, "expected a Draws, got @module.Text()"),
        ("ngram", Scores, "expected a reference, @NAME, got 'ngram'"),
        (5, str | None, "expected text or None, got 5"),
        ("a\nb", int, "got 'a\\nb'"),
        ({"a": 1}, Annotated[str, "note"], "expected text"),
    ],
)
def test_a_misfit_is_said_in_one_line(value, kind, said):
    with pytest.raises(MisfitError) as error:
        fitted(value, kind)
    assert said in str(error.value) and "\n" not in str(error.value)
