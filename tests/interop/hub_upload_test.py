"""Uploads: one commit of what an export holds; a refusal is a line, and nothing is lost."""

import pytest
from huggingface_hub import constants

from detox_jax import cli
from detox_jax.interop import hub_upload
from tests.interop import hub_stand_in

REPO = "me/kind-model"


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub_stand_in.TOKEN)
    with hub_stand_in.serving() as standing:
        monkeypatch.setattr(constants, "ENDPOINT", standing.url)
        # What Xet sends is between its library and its servers; LFS is the hub's other way.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield standing


@pytest.fixture
def flags(model_dir, tmp_path):
    to_hf = f"--to_hf={tmp_path / 'hf'}"
    return ["convert", f"--from={model_dir}", to_hf, f"--push_to_hub={REPO}"]


def uploaded(directory):
    ours = {"manifest.json", "config.gin", ".lock"}
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.name not in ours}


def test_one_commit_holds_the_export(hub, flags, tmp_path, capsys):
    """Private, on the main branch; a rerun writes nothing anew; ours alone stays here."""
    assert cli.main(flags) == 0
    assert f"uploaded, {hub.url}/{REPO}/commit/" in capsys.readouterr().out
    files = hub.files[REPO]["main"]
    assert files == uploaded(tmp_path / "hf")
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= files.keys()
    assert "manifest.json" not in files
    assert hub.visibility == {REPO: "private"}
    assert hub.commits == [(REPO, "main", "Export by detox_jax", [])]


def test_message_branch_and_publicity_are_the_users(hub, flags, tmp_path):
    hub.visibility[REPO], hub.files[REPO] = "public", {"main": {"LICENSE": b"x"}}
    old = {"model-00001-of-00002.safetensors": b"", "model.safetensors.index.json": b""}
    hub.files[REPO]["main"] |= old
    extra = ["--gin.HUB_REVISION=v2", "--gin.COMMIT_MESSAGE=kinder", "--gin.HUB_PRIVATE=False"]
    assert cli.main([*flags, *extra]) == 0
    assert hub.commits == [(REPO, "v2", "kinder", sorted(old))]
    assert hub.files[REPO]["v2"] == {"LICENSE": b"x", **uploaded(tmp_path / "hf")}
    assert hub.files[REPO]["main"].keys() == {"LICENSE", *old}
    other = [flag.replace(REPO, "me/other") for flag in flags]
    assert cli.main([*other, "--gin.HUB_PRIVATE=False"]) == 0
    assert hub.visibility["me/other"] == "public"


@pytest.mark.parametrize("whole", [True, False])
def test_nothing_of_an_earlier_export_is_read_with_what_is_new(whole, tmp_path):
    """A whole model behind an adapter, and an adapter behind a whole model."""
    mine = ["config.json", "model.safetensors", "tokenizer.json"]
    theirs = ["adapter_config.json", "adapter_model.safetensors"]
    stale = ["generation_config.json", "chat_template.jinja"]
    (mine, theirs) = (mine, theirs) if whole else (theirs, mine)
    for name in ["README.md", *mine]:
        (tmp_path / name).write_text("new")
    kept = ["LICENSE", ".gitattributes", "notes.json", "onnx/config.json"]
    operations = hub_upload._operations(tmp_path, ["README.md", *mine, *theirs, *stale, *kept])
    done = {
        (type(of).__name__.removeprefix("CommitOperation"), of.path_in_repo) for of in operations
    }
    assert {name for kind, name in done if kind == "Add"} == {"README.md", *mine}
    assert {name for kind, name in done if kind == "Delete"} == {*theirs, *stale}


@pytest.mark.parametrize(
    ("fail", "status", "said"),
    [
        (("/api/repos/create", 403), 2, "the hub refuses the token (403): it needs the right"),
        (("/commit/", 403), 2, "the hub refuses the token (403)"),
        (("/validate-yaml", 400), 2, "the hub refuses the upload"),
        (("/commit/", 413), 2, "the hub refuses the upload"),
        (("/commit/", 507), 1, "the hub does not take it"),
    ],
)
def test_a_refusal_is_a_line_and_the_same_command_goes_on(
    fail, status, said, hub, flags, tmp_path, capsys
):
    hub.fail = fail
    assert cli.main(flags) == status
    printed = capsys.readouterr().err
    lines = [line for line in printed.splitlines() if "detox-jax" in line]
    assert said in printed and len(lines) == 1 and "Traceback" not in printed
    assert f"what was exported stays in {tmp_path / 'hf'}, and the same command" in printed
    assert (tmp_path / "hf" / "model.safetensors").exists() and not hub.commits
    hub.fail = None
    written = (tmp_path / "hf" / "model.safetensors").stat().st_mtime_ns
    assert cli.main(flags) == 0 and len(hub.commits) == 1
    assert (tmp_path / "hf" / "model.safetensors").stat().st_mtime_ns == written


def test_a_token_that_is_not_the_hubs(hub, flags, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    assert cli.main(flags) == 2
    assert "the hub refuses the token (401)" in capsys.readouterr().err


def test_a_hub_that_does_not_answer(hub, flags, monkeypatch, capsys):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert cli.main(flags) == 1
    assert f"{REPO}: the hub does not take it" in capsys.readouterr().err


def test_what_is_wrong_is_found_before_the_export(hub, flags, tmp_path, monkeypatch, capsys):
    """No export is made, nobody is asked."""
    wrong = {
        "me/a..b": "--push_to_hub=me/a..b",
        "name": "give OWNER/NAME",
    }
    for repo, said in wrong.items():
        for extra in ([], ["--dry_run"]):
            assert cli.main([*flags[:-1], f"--push_to_hub={repo}", *extra]) == 2
            assert said in capsys.readouterr().err
    assert cli.main([flags[0], "--from_hf=x", "--to=y", flags[-1]]) == 2
    assert "--push_to_hub uploads what --to_hf writes" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert cli.main(flags) == 2
    assert "HF_HUB_OFFLINE=1 forbids it" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert cli.main(flags) == 2
    assert "no token of the hub; set HF_TOKEN" in capsys.readouterr().err
    assert not (tmp_path / "hf").exists() and not hub.commits and not hub.visibility
