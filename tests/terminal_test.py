"""How far some work is, without a terminal and on one; TensorFlow's notes stay off stderr."""

import asyncio
import gc
import io
import logging
import os
import re
import subprocess
import sys
import threading
import time

import pytest
from rich import progress

from detox_jax import terminal
from detox_jax.compilations import COMPILATIONS
from detox_jax.parallel import processes
from tests.conftest import write_tiny_run

NOTES = (
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    b"I0000 00:00:1795539511.146310   13076 cudart_stub.cc:31] Could not find cuda drivers\n"
    b"E0000 00:00:1795539511.146310   13076 cuda_platform.cc:52] failed call to cuInit: none\n"
)
ERRORS = b"E0000 00:00:1795539511.146310   13076 file.cc:7] a real error\nTraceback\n"


def test_notes_are_dropped_and_the_rest_is_written(capfd):
    with terminal.without_notes():
        os.write(2, NOTES + ERRORS)
    assert capfd.readouterr().err.encode() == ERRORS


def test_an_exception_passes_and_stderr_is_put_back(capfd):
    with pytest.raises(RuntimeError), terminal.without_notes():
        os.write(2, ERRORS)
        raise RuntimeError
    os.write(2, NOTES)
    assert capfd.readouterr().err.encode() == ERRORS + NOTES


def test_what_xla_says_while_it_ends_the_process_is_seen():
    """Stderr is held back there, and XLA leaves without going back."""
    program = (
        "from detox_jax import terminal\n"
        "from detox_jax.parallel import mesh\n"
        "with terminal.without_notes():\n"
        "    mesh.create_mesh()\n"
    )
    environment = {**os.environ, "XLA_FLAGS": "--xla_misspelt=1"}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode and "--xla_misspelt" in result.stderr


def test_stderr_is_held_back_again_behind_what_is_let_through(capfd):
    with terminal.without_notes():
        with terminal.let_through():
            os.write(2, NOTES)
        os.write(2, NOTES + ERRORS)
    assert capfd.readouterr().err.encode() == NOTES + ERRORS


def test_stderr_of_a_verb_that_imports_tensorflow_is_clean(tmp_path, vocabulary):
    write_tiny_run(tmp_path, vocabulary, num_documents=8)
    required = [
        f"--gin_file={tmp_path / 'model.gin'}",
        f"--gin.INPUT={tmp_path / 'documents.jsonl'}",
        f"--gin.VOCABULARY_PATH={tmp_path / 'vocabulary'}",
        f"--gin.MODEL_DIR={tmp_path / 'model'}",
        "--gin.TASK_FEATURE_LENGTHS={'targets': 8}",
        "--gin.TRAIN_STEPS=1",
        "--gin.BATCH_SIZE=8",
        "--gin.LEARNING_RATE=1e-3",
    ]
    command = [sys.executable, "-m", "detox_jax", "train", *required, "--dry_run"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "message", "is_shown"),
    [
        ("absl", "[thread=x] _SignalingThread.run() raised an exception: full", False),
        ("asyncio", "Task exception was never retrieved\nfuture: <Task orbax/x.py:126>", False),
        ("asyncio", "Task exception was never retrieved\nfuture: <Task of_ours.py:1>", True),
        ("absl", "another error", True),
    ],
)
def test_what_orbax_says_beside_raising_it_is_dropped(caplog, name, message, is_shown):
    logger = logging.getLogger(name)
    logger.addHandler(caplog.handler)
    terminal.drop_echoes()
    logger.error(message)
    logger.removeHandler(caplog.handler)
    assert (message in caplog.text) == is_shown


def test_futures_that_end_after_their_loop_are_dropped_and_others_are_not(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(unraisable.exc_value))

    def lose(error):
        class Loses:
            def __del__(self):
                raise error

        Loses()

    other = RuntimeError("another")
    terminal.drop_echoes()
    terminal.drop_echoes()
    lose(RuntimeError("Event loop is closed"))
    lose(other)
    assert seen == [other]


@pytest.mark.parametrize(("file", "is_shown"), [("lib/orbax/read.py", False), ("ours.py", True)])
def test_reads_of_orbax_that_are_given_up_say_nothing(monkeypatch, file, is_shown):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(unraisable.exc_value))
    source = (
        "import asyncio\n"
        "async def read():\n"
        "    try:\n"
        "        await asyncio.sleep(60)\n"
        "    except BaseException as error:\n"
        "        raise Exception('not read') from error\n"
    )
    namespace = {}
    exec(compile(source, file, "exec"), namespace)
    terminal.drop_echoes()

    async def give_up():
        namespace["read"]().send(None)

    asyncio.run(give_up())
    gc.collect()
    assert [str(error) for error in seen] == ["not read"] * is_shown


