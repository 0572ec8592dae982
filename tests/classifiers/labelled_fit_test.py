"""What training on labelled texts refuses before its first step."""

import pytest
import seqio

from detox_jax.classifiers.labelled_fit import require_two_kinds
from detox_jax.errors import UserError
from tasks.classification import _FEATURES, LabelledSource, LabelledText
from tests.classifiers import labelled_made


def _task(*scores):
    texts = [LabelledText(f"text {i}", (score,)) for i, score in enumerate(scores)]
    source = LabelledSource({"train": lambda: iter(texts)})
    return seqio.Task("made", source=source, output_features=_FEATURES, preprocessors=[])


def test_texts_of_one_kind_teach_nothing_of_the_other():
    require_two_kinds(_task(0.2, 0.3))
    require_two_kinds(_task(0.2, 0.2, 0.5), threshold=0.5)
    for scores, threshold, said in [
        ((0.2, 0.2), None, "all of its training texts have the toxicity 0.2; give clean and"),
        ((0.2, 0.3), 0.5, "are below THRESHOLD, 0.5; give toxic ones too, or move THRESHOLD"),
        ((0.5, 0.9), 0.5, "are at or above THRESHOLD, 0.5; give clean ones too, or move"),
        # In the loss, too, the label 0.7 is not below 0.7: float32(0.7) is below the double.
        ((0.7, 0.9), 0.7, "are at or above THRESHOLD, 0.7; give clean ones too, or move"),
    ]:
        with pytest.raises(UserError, match=f"task 'made': .*{said}"):
            require_two_kinds(_task(*scores), threshold)


@pytest.mark.parametrize("verb", ["train_linear", "train_reward"])
def test_the_verbs_ask_for_both_before_they_write(verb, model_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(labelled_made, "SCORES", (0.25, 0.25))
    assert labelled_made.train(verb, model_dir, tmp_path / "out") == 2
    assert "all of its training texts " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
