"""The command line as a person or a program meets it: results, files, exit codes and one-line errors."""

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import promptdyn
from command_line import promptdyn_command, promptdyn_here
from promptdyn.cli import main
from promptdyn.history import RewardHistory


@pytest.fixture(scope="module")
def history_path(tmp_path_factory):
    rng = np.random.default_rng(0)
    step, prompt = (grid.ravel() for grid in np.meshgrid(np.arange(30), np.arange(40), indexing="ij"))
    rate = 1 / (1 + np.exp(4 - 0.2 * step - 0.15 * (prompt % 20)))
    path = tmp_path_factory.mktemp("history") / "history.parquet"
    RewardHistory.from_columns(
        step,
        [f"p{i}" for i in prompt],
        num_successes=rng.binomial(8, rate),
        num_rollouts=np.full(len(step), 8),
        trained=rng.random(len(step)) < 0.3,
        columns={"task": [str(i // 20) for i in prompt]},
    ).to_parquet(path)
    return path


def test_compare_writes_json_and_plot(history_path, tmp_path):
    done = promptdyn_here(
        "compare", history_path, "--observed", "trained", "--fit-steps", 15,
        "--models", "dps,mopps,hmm:num_states=4,cluster=task", "--json", tmp_path / "scores.json",
        "--plot", tmp_path / "reliability.svg",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "scores.json").read_text())
    assert {record["model"] for record in records} == {"dps", "mopps", "hmm:num_states=4,cluster=task"}
    keys = {"model", "log_loss", "brier", "auroc", "precision", "calibration_error"}
    assert all(keys <= record.keys() for record in records)
    assert "<svg" in (tmp_path / "reliability.svg").read_text()
    expected = promptdyn.compare({"dps": promptdyn.models.DPS()}, RewardHistory.from_parquet(history_path), 15)
    (dps,) = (record for record in records if record["model"] == "dps")
    assert dps["log_loss"] == expected.scores[0].log_loss
    assert "dps" in done.stdout


def test_live_histories_have_no_precision(history_path, tmp_path):
    history = RewardHistory.from_parquet(history_path)
    history.select(history.trained).to_parquet(tmp_path / "live.parquet")
    done = promptdyn_here("compare", tmp_path / "live.parquet", "--models", "dps", "--json", "-")
    assert json.loads(done.stdout)[0]["precision"] is None
    assert "–" in done.stderr


def test_json_to_stdout_is_json_alone(history_path):
    done = promptdyn_command("compare", history_path, "--models", "dps", "--json", "-")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["model"] == "dps"


def test_import_fit_and_report_work_on_one_another(history_path, tmp_path):
    history = RewardHistory.from_parquet(history_path)
    lines = ["step,prompt_id,num_rollouts,num_successes,trained,task"]
    for i in range(len(history)):
        p = history.prompt[i]
        lines.append(
            f"{history.step[i]},{history.prompt_ids[p]},{history.num_rollouts[i]},{history.num_successes[i]},"
            f"{str(history.trained[i]).lower()},{history.columns['task'][p]}"
        )
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")

    done = promptdyn_here("import", tmp_path / "log.csv", tmp_path / "h.parquet", "--json", tmp_path / "s.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "s.json").read_text())["rows"] == len(history)

    done = promptdyn_here(
        "fit", tmp_path / "h.parquet", "--model", "hmm:num_states=4,cluster=task", "--out", tmp_path / "fit.npz",
        "--json", tmp_path / "fit.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert promptdyn.Fit.load(tmp_path / "fit.npz").cluster_names == ("0", "1")
    assert json.loads((tmp_path / "fit.json").read_text())["groups"] == history.trained.sum()

    done = promptdyn_here(
        "fit", tmp_path / "h.parquet", "--model", "hmm:num_states=2", "--out", tmp_path / "draws.npz", "--method",
        "svi:num_steps=40,num_samples=9", "--backend", "pyro", "--seed", "4", "--json", "-",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["method"] == "svi"
    assert told["verdict"] in " ".join(done.stderr.split())
    drawn = promptdyn.Fit.load(tmp_path / "draws.npz")
    assert drawn.draws["gaps"].shape == (1, 9, 3)
    assert (drawn.method["num_steps"], drawn.method["backend"], drawn.method["seed"]) == (40, "pyro", 4)

    against = ("compare", tmp_path / "h.parquet", "--models", f"dps,{tmp_path}/fit.npz", "--json", "-")
    done = promptdyn_here(*against)
    assert (done.returncode, done.stdout) == (2, "")
    assert "so its score would be no forecast's: fit on the first 15 steps alone" in " ".join(done.stderr.split())
    done = promptdyn_here(*against, "--allow-seen")
    assert "so that its score is no forecast's" in " ".join(done.stderr.split())
    assert {record["model"] for record in json.loads(done.stdout)} == {"dps", f"{tmp_path}/fit.npz"}

    done = promptdyn_here(
        "report", tmp_path / "h.parquet", "--model", tmp_path / "fit.npz", "--models", "dps,hmm:num_states=3",
        "--baseline", f"again={history_path}", "--out", tmp_path / "report.html",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") >= 8
    for words in (
        "Where the pool stands",
        "Predicted and realized",
        "Which prompts were",
        "Learned transitions",
        "again",
    ):
        assert words in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )  # self-contained: nothing is fetched, these are names of XML vocabularies


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "nowhere.parquet"], "nowhere.parquet"),
        (["compare", "{history}", "--models", "gp"], "model 'gp' is none of"),
        (["compare", "{history}", "--fit-steps", "30"], "fit_steps=30 leaves nothing to score"),
        (["compare", "{history}", "--observed", "some"], "observed='some'"),
        (["compare", "{history}", "--models", "hmm:cluster=topic"], "topic"),
        (["compare", "bad.csv"], "bad.csv line 3"),
        (["import", "bad.csv", "out.parquet"], "num_successes=9"),
        (["import", "missing.csv", "out.parquet"], "num_rollouts"),
        (["import", "empty.csv", "out.parquet"], "empty.csv"),
        (["import", "picture.png", "out.parquet"], "picture.png"),
        (["fit", "{history}", "--model", "dps", "--out", "out.npz"], "nothing to fit"),
        (["fit", "{history}", "--model", "dps,hmm", "--out", "out.npz"], "name one model"),
        (["report", "{history}", "--baseline", "x", "--out", "out.html"], "'x' is not NAME=HISTORY"),
        (["report", "{history}", "--model", "bad.npz", "--out", "out.html"], "bad.npz: not a promptdyn fit file"),
        (["report", "{history}", "--model", "hmm", "--out", "out.html"], "model 'hmm' must be fitted first"),
        (["report", "{history}", "--baseline", "this run={history}", "--out", "o.html"], "cannot be called 'this run'"),
        (["report", "{history}", "--models", "dps", "--out", "folder"], "folder: is a folder"),
        (["import", "{history}", "empty.csv/out.parquet"], "empty.csv/out.parquet: cannot be written"),
        (["compare", "{history}", "--plot", "plot.jpeg"], "plot.jpeg: a plot is one of .svg, .png, .pdf"),
        (["compare", "{history}", "--models", "bad.npz"], "bad.npz: not a promptdyn fit file"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_no_file(history_path, tmp_path, monkeypatch, capsys, arguments, message):
    header = "step,prompt_id,num_rollouts,num_successes\n"
    (tmp_path / "bad.csv").write_text(header + "0,a,8,3\n1,a,8,9\n")
    (tmp_path / "missing.csv").write_text("step,prompt_id\n0,a\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00")
    (tmp_path / "bad.npz").write_bytes(b"not a fit")
    (tmp_path / "folder").mkdir()
    before = set(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["promptdyn", *(argument.format(history=history_path) for argument in arguments)])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 2
    told = capsys.readouterr().err
    lines = [line for line in told.splitlines() if line.startswith("promptdyn: ")]
    assert len(lines) == 1, told
    assert message in lines[0]
    assert "Traceback" not in told
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "h.parquet", "--out", "h.parquet"], "h.parquet: is the source, too"),
        (["fit", "h.parquet", "--out", "a.npz", "--json", "./a.npz"], "a.npz: is to be written twice"),
        (["import", "h.parquet", "./h.parquet"], "h.parquet: is the source, too"),
        (["report", "h.parquet", "--out", "h.parquet"], "h.parquet: is the source, too"),
        (["report", "h.parquet", "--baseline", "other=link.parquet", "--out", "link.parquet"], "is the source, too"),
        (["compare", "h.parquet", "--json", "h.parquet"], "h.parquet: is the source, too"),
        (["simulate", "hmm", "h.parquet", "--like", "h.parquet"], "h.parquet: is the source, too"),
    ],
)
def test_nothing_is_written_over_what_is_read(history_path, tmp_path, monkeypatch, capsys, arguments, message):
    content = history_path.read_bytes()
    (tmp_path / "h.parquet").write_bytes(content)
    (tmp_path / "link.parquet").symlink_to("h.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["promptdyn", *arguments])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "h.parquet").read_bytes() == content


def test_columns_and_warnings_of_an_import(tmp_path):
    (tmp_path / "log.tsv").write_text("global_step\tuid\tnum_rollouts\tnum_successes\n0\ta\t8\t3\n1\ta\t8\t4\n")
    done = promptdyn_here(
        "import", tmp_path / "log.tsv", tmp_path / "h.parquet", "--columns", "step=global_step,prompt_id=uid"
    )
    assert done.returncode == 0, done.stderr
    assert RewardHistory.from_parquet(tmp_path / "h.parquet").num_successes.tolist() == [3, 4]
    for text in ("step", "step=", "step=a,step=b"):
        done = promptdyn_here("import", tmp_path / "log.tsv", tmp_path / "i.parquet", "--columns", text)
        assert done.returncode == 2
        assert f"columns {text!r}: write each once" in done.stderr

    table = pa.table({
        "step": [1, 1], "prompt": ["p", "p"], "completion": ["x", "y"], "reward": [5, 7], "advantage": [0.0, 0.0],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "completions.parquet")
    done = promptdyn_here("import", tmp_path / "completions.parquet", tmp_path / "t.parquet")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "a success is" in line]
    assert line.startswith(f"promptdyn: {tmp_path / 'completions.parquet'}: a success is 'reward>=7', found from")


def test_logs_are_imported_as_they_are(tmp_path):
    (tmp_path / "a.csv").write_text(
        "step,prompt_id,num_rollouts,num_successes,task,loss\n0,a,8,3,add,1\n0,b,8,9,add,2\n1,a,8,4,add,3\n"
    )
    (tmp_path / "b.csv").write_text(
        "step,prompt_id,num_rollouts,num_successes,task,loss\n1,a,8,5,add,4\n2,a,8,5,add,5\n"
    )
    sources, out = [tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "h.parquet"
    done = promptdyn_here("import", *sources, out)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "2 of 5 rows are bad" in line
    assert "num_successes=9 exceeds num_rollouts=8" in line
    assert "a row of this step already" in line
    for options, told in (
        (["--label-columns", "task"], ["skipped 1 bad of 5 rows", "1 of 4 rows repeat the prompt and step of a row"]),
        (["--drop", "loss"], ["skipped 1 bad of 5 rows", "1 of 4 rows repeat the prompt and step of a row"]),
        (["--label-columns", "task", "--json", "-"], ["skipped", "repeat"]),
        ([], ["left out 'loss'"]),
    ):
        done = promptdyn_here("import", *sources, out, "--skip-bad", "--repeated", "last", *options)
        assert done.returncode == 0, done.stderr
        assert all(word in done.stderr for word in told)
        history = RewardHistory.from_parquet(out)
        assert (history.num_successes.tolist(), list(history.columns)) == ([3, 5, 5], ["task"])
    done = promptdyn_here("import", f"{tmp_path}/?.csv", out, "--skip-bad", "--repeated", "merge", "--drop", "loss")
    assert RewardHistory.from_parquet(out).num_rollouts.tolist() == [8, 16, 8]


def test_tables_are_wider_than_a_narrow_terminal(history_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    done = promptdyn_here("compare", history_path, "--models", "dps,rate:cluster=task")
    lines = done.stdout.splitlines()
    words = " ".join(lines[:3]).split()
    for name in ("model", "log", "loss", "behind", "Brier", "AUROC", "precision", "calibration", "error", "fit,"):
        assert name in words
    assert "…" not in done.stdout
    assert any("rate:cluster=task" in line and "±" in line for line in lines)


def test_brackets_in_names_are_shown_as_they_are(history_path, tmp_path, monkeypatch, capsys):
    history = RewardHistory.from_parquet(history_path)
    named = tmp_path / "a[bold]b[x].parquet"
    clusters = {"[red]task[/y]": history.columns["task"][history.prompt]}
    RewardHistory.from_columns(
        history.step,
        history.prompt_ids[history.prompt],
        num_successes=history.num_successes,
        num_rollouts=history.num_rollouts,
        columns=clusters,
    ).to_parquet(named)
    monkeypatch.chdir(tmp_path)
    out = "c[i].parquet"
    monkeypatch.setattr(sys, "argv", ["promptdyn", "import", named.name, out])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code in (0, None)
    told = capsys.readouterr()
    assert "[red]task[/y]" in told.out
    assert f"wrote {out}" in told.err
    monkeypatch.setattr(sys, "argv", ["promptdyn", "compare", out, "--models", "rate:cluster=[red]task[/y],mopps"])
    with pytest.raises(SystemExit):
        main()
    assert "rate:cluster=[red]task[/y]" in capsys.readouterr().out
