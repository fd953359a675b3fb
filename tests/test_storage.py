"""State files: what is written comes back, and what is damaged is named."""

import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import promptdyn
from promptdyn.errors import InputError
from promptdyn.storage import atomic, flatten, nest, read_state, write_state

ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "flag": np.array([True, False])}


def test_values_and_arrays_come_back(tmp_path):
    path = tmp_path / "deep" / "state.npz"
    write_state(path, "thing", {"seed": np.int64(3), "rate": np.float32(0.5), "words": ["x"]}, ARRAYS)
    values, arrays = read_state(path, "thing")
    assert values == {"seed": 3, "rate": 0.5, "words": ["x"]}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype
    assert [file.name for file in path.parent.iterdir()] == ["state.npz"]


def test_nested_arrays_come_back():
    """Also where a name in a part, such as a site's, has a slash itself, and where a part is empty."""
    parts = {"": {"seen": ARRAYS["a"]}, "fit": {"params/net/weight": ARRAYS["flag"], "trace": ARRAYS["a"]}, "log": {}}
    flat = flatten(parts)
    assert list(flat) == ["seen", "fit/params/net/weight", "fit/trace"]
    assert nest(flat, ("log",)) == parts
    assert nest(nest(flat)["fit"]) == {"": {"trace": ARRAYS["a"]}, "params": {"net/weight": ARRAYS["flag"]}}


def test_python_objects_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(TypeError, match="array 'o' holds Python objects"):
        write_state(tmp_path / "s.npz", "thing", {}, {"o": np.array([None])})
    with pytest.raises(TypeError, match="cannot be kept"):
        write_state(tmp_path / "s.npz", "thing", {"o": object()}, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_files_cut_short_are_named(tmp_path, share):
    path = tmp_path / "state.npz"
    write_state(path, "thing", {}, ARRAYS)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"state\.npz: not a promptdyn thing file, or damaged"):
        read_state(path, "thing")


def test_garbled_files_are_named_or_read_as_written(tmp_path):
    path = tmp_path / "state.npz"
    write_state(path, "thing", {"x": 1}, ARRAYS)
    content = path.read_bytes()
    for at in range(0, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            values, arrays = read_state(path, "thing")
        except InputError:
            continue
        assert values == {"x": 1}  # a byte that carries nothing
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, ARRAYS[name])


def test_other_kinds_and_newer_versions_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "state.npz"
    write_state(path, "fit", {}, {})
    with pytest.raises(InputError, match="holds a fit, not a selector"):
        read_state(path, "selector")
    monkeypatch.setattr("promptdyn.storage.FORMAT_VERSION", 99)
    write_state(path, "fit", {}, {})
    monkeypatch.undo()
    with pytest.raises(InputError, match="version 99 is newer"):
        read_state(path, "fit")