@pytest.fixture
def at_once(monkeypatch):
    """Lines come at once and many times a second."""
    monkeypatch.delenv(terminal.SILENCE)
    monkeypatch.setattr(terminal, "FIRST_S", 0.0)  # A bar that speaks has a line when it begins.
    monkeypatch.setattr(terminal, "EVERY_S", 0.001)


def wait_for(capfd, pattern):
    """What was written to stderr once a pattern is in it."""
    written, end = "", time.monotonic() + 60
    while not re.search(pattern, written, re.M):
        assert time.monotonic() < end, f"{pattern} is not in {written[-2000:]}"
        time.sleep(0.001)
        written += capfd.readouterr().err
    return written


def ends(capfd, monkeypatch):
    """Whether nothing more is said of what is over, not even where a line is due, by no thread."""
    assert terminal._SPEAKER._ended.is_set()
    for thread in threading.enumerate():
        if thread.name.endswith("(_watch)"):
            thread.join(60)
            assert not thread.is_alive()
    capfd.readouterr()
    monkeypatch.setattr(terminal._SPEAKER, "_due", 0.0)
    terminal._SPEAKER.moved()
    return capfd.readouterr().err == ""


def test_lines_without_a_terminal_say_what_is_done(at_once, capfd, monkeypatch):
    with terminal.bar("score with ngram", 1200, 200, unit="documents") as advance:
        wait_for(capfd, r"^score with ngram: 200 of 1,200 documents$")
        advance(100, "loss 3.214")
        wait_for(capfd, r"^score with ngram: 300 of 1,200 documents, loss 3.214")
        advance(900)
        wait_for(capfd, r"^score with ngram: 1,200 of 1,200 documents, loss 3.214$")
    assert ends(capfd, monkeypatch)


def test_a_line_comes_while_nothing_moves_and_names_what_is_compiled(at_once, capfd):
    with terminal.bar("train", 10, unit="steps") as advance:
        COMPILATIONS.told("/jax/core/compile/jaxpr_to_mlir_module_duration", 1, fun_name="jit(f)")
        wait_for(capfd, r"^train: 0 of 10 steps, compiling f$")
        advance()
        wait_for(capfd, r"^train: 1 of 10 steps$")


def test_short_work_says_nothing(capfd, monkeypatch):
    monkeypatch.delenv(terminal.SILENCE)
    with terminal.bar("score", 3) as advance:
        advance(3)
    assert capfd.readouterr().err == ""


def test_lines_can_be_switched_off(at_once, capfd, monkeypatch):
    monkeypatch.setenv(terminal.SILENCE, "1")
    with terminal.bar("score", 3) as advance:
        advance()
    assert capfd.readouterr().err == ""


def test_of_several_processes_the_first_speaks(at_once, capfd, monkeypatch):
    second = processes.Processes(1, ("a", "b"))
    monkeypatch.setattr(processes, "current", lambda: second)
    with terminal.bar("score", 3) as advance:
        advance()
    assert capfd.readouterr().err == ""


def test_an_error_passes_and_ends_the_lines(at_once, capfd, monkeypatch):
    with pytest.raises(RuntimeError), terminal.bar("score", 3):
        wait_for(capfd, r"^score: 0 of 3$")
        raise RuntimeError
    assert ends(capfd, monkeypatch)


def shown(seconds, **moves):
    """The line of a task that moved at given seconds of a frozen clock."""
    now = 0.0
    display = progress.Progress(disable=True, get_time=lambda: now, speed_estimate_period=600)
    task = display.add_task("score", total=400, note="")
    for second in seconds:
        now = float(second)
        display.update(task, **moves)
    return terminal.progress_line(display.tasks[0], "texts")


def test_speed_and_time_left():
    assert shown([]) == "score: 0 of 400 texts"
    # The first batch says nothing of the speed: its program is compiled.
    assert shown([300], advance=40) == "score: 40 of 400 texts"
    assert shown([300, 302], advance=40) == "score: 80 of 400 texts, 20/s, 16 s left"
    assert shown([300, 400], advance=40) == "score: 80 of 400 texts, 0.4/s, 13 min left"
    assert shown(range(10), advance=40) == "score: 400 of 400 texts, 40/s"


def test_the_rows_of_a_batch_are_no_speed(monkeypatch):
    displays, now = [], [0.0]

    class Display(progress.Progress):
        def __init__(self, *columns, **settings):
            super().__init__(*columns, **settings, get_time=lambda: now[0])
            displays.append(self)

    monkeypatch.setattr(terminal.progress, "Progress", Display)
    with terminal.bar("generate", 1000) as advance:
        (task,) = displays[0].tasks
        for at in (10.0, 20.0, 30.0):
            for row in range(50):
                now[0] = at + row / 1e6
                advance()
                assert task.completed == 50 * (at / 10 - 1) + row + 1
            assert task.speed is None if at == 10 else task.speed == pytest.approx(5)


