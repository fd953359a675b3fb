"""The report page: true words, whole figures, and how it looks in a browser."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

import promptdyn
from known import known
from promptdyn import plots
from promptdyn.errors import InputError, PromptdynWarning
from promptdyn.evaluation import track
from promptdyn.history import RewardHistory
from promptdyn.models import DPS, BetaBernoulli, DiscreteHMM, Stacked
from promptdyn.models.stacked import OWN
from promptdyn.report import findings, pool_size_of, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def drawn(seed: int = 0, *, hidden: bool = True) -> RewardHistory:
    """30 prompts of two kinds over 40 steps, a third of the rows trained on."""
    rng = np.random.default_rng(seed)
    step, prompt = (grid.ravel() for grid in np.meshgrid(np.arange(40), np.arange(30), indexing="ij"))
    rate = 1 / (1 + np.exp(3 - 0.1 * step - 0.1 * prompt))
    history = RewardHistory.from_columns(
        step,
        [f"p{i}" for i in prompt],
        num_successes=rng.binomial(8, rate),
        num_rollouts=np.full(len(step), 8),
        trained=rng.random(len(step)) < 0.3,
        columns={"task": [f"kind {i // 15}" for i in prompt], "pool": ["one"] * len(step)},
    )
    return history if hidden else history.select(history.trained)


def legend(figure) -> list[str]:
    return [text.get_text() for part in (figure, *figure.axes) for box in _legends(part) for text in box.get_texts()]


def _legends(part) -> list:
    return part.legends if hasattr(part, "legends") else [part.get_legend()] if part.get_legend() else []


@pytest.mark.parametrize("num_prompts", [1, 5])
def test_small_pools_have_a_report_too(tmp_path, num_prompts):
    step, prompt = (grid.ravel() for grid in np.meshgrid(np.arange(4), np.arange(num_prompts), indexing="ij"))
    history = RewardHistory.from_columns(
        step, [f"p{i}" for i in prompt], num_successes=prompt % 5, num_rollouts=np.full(len(step), 4)
    )
    page = write_report(tmp_path / "report.html", history, promptdyn.models.DPS()).read_text()
    assert sum(f"<!-- p{i} -->" in page for i in range(num_prompts)) == min(num_prompts, 8)
    assert f"of {num_prompts} prompts (of how many, the log does not say)" in page
    assert "First: share of the prompts in the log trained on" in page
    assert "share of the prompts in the log trained on" in page
    assert "of the pool trained on" not in page
    with pytest.raises(InputError, match="again: no row of the history was trained on"):
        write_report(
            tmp_path / "none.html",
            history,
            promptdyn.models.DPS(),
            baselines={
                "again": RewardHistory.from_columns([0], ["a"], num_successes=[4], num_rollouts=[8], trained=[False])
            },
        )
    assert not (tmp_path / "none.html").exists()


def test_the_model_shown_is_the_one_that_forecast_best(tmp_path):
    history = drawn()
    hmm = promptdyn.fit(
        DiscreteHMM(num_states=3, cluster="task"), history.before(20).observed("trained"), backend="pyro"
    )
    comparison = promptdyn.compare({"mopps": BetaBernoulli(), "hmm": hmm}, history, 20)
    best, other = (score.model for score in comparison.scores)
    page = write_report(tmp_path / "best.html", history, comparison=comparison).read_text()
    assert f"that {best} forecasts to have" in page
    for title in ("Success by task", "Which prompts were trained on", "The fit", "Learned transitions: kind 1"):
        assert title in page
    assert "Success by pool" not in page  # one level shows nothing
    page = write_report(tmp_path / "given.html", history, comparison.models[other], comparison=comparison).read_text()
    assert f"that {other} forecasts to have" in page
    for shown, of in ((best, "best"), (other, "given")):
        told = (tmp_path / f"{of}.html").read_text().count("hmm was fitted on 20 of these 40 steps, 0 to 19: for these")
        assert told == (2 if shown == "hmm" else 0)
    with pytest.raises(InputError, match="give a model, or a comparison"):
        write_report(tmp_path / "none.html", history)


def test_words_tell_what_the_counts_say():
    history = RewardHistory.from_columns(
        np.repeat(np.arange(10), 2),
        ["a", "b"] * 10,
        num_successes=[0, 1] + [0, 4] * 8 + [2, 3],
        num_rollouts=[4] * 20,
        trained=[True] * 20,
    )
    other = RewardHistory.from_columns([0, 1], ["a", "b"], num_successes=[4, 1], num_rollouts=[4, 4])
    words = findings("mine", {"mine": history, "uniform": other}, pool_size=8)
    assert words == (
        "In 10 steps 20 groups of rollouts were trained on, of 2 prompts (25% of the pool). 15% of the groups taught "
        "something: some of their rollouts succeeded and some failed. In the first tenth of the steps it was 50%, in "
        "the last 100%; 12% of the rollouts succeeded in the first, 62% in the last. The share that taught in the "
        "other runs: uniform 50%."
    )
    comparison = promptdyn.compare({"dps": DPS(), "mopps": BetaBernoulli(), "again": BetaBernoulli()}, history, 2)
    words = findings("mine", {"mine": replace(history, success="correct>=1")}, comparison)
    assert "of 2 prompts (of how many, the log does not say)" in words
    assert "A rollout succeeded by the rule 'correct>=1'." in words
    assert "No model forecast which groups would teach better than the base rate: 12%" in words
    # Of ten prompts, one half always teaches and the other never.
    step, prompt = (grid.ravel() for grid in np.meshgrid(np.arange(40), np.arange(10), indexing="ij"))
    history = RewardHistory.from_columns(
        step, prompt, num_successes=np.where(prompt < 5, 0, 4), num_rollouts=np.full(400, 8)
    )
    comparison = promptdyn.compare({"mopps": BetaBernoulli(), "dps": DPS()}, history, 20)
    best, second = comparison.scores
    words = findings("mine", {"mine": history}, comparison)
    assert f"{best.model} forecast best which groups would teach: log loss {best.log_loss:.3f}" in words
    assert f"has {comparison.base_log_loss:.3f}" in words
    assert (f"Not clearly behind it: {second.model}" in words) == (second.behind_interval[0] <= 0)


def test_a_model_that_is_shown_need_not_be_called_best(tmp_path):
    history = drawn()
    noise = RewardHistory.from_columns(
        history.step, history.prompt, num_successes=2 * (history.step % 5), num_rollouts=history.num_rollouts
    )
    comparison = promptdyn.compare({"dps": DPS()}, noise, 20)
    page = write_report(tmp_path / "report.html", noise, comparison=comparison).read_text()
    assert "that dps forecasts to have" in page
    assert "No model forecast which groups would teach" in page
    assert "forecast best" not in page


def test_weights_are_shown_the_largest_first(tmp_path):
    history = drawn()
    page = write_report(tmp_path / "report.html", history, Stacked(experts="dps")).read_text()
    section = page[page.index("What the forecasts go by") :]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", section)
    weights = {name: float(cells[i + 1]) for i, name in enumerate(cells) if name in ("dps", "constant", *OWN)}
    assert weights.keys() == {"dps", "constant", *OWN}
    sizes = [abs(weight) for weight in weights.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert "What the forecasts go by" not in write_report(tmp_path / "none.html", history, DPS()).read_text()


def test_the_pool_is_as_large_as_the_history_says(tmp_path):
    history = drawn(hidden=False)
    seen = len(np.unique(history.prompt))
    page = write_report(tmp_path / "report.html", history.with_pool_size(300), DPS()).read_text()
    assert f"({seen / 300:.0%} of the pool)" in page
    assert "share of the pool of 300 prompts" in page
    assert f">{seen / 300:.3f}</td>" in page
    assert "share of the pool trained on" in page
    assert pool_size_of({"this": history, "beside": drawn(1).with_pool_size(300)}) == 300
    assert pool_size_of({"this": history.with_pool_size(300)}, 400) == 400
    with pytest.raises(InputError, match=f"this run: pool_size=3, and {seen} prompts are in the history"):
        write_report(tmp_path / "report.html", history, DPS(), pool_size=3)


def test_a_log_of_survivors_is_told(tmp_path):
    history = drawn()
    assert not history.survivors_only
    survivors = history.select(history.informative)
    assert survivors.survivors_only
    words = "it seems to keep only what dynamic sampling keeps"
    assert words in findings("this", {"this": survivors})
    assert words not in findings("this", {"this": history})
    assert not survivors.with_pool_size(40).survivors_only  # of a run that says how many there were
    survivors.to_parquet(tmp_path / "survivors.parquet")
    with pytest.warns(PromptdynWarning, match=f"all of its {len(survivors)} groups vary"):
        promptdyn.read_history(tmp_path / "survivors.parquet")
    assert not survivors.before(1).select(np.arange(22) < 19).survivors_only  # too few to tell


def test_legends_name_only_what_is_drawn():
    for hidden in (True, False):
        history = drawn(hidden=hidden)
        seen = track(DPS().online(list(history.prompt_ids)), history, ["p3"])
        shown = legend(plots.prompt_timelines(history, seen))
        assert ("hidden k/n" in shown) == hidden
        assert "seen k/n" in shown
        assert ("true boundaries" in legend(plots.outcome_shares(seen))) == hidden
        assert ("a uniform draw" in legend(plots.effective_sample_ratio({"run": history}, seen))) == hidden


def test_selection_frequency_counts_the_whole_pool():
    history = RewardHistory.from_columns(
        [0, 1, 2, 2], ["a", "a", "a", "b"], num_successes=[1] * 4, num_rollouts=[4] * 4
    )
    (line,) = plots.selection_frequency({"run": history}, 4).axes[0].lines
    assert np.asarray(line.get_ydata()).tolist() == [3, 1, 0, 0]


def test_success_by_cluster_is_the_share_of_rollouts():
    history = RewardHistory.from_columns(
        [0, 0, 0, 1, 1],
        ["a", "b", "c", "a", "c"],
        num_successes=[1, 3, 2, 4, 0],
        num_rollouts=[4, 4, 2, 4, 2],
        columns={"kind": list("xxyxy")},
    )
    x, y = plots.success_by_cluster(history, "kind").axes[0].lines
    assert (x.get_label(), np.asarray(x.get_ydata()).tolist()) == ("x", [0.5, 1.0])
    assert (y.get_label(), np.asarray(y.get_ydata()).tolist()) == ("y", [1.0, 0.0])


def test_dots_at_the_edges_are_whole():
    history = drawn()
    seen = track(DPS().online(list(history.prompt_ids)), history, ["p0", "p29"])
    for figure in (plots.predicted_informative(seen), plots.effective_sample_ratio({"run": history}, seen)):
        low, high = figure.axes[0].get_ylim()
        assert low < 0 < 1 < high
    for axis in plots.prompt_timelines(history, seen).axes:
        assert not any(line.get_clip_on() for line in axis.lines if line.get_marker() != "None")


def test_a_run_has_one_colour():
    history = drawn()
    seen = track(DPS().online(list(history.prompt_ids)), history, [], 8)
    runs = {"run": history, "again": drawn(1)}
    colours = []
    for figure, name in [
        (plots.predicted_informative(seen), "realized"),
        (plots.effective_sample_ratio(runs, seen), "run"),
        (plots.share_trained_on(runs, None), "run"),
        (plots.selection_frequency(runs, None), "run"),
    ]:
        lines = {line.get_label(): line.get_color() for line in figure.axes[0].lines}
        colours.append(lines[name])
        assert colours[0] not in [colour for label, colour in lines.items() if label in ("again", "predicted")]
    assert len(set(colours)) == 1


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: `make browser`")
@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_in_a_browser(tmp_path, scheme, width):
    history = drawn()
    comparison = promptdyn.compare({"dps": DPS(), "hmm": DiscreteHMM(num_states=3)}, history, 20)
    page = write_report(tmp_path / "report.html", history, comparison=comparison, baselines={"again": drawn(1)})
    # The page in a frame as wide as the screen, and what a reader's eye would find.
    (tmp_path / "look.html").write_text(
        f"""<iframe id="frame" style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(page.read_text())}">
        </iframe><pre id="found"></pre><script>
        document.getElementById("frame").onload = event => {{
          const view = event.target.contentWindow, page = view.document;
          const box = element => element.getBoundingClientRect();
          document.getElementById("found").textContent = JSON.stringify({{
            dark: view.matchMedia("(prefers-color-scheme: dark)").matches,
            page: page.documentElement.scrollWidth,
            ink: view.getComputedStyle(page.querySelector("h1")).color,
            quiet: view.getComputedStyle(page.querySelector("p.note")).color,
            paper: view.getComputedStyle(page.body).backgroundColor,
            figures: [...page.querySelectorAll("figure")].map(f => [box(f).width, box(f.firstElementChild).width]),
            tables: [...page.querySelectorAll("table")].map(t => [t.scrollWidth, t.parentElement.clientWidth]),
            holes: [...page.querySelectorAll("figure svg")].filter(s => box(s).height < 100).length,
            body: page.body.clientWidth,
          }});
        }};</script>"""
    )
    done = subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
            *("--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'user'}"),
            f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
            *("--window-size=1400,1000", "--virtual-time-budget=10000", "--dump-dom", f"file://{tmp_path}/look.html"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = json.loads(html.unescape(known(re.search(r'id="found">(.*?)</pre>', done.stdout, re.S))[1]))
    assert found["dark"] == (scheme == "dark")
    assert found["page"] <= width  # nothing makes the page itself scroll sideways
    assert len(found["figures"]) >= 10
    assert found["holes"] == 0
    assert len(found["tables"]) == 2
    for table, room in found["tables"]:
        assert table <= room  # not cut at the edge
    for frame, figure in found["figures"]:
        assert frame <= found["body"]
        assert figure == pytest.approx(max(frame, 512), abs=1)
    assert contrast(found["ink"], found["paper"]) > 7
    assert contrast(found["quiet"], found["paper"]) > 4.5


def contrast(one: str, other: str) -> float:
    """Of two CSS colours (WCAG 2.1)."""
    low, high = sorted(luminance(colour) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    channels = np.array([int(number) for number in re.findall(r"\d+", colour)[:3]]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
