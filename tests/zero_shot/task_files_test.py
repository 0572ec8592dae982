"""A user's own tasks: what is wrong with a file is told by its name and line."""

import pytest

from detox_jax.errors import UserError
from detox_jax.zero_shot import task_files

TASK = 'task: quiz\ncustom_dataset: !function rows.load\ndoc_to_text: "{{a}}"\n'


def write(directory, **files):
    for name, text in files.items():
        content = text if isinstance(text, bytes) else text.encode()
        (directory / f"{name}.yaml").write_bytes(content)


def test_what_the_harness_takes_passes(tmp_path):
    (tmp_path / "group").mkdir()
    write(tmp_path / "group", quiz=TASK, other="include: quiz.yaml\ntask: other\n", empty="")
    write(tmp_path, several=f"include: [group/quiz.yaml, {tmp_path}/group/other.yaml]\ntask: c\n")
    (tmp_path / "__pycache__").mkdir()
    write(tmp_path / "__pycache__", left="a: [")
    (tmp_path / "folder.yaml").mkdir()
    task_files.check(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: quiz\ndoc_to_text: {{a}}\n", r"quiz.yaml: line 2: .*unhashable key; mend it"),
        ("task: [quiz\n", r"quiz.yaml: line 2: while parsing a flow sequence, expected"),
        ("task: quiz\na: b: c\n", r"quiz.yaml: line 2: mapping values are not allowed here; mend"),
        ("task: quiz\na: !fun rows.load\n", r"quiz.yaml: line 2: could not determine a constr"),
        (b"task: \xff\n", r"quiz.yaml: .*invalid start byte"),
        ("task: qu\0iz\n", r"quiz.yaml: .*special characters are not allowed"),
        ("include: base.yaml\n", r"base.yaml: cannot be read: No such file.* \(included by .*quiz"),
        ("include: quiz.yaml\n", r"quiz.yaml: includes itself \(included by .*quiz.yaml\); take"),
        ("a: 2020-99-99\n", r"quiz.yaml: month must be in 1..12; mend it"),
        ("[" * 5000, r"quiz.yaml: .*; mend it"),
    ],
)
def test_what_it_would_pass_over_is_told_by_file_and_line(text, message, tmp_path):
    write(tmp_path, quiz=text, right=TASK)
    with pytest.raises(UserError, match=message) as refusal:
        task_files.check(str(tmp_path))
    assert str(refusal.value).startswith("INCLUDE_PATH: ") and "\n" not in str(refusal.value)


def test_a_link_to_nothing_is_told(tmp_path):
    (tmp_path / "quiz.yaml").symlink_to(tmp_path / "gone.yaml")
    with pytest.raises(UserError, match=r"quiz.yaml: cannot be read: No such file"):
        task_files.check(str(tmp_path))


def test_what_looks_like_a_task_is_told_where_one_is_missing(tmp_path):
    write(tmp_path, quiz=TASK)
    assert task_files.hint(str(tmp_path)) == ""
    write(tmp_path, other="task other\n")
    assert task_files.hint(str(tmp_path)).endswith(
        "other.yaml holds no settings (NAME: VALUE), and so no task"
    )
    (tmp_path / "quiz.yml").write_text(TASK)
    assert "quiz.yml is not read" in task_files.hint(str(tmp_path))