def test_what_an_earlier_run_did_is_no_speed(monkeypatch):
    made, counted = [], terminal._Counted
    monkeypatch.setattr(
        terminal, "_Counted", lambda task, unit: made.append(task) or counted(task, unit)
    )
    with terminal.bar("score", 400) as advance:
        for _ in range(3):
            advance(100, earlier=True)
    assert made[0].completed == 300 and made[0].speed is None


@pytest.fixture
def at_every_move(at_once, monkeypatch):
    """A line at every move, none between them but those of the thread."""
    monkeypatch.setattr(terminal, "EVERY_S", 0.0)


def test_what_cannot_be_counted_has_lines_too(at_every_move, capfd):
    with terminal.stage("filter"), terminal.stage("select"):
        terminal.has_read(1200)
        wait_for(capfd, r"^filter: select: \d+ s so far, 1,200 records read$")
        wait_for(capfd, r"^filter: select: \d+ s so far$")  # No more of them since.
    with terminal.stage("sgeat"):
        terminal.turn_to("generate")
        wait_for(capfd, r"^sgeat: generate: \d+ s so far$")
        terminal.turn_to("score")
        wait_for(capfd, r"^sgeat: score: \d+ s so far$")


def test_what_was_read_to_be_checked_is_not_counted_again(capfd, monkeypatch):
    monkeypatch.delenv(terminal.SILENCE)
    monkeypatch.setattr(terminal, "FIRST_S", 1000.0)
    with terminal.stage("filter"):
        with terminal.stage("check"):
            terminal.has_read(1200)
        terminal.has_read(1200)
        monkeypatch.setattr(terminal._SPEAKER, "_due", 0.0)
        terminal._SPEAKER.moved()
    assert re.search(r"^filter: \d+ s so far, 1,200 records read$", capfd.readouterr().err, re.M)


def test_of_works_in_each_other_the_innermost_has_the_line(at_every_move, capfd):
    with terminal.stage("lm_eval"), terminal.stage("task 1 of 2, quiz"):
        with terminal.bar("likelihood", 30, unit="continuations") as advance:
            advance(10)
            said = capfd.readouterr().err
    assert "task 1 of 2, quiz: likelihood: 10 of 30 continuations\n" in said
    with terminal.stage("score"), terminal.bar("score with ngram", 3, unit="records"):
        assert re.search(r"^score with ngram: 0 of 3 records$", capfd.readouterr().err, re.M)


def test_many_short_works_have_lines_together(capfd, monkeypatch):
    """Each is over before its first line is due."""
    now = [0.0]
    monkeypatch.delenv(terminal.SILENCE)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with terminal.stage("report"):
        for second in range(0, 100, 5):
            now[0] = float(second)
            with terminal.bar("draw", 1, unit="pictures") as advance:
                advance()
    said = capfd.readouterr().err.splitlines()
    assert len([line for line in said if line.startswith("draw: ")]) == 3  # At 10, 40 and 70 s.


def test_a_line_comes_while_notes_are_held_back():
    """In a process of its own, whose standard error is the first descriptor's."""
    script = (
        "import os\nfrom detox_jax import terminal\n"
        "terminal.FIRST_S = terminal.EVERY_S = 0.0\n"
        "with terminal.stage('train'), terminal.without_notes(), terminal.without_notes():\n"
        "    with terminal.stage('check'):\n"
        "        os.write(2, b'I0000 00:00:1.1 1 a.cc:1] a note\\nheld back\\n')\n"
        "os.write(2, b'the end\\n')\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != terminal.SILENCE}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    lines = done.stderr.splitlines()
    assert lines[-1] == "the end" and "a note" not in done.stderr
    early = lines[: lines.index("held back")]
    assert any(re.fullmatch(r"train: check: \d+ s so far", line) for line in early)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (89.4, "89 s"),
        (89.6, "1 min 30 s"),
        (129, "2 min 10 s"),
        (596, "10 min"),
        (3599, "1 h 0 min"),
        (12000, "3 h 20 min"),
    ],
)
def test_durations(seconds, said):
    assert terminal.duration(seconds) == said


def test_a_terminal_gets_a_bar_with_the_program_that_is_compiled(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    written = Terminal()
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with terminal.bar("train", 10) as advance:
        advance(3, "loss 3.214")
        COMPILATIONS.told("/jax/core/compile/jaxpr_to_mlir_module_duration", 1, fun_name="jit(f)")
    COMPILATIONS.went_on()
    said = re.sub(r"\x1b\[[\d;?]*\w", "", written.getvalue())
    assert "train, loss 3.214" in said and "3/10" in said and "compiling f" in said