def test_paths_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path, message in [(tmp_path, "is a folder"), (tmp_path / "file" / "below", "cannot be written")]:
        with pytest.raises(InputError, match=message):
            write_state(path, "fit", {}, {})


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic(path) as part:
            part.write_text("half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_file_that_many_threads_write_is_always_a_whole_one(tmp_path):
    path = tmp_path / "state.npz"
    done = threading.Event()

    def write(seed: int) -> None:
        while not done.is_set():
            write_state(path, "thing", {"seed": seed}, {"seed": np.full(2000, seed)})

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    write_state(path, "thing", {"seed": 0}, {"seed": np.zeros(2000)})
    for thread in threads:
        thread.start()
    for _ in range(100):
        values, arrays = read_state(path, "thing")
        assert (arrays["seed"] == values["seed"]).all()
    done.set()
    for thread in threads:
        thread.join()
    assert [file.name for file in tmp_path.iterdir()] == ["state.npz"]


def test_what_a_killed_process_left_is_removed_and_what_others_write_is_not(tmp_path):
    path = tmp_path / "notes [1].txt"
    script = (
        "import os, sys\n"
        "from promptdyn.storage import atomic\n"
        "with atomic(sys.argv[1]) as part:\n"
        "    part.write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, path]).returncode == -9
    (left,) = tmp_path.iterdir()
    other = tmp_path / left.name.replace("notes", "other")
    other.write_text("half")
    elsewhere = tmp_path / left.name.replace("].txt.", "].txt.elsewhere")
    elsewhere.write_text("half")
    with atomic(path) as first:
        first.write_text("first")
        with atomic(path) as second:
            second.write_text("second")
        assert first.exists()
    assert path.read_text() == "first"
    assert {file.name for file in tmp_path.iterdir()} == {path.name, other.name, elsewhere.name}


@pytest.mark.long
def test_files_are_whole_whenever_their_writer_is_killed(tmp_path):
    """A history (`import`) and a fit (`fit`) written without end, and 30 times kill -9 at a random moment."""
    history = promptdyn.RewardHistory.from_columns([0, 1], ["a", "b"], num_successes=[1, 3], num_rollouts=[4, 4])
    history.to_parquet(tmp_path / "one.parquet")
    promptdyn.fit(promptdyn.models.DiscreteHMM(num_states=2), history, max_iterations=1).save(tmp_path / "one.npz")
    script = (
        "import promptdyn\n"
        "history, fit = promptdyn.read_history('one.parquet'), promptdyn.Fit.load('one.npz')\n"
        "while True:\n"
        "    history.to_parquet('history.parquet')\n"
        "    fit.save('fit.npz')\n"
        "    print('.', flush=True)\n"
    )
    rng = random.Random(0)
    for _ in range(30):
        with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.05))
            writer.kill()
        np.testing.assert_array_equal(promptdyn.read_history(tmp_path / "history.parquet").num_successes, [1, 3])
        assert promptdyn.Fit.load(tmp_path / "fit.npz").model == promptdyn.models.DiscreteHMM(num_states=2)
    history.to_parquet(tmp_path / "history.parquet")
    promptdyn.Fit.load(tmp_path / "one.npz").save(tmp_path / "fit.npz")
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.long
@pytest.mark.parametrize("command", ["import", "fit"])
def test_commands_killed_at_any_moment_leave_a_whole_file_or_none(tmp_path, command):
    """kill -9, 15 times each, somewhere between start and end; then the command does its work."""
    lines = "".join(f"{step},{prompt},8,{(step + prompt) % 9}\n" for step in range(200) for prompt in range(50))
    (tmp_path / "log.csv").write_text("step,prompt_id,num_rollouts,num_successes\n" + lines)
    out = tmp_path / ("out.parquet" if command == "import" else "out.npz")
    rest = [out] if command == "import" else ["--out", out, "--model", "hmm:num_states=2", "--method", "em"]
    arguments = [sys.executable, "-c", "from promptdyn.cli import main; main()", command, tmp_path / "log.csv", *rest]

    def result():
        return (
            promptdyn.read_history(out).num_successes.tolist()
            if command == "import"
            else promptdyn.Fit.load(out).success_rates.tolist()
        )

    started = time.perf_counter()
    subprocess.run(arguments, check=True, capture_output=True)
    took, whole = time.perf_counter() - started, result()
    rng, unfinished = random.Random(0), 0
    for _ in range(15):
        out.unlink(missing_ok=True)
        with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
            time.sleep(rng.uniform(0.0, took))
            running.kill()
        if out.exists():
            assert result() == whole
        else:
            unfinished += 1
    assert unfinished >= 5
    subprocess.run(arguments, check=True, capture_output=True)
    assert result() == whole
    assert not list(tmp_path.glob(".*.part"))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_what_was_there(small_disk):
    path = small_disk / "state.npz"
    write_state(path, "thing", {}, ARRAYS)
    with pytest.raises(InputError, match=r"state\.npz: cannot be written: No space left on device"):
        write_state(path, "thing", {}, {"a": np.zeros(100_000)})
    np.testing.assert_array_equal(read_state(path, "thing")[1]["a"], ARRAYS["a"])
    ids = np.random.default_rng(0).random(20_000).astype(str)
    history = promptdyn.RewardHistory.from_columns(
        [0] * 20_000, ids, num_successes=[1] * 20_000, num_rollouts=[4] * 20_000
    )
    with pytest.raises(InputError, match=r"history\.parquet: cannot be written"):
        history.to_parquet(small_disk / "history.parquet")
    assert [file.name for file in small_disk.iterdir()] == ["state.npz"]
