"""The demo, really run, with a small budget."""

import pytest

import promptdyn
from promptdyn.training.demo import demo


@pytest.mark.long
def test_the_demo_ends_with_its_table_and_report(tmp_path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    stale = tmp_path / "runs" / "uniform" / "0.0001" / "seed-0" / "result.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")  # of a demo before
    result = demo(tmp_path, budget=64 * 12)
    assert (tmp_path / "runs" / "mine").exists()
    assert [standing.name for standing in result.standings] == ["uniform", "dynamic_sampling", "dps", "auto"]
    for standing in result.standings:
        (path,) = (tmp_path / "runs" / standing.name).rglob("history.parquet")
        history = promptdyn.read_history(path)
        assert standing.choices["rollouts"] == history.num_rollouts.sum() >= 64 * 12
        assert standing.choices["effective_sample_ratio"] == history.informative.mean()
        assert 0.4 < standing.curves["frontier"][0, 0] < 0.6
    assert all(len(rows) == 4 for rows in result.tables.values())
    assert result.plot.read_bytes().startswith(b"\x89PNG")
    assert {score.model.split(":")[0] for score in result.comparison.scores} == {"hierarchical", "rate", "dps", "mopps"}
    page = result.report.read_text()
    assert "At the end" in page
    assert page.count("<svg") >= 8
