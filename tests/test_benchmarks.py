from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer

from genretree.corpus.store import Store
from genretree.models.neural.network import GenreNetwork
from small_weights import shrink_networks

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
HELPERS = {"library_process", "synthetic", "whole_process"}


def _load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Store:
    with pytest.MonkeyPatch.context() as patch:
        store: Store = _load("synthetic", patch).write_store(tmp_path_factory.mktemp("noise") / "store", 16, 32)
    return store


@pytest.mark.parametrize("name", [name for name in NAMES if name not in HELPERS])
def test_every_benchmark_says_how_it_is_used(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = _load(name, monkeypatch)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage:")


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a way of training changes is put back."""
    monkeypatch.setattr(Trainer, "training_step", Trainer.training_step)
    for name in ("_downsample", "_augment", "_normalise", "_mask"):
        monkeypatch.setattr(GenreNetwork, name, getattr(GenreNetwork, name))


def _teach(way: Any, over: type[Exception], task: Any, orders: list[Any], monkeypatch: Any, capsys: Any) -> list[Any]:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(json.dumps(order) + "\n" for order in orders)))
    with pytest.raises(over):
        way(task)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()[1:]]


@pytest.mark.usefixtures("taught")
def test_both_ways_of_training_learn_the_same(
    noise: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    training = _load("training", monkeypatch)
    task = training.Task(str(noise.folder), "cnn", 16, 2, 0, 32)
    orders = [{"steps": 2, "batches": []}] * 2
    ours = _teach(training.train_ours, training.Over, task, orders, monkeypatch, capsys)
    orders = [{"steps": 2, "batches": turn["batches"]} for turn in ours]
    norms: list[float] = []
    step = torch.optim.Adam.step

    def watched(optimizer: torch.optim.Adam, *more: Any) -> Any:
        gradients = [each.grad for group in optimizer.param_groups for each in group["params"]]
        norms.append(sum(float(gradient.norm()) for gradient in gradients if gradient is not None))
        return step(optimizer, *more)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    published = _teach(training.train_published, training.Over, task, orders, monkeypatch, capsys)
    assert [len(turn["losses"]) for turn in ours] == [len(turn["losses"]) for turn in published] == [2, 2]
    assert len(norms) >= 3  # the gate is before the loss is read
    assert min(norms) > 0  # the recipe doesn't clip gradients
    seen = [position for turn in ours for batch in turn["batches"] for position in batch]
    assert len(set(seen)) == len(seen) == 64  # four batches of one epoch
    # The same start and slices; dropout and rounding differ.
    assert published[0]["losses"][0] == pytest.approx(ours[0]["losses"][0], rel=0.1)
    assert all(turn["seconds"] > turn["fetching"] >= 0 for turn in [*ours, *published])


def test_the_published_loop_sees_what_the_network_sees(noise: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    training = _load("training", monkeypatch)
    task = training.Task(str(noise.folder), "cnn", 16, 1, 0, 32)
    network, known = task.build(), task.examples()
    slices = training.Slices(known, network, task.settings(), training.Gate())
    pixels, leaf = slices[5]
    torch.testing.assert_close(pixels, network.read_images(torch.from_numpy(known.take(np.array([5]))))[0])
    assert leaf == known.leaves[5]


def test_the_distance_of_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    training = _load("training", monkeypatch)
    one = np.linspace(2, 1, 30)
    assert training.distance(one, one) == 0
    assert training.distance(one, one + 0.2) == pytest.approx(0.2)
    wobbling = one + 0.2 * (-1.0) ** np.arange(30)
    assert training.distance(one, wobbling) < 0.01


def test_exponents_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    scaling = _load("scaling", monkeypatch)
    assert scaling.exponents({n: [3.0 * n] for n in scaling.FACTORS}) == pytest.approx((1, 1))
    fitted, last = scaling.exponents({n: [10 + n**2] for n in scaling.FACTORS})
    assert fitted < last < 2


def test_a_tiny_scaling_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_networks(monkeypatch)
    scaling = _load("scaling", monkeypatch)
    monkeypatch.setattr(scaling, "FACTORS", (1, 2))
    monkeypatch.setattr("genretree.corpus.prepare.available_processors", lambda: 1)
    found = scaling.measure(tmp_path, 12, 3.0, 1, 32)
    assert all(len(seconds) == 1 for times in found.values() for seconds in times.values())
    assert all(seconds[0] > 0 for name in ("prepare", "predict") for seconds in found[name].values())


def test_synthetic_sound_is_as_long_as_asked_for_and_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import soundfile as sf

    synthetic = _load("synthetic", monkeypatch)
    one, other = (synthetic.write_sound(tmp_path / name, 21.5, 3) for name in ("a.wav", "b.wav"))
    samples, rate = sf.read(one)
    assert samples.shape == (round(21.5 * rate), 2)
    assert one.read_bytes() == other.read_bytes()
    assert 0.1 < np.abs(samples).max() <= 1


def test_the_page_shows_what_was_measured_and_keeps_the_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = _load("performance_page", monkeypatch)
    about = {
        "processor": "a processor",
        "cores": 2,
        "memory": 4,
        "system": "a system",
        "versions": {"torch": "2"},
    }
    measured: dict[str, Any] = {
        "stages": [{"stage": "s", "usual": [4.0, 6.0], "ours": [2.0, 1.0], "note": "", "times": 3}],
        "components": {
            "rows": 5,
            "full": False,
            "ours": {"seconds": 2, "megabytes": 7, "explained": 0.5},
            "published": {"seconds": 26, "megabytes": 9, "explained": 0.4},
        },
        "track": [{"what": "a track", "seconds": {"torch": [3.0, 3.0], "other": [1.0, 1.5]}}],
    }
    sections = {
        name: {
            "command": f"python {name}",
            "seconds": 3,
            "began": "2026-01-02 03:04",
            "tables": page.render_tables(name, content),
        }
        for name, content in measured.items()
    }
    notes = tmp_path / "one"
    notes.mkdir()
    (notes / "stages.md").write_text("What we learned.\n")
    monkeypatch.setattr(page, "NOTES", tmp_path)
    other = {**about, "processor": "another", "sections": {"track": sections["track"]}}
    text = page.write_page({"one": {**about, "sections": sections}, "two": other})
    assert text.count("### a processor, 2 cores: a track by runtime") == 1
    assert text.count("### another, 2 cores: ") == 1
    assert "10.00 (6.00 to 18.00)" in text  # 3 x 5 s to 1.5 s, and each round
    assert "| ours | 2 | 13.0 | 7 | 50.00 % |" in text
    assert "Fewer rows than the full problem" in text
    assert "2.40 (2.00 to 3.00)" in text
    assert "What we learned." in text
    assert "`python track` (3 s, begun 2026-01-02 03:04 UTC)" in text
    assert "Peak memory" not in text  # not measured
    assert "Why a target" in text
    assert "Why a target" not in page.write_page({"one": {**about, "sections": sections}}, quick=True)


def test_the_page_has_the_time_of_a_whole_run_and_names_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    page = _load("performance_page", monkeypatch)
    section = {"command": "python x", "seconds": 3, "began": "2026-01-02 03:04", "tables": ["| a |"]}
    failed = {"command": "python y", "began": "2026-01-02 03:50", "failed": True}
    machine: dict[str, Any] = {
        "processor": "a processor",
        "cores": 2,
        "memory": 4,
        "system": "a system",
        "versions": {},
        "sections": {"track": section, "memory": failed},
    }
    text = page.write_page({"one": machine})
    assert "Whole run" not in text
    assert "**Failed: Peak memory.**" in text
    assert "`python y` (**failed**, begun 2026-01-02 03:50 UTC)" in text
    machine["whole_run"] = {"began": "2026-01-02 03:00", "seconds": 3120, "material": 240}
    text = page.write_page({"one": machine})
    assert "Whole run: 52 min, of which 4 for music and bundles, begun 2026-01-02 03:00 UTC. **Failed" in text
    assert "an hour | 52 min: reached |" in text
    machine["sections"]["track"] = {**section, "began": "2026-01-09 03:04"}
    machine["whole_run"]["seconds"] = 3700
    text = page.write_page({"one": machine})
    assert "begun 2026-01-02 03:00 UTC; measured at another time: A track by runtime." in text
    assert "an hour | 62 min: **not reached** |" in text


@pytest.fixture
def everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The run of all benchmarks, on a small machine where each command only writes what it was given."""
    module = _load("everything", monkeypatch)
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(module.performance_page, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "make_material", lambda out, *_: (out, out, out, []))
    words = {name: [FOLDER / f"{name}.py", "--json", tmp_path / f"{name}.json"] for name in ("cores", "many", "start")}
    monkeypatch.setattr(module, "commands", lambda *_: words)
    return module


def _run_everything(module: ModuleType, fails: str, out: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> Any:
    pages = []

    def run(*words: Any) -> None:
        if Path(words[0]).stem == fails:
            raise subprocess.CalledProcessError(1, words)
        pages.append(Path(words[0]).stem)
        if "--json" in words:
            Path(words[-1]).write_text("[]", encoding="utf-8")

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(sys, "argv", ["everything", "--out", str(out), *more])
    try:
        module.main()
        status = None
    except SystemExit as ended:
        status = ended.code
    results = next((out / "results").glob("*.json"))
    return status, pages[-1], json.loads(results.read_text(encoding="utf-8"))


def test_a_failing_benchmark_does_not_end_the_others(
    everything: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, last, results = _run_everything(everything, "cores", tmp_path, monkeypatch)
    assert status == "failed: cores"  # which Python prints and exits with 1
    assert last == "performance_page"
    assert "failed" in results["sections"]["cores"]
    assert results["sections"]["start"]["tables"] == [""]
    assert "whole_run" not in results
    status, _, results = _run_everything(everything, "none", tmp_path, monkeypatch)
    assert status is None
    assert "failed" not in results["sections"]["cores"]
    assert set(results["whole_run"]) == {"began", "seconds", "material"}
    _, _, later = _run_everything(everything, "none", tmp_path, monkeypatch, "--only", "start")
    assert later["whole_run"] == results["whole_run"]


def test_a_store_of_other_music_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = _load("everything", monkeypatch).check_store
    check(tmp_path, tmp_path / "music.csv")
    (tmp_path / "store.json").write_text(json.dumps({"facts": {"source": str(tmp_path / "music.csv")}}))
    check(tmp_path, tmp_path / "music.csv")
    with pytest.raises(SystemExit, match=r"choose another --out"):
        check(tmp_path, tmp_path / "other.csv")


def test_hours_come_from_the_median_step_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full_run = _load("full_run", monkeypatch)
    steady = np.cumsum([0, 1.0, 1.1, 9.0, 0.9, 1.0, 1.0])  # one step during which the machine did something else
    assert full_run.median_step(steady) == pytest.approx(1.0)
    with pytest.raises(full_run.UnreliableError, match="without other load"):
        full_run.median_step(np.cumsum([0, 1.0, 3.0, 0.5, 4.0, 0.2, 3.0]))
    with pytest.raises(full_run.UnreliableError, match="2 steps were timed"):
        full_run.median_step([0.0, 1.0, 2.0])
    monkeypatch.setattr(sys, "argv", ["full_run", "--steps", "2"])
    with pytest.raises(SystemExit):
        full_run.main()
    assert "--steps is 2" in capsys.readouterr().err
    small = {"image_size": 32, "batch_size": 2, "precision": "float32"}
    monkeypatch.setattr(full_run, "MOST_SPREAD", 1e9)
    assert full_run.time_steps("cnn", small, 5) > 0


def test_the_loop_of_the_study_has_its_networks_and_its_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = _load("published_loop", monkeypatch)
    built = {"cnn": loop.StudyCnn(), "ast": loop.StudyTransformer(224), "efficientnet-b0": loop.StudyEfficientNet()}
    counts = {name: sum(weights.numel() for weights in network.parameters()) for name, network in built.items()}
    assert counts == {"cnn": 2_831_575, "ast": 10_831_899, "efficientnet-b0": 4_042_135}
    labels = torch.tensor([[0, 1, 1], [1, 8, 15]])
    for name, network in built.items():
        scores = network(torch.zeros(2, 1, 224, 224) if name == "ast" else torch.zeros(2, 3, 64, 64))
        assert [level.shape[1] for level in scores] == [2, 9, 16]
        assert float(loop.level_loss(scores, labels, [0.1])) > 0
    one = [[(4.0, 2.0, 0.3), (2.0, 1.0, 0.5)]]  # seconds, validation loss, accuracy of each epoch
    result = loop.summarise("cnn", {"study": one, "genretree": [[(1.0, 1.0, 0.6)]]})
    assert result["ratio"] == 3.0
    assert result["accuracy"] == {"study": 0.5, "genretree": 0.6}
    assert loop.cells(result) == ["cnn", "3.0", "1.0", "3.0 (3.0 to 3.0)", "50.0%", "60.0%"]


def test_the_performance_page_has_the_results_of_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    page = _load("performance_page", monkeypatch)
    written = (FOLDER.parent / "docs" / "performance.md").read_text(encoding="utf-8")
    assert written == page.write_page(page.read_machines(page.RESULTS)), "run benchmarks/performance_page.py"


def test_commands_are_written_without_the_folders_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    name = _load("everything", monkeypatch).name_command
    out = Path("/tmp/x")
    words = [FOLDER / "runtimes.py", "track", out / "bundles" / "cnn", Path("/home/me/track.mp3"), "--rounds", "3"]
    assert name(words, out) == "python benchmarks/runtimes.py track bench/bundles/cnn track.mp3 --rounds 3"


def test_a_result_is_named_after_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    name = _load("everything", monkeypatch).name_machine
    assert name({"processor": "Intel(R) Xeon(R) Processor @ 2.10GHz", "cores": 2}) == "intel-xeon-2-cores"
    assert name({"processor": "AMD EPYC", "cores": 2}) == "amd-epyc-2-cores"


def test_the_comparison_scores_every_track_on_held_out_artists(noise: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = _load("comparison", monkeypatch)
    features = np.random.default_rng(0).normal(size=(noise.n_tracks, 4))
    features[:, 0] = noise.track_leaves
    (predicted,) = comparison.cross_validate_sklearn(noise, comparison.FOREST, features, [0])
    row = comparison.score(noise, [predicted], [predicted])
    assert row["leaf"]["accuracy"] > 0.5
    assert row["leaf"]["balanced_ci95"][0] < row["leaf"]["balanced"] < row["leaf"]["balanced_ci95"][1]
    assert row["gain"]["mean"] == 0


def test_the_tables_of_the_comparison_are_those_of_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = _load("comparison", monkeypatch)
    page = FOLDER.parent / "docs" / "comparison.md"
    copy = tmp_path / "page.md"
    copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["comparison", "page", str(FOLDER / "comparison.json"), str(copy)])
    comparison.main()
    assert copy.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")


def test_targets_are_judged_by_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    page = _load("performance_page", monkeypatch)
    lines = [
        "| 200 files, 1000 s of music | ms (range) | times (range) |",
        "| --- | ---: | ---: |",
        "| openvino bf16, 2 workers | 2,000.0 (1 to 2) | 1.75 (1 to 2) |",
    ]
    goal = {"what": "", "section": "folder", "row": "openvino bf16, 2"}
    assert page.Target(**goal, column=1, limit=500, real_time=True).judge(lines) == "500: reached"
    assert page.Target(**goal, column=1, limit=501, real_time=True).judge(lines) == "500: **not reached**"
    assert page.Target(**goal, column=2, limit=1.8).judge(lines) == "1.75: **not reached**"
    assert page.Target(**goal, column=2, limit=1.8, at_most=True).judge(lines) == "1.75: reached"
    assert page.Target(**goal, column=2, limit=1.8, after="another table").judge(lines) == "-"
    assert page.Target(**goal, column=2, limit=1.8).judge([""]) == "-"


def test_every_target_is_in_a_section_that_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    page = _load("performance_page", monkeypatch)
    assert {target.section for target in page.TARGETS} <= set(page.SECTIONS)
    machines = page.read_machines(FOLDER / "results")
    judged = page.write_targets(machines).splitlines()[2:]
    assert len(judged) == len(page.TARGETS) + 1  # the whole run
    assert all(line.count("|") == len(machines) + 2 for line in judged)
    tables = [line for machine in machines.values() for name in machine["sections"] for line in _lines(machine, name)]
    assert not any("target" in line for line in tables if line.startswith("|")), "targets stand in one table"


def _lines(machine: dict[str, Any], name: str) -> list[str]:
    lines: list[str] = machine["sections"][name].get("tables", [])
    return lines


def test_every_target_that_is_not_reached_has_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    page = _load("performance_page", monkeypatch)
    unmet = [
        (key, target)
        for key, machine in page.read_machines(FOLDER / "results").items()
        for target in page.find_unmet(machine)
    ]
    assert unmet
    missing = [
        f"notes/{key}/{target.section}.md: **{target.what}**"
        for key, target in unmet
        if f"**{target.what}**" not in page.read_notes(f"{key}/{target.section}")
    ]
    assert not missing, "name each in bold, and say why it is not reached"


def test_simulated_threads_end_at_the_interpreter_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    many_cores = _load("many_cores", monkeypatch)
    found = many_cores.simulate_predict(0.05, 0.5, [1, 8], pieces=5, duration=1.0)
    assert found["cores"][8] < 1.25 / (0.5 * 0.05)  # the lock allows 40 a second, but for what is in work at the end
    cells = many_cores.rows(found)
    assert [row[2] for row in cells] == ["1", "8"]
    assert cells[0][4] == "1.0"
    assert [row[5] for row in cells] == ["-", "-"]
    found["measured"] = many_cores.measure_speedup(lambda count: 6.0 / count, 8, 2)
    assert many_cores.rows(found)[1][5] == "8.00 (8.00 to 8.00)"


def test_prepare_around_simulated_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many_cores, synthetic = _load("many_cores", monkeypatch), _load("synthetic", monkeypatch)
    synthetic.write_music(tmp_path / "music", 4, 12.0)
    files = sorted((tmp_path / "music").rglob("*.wav"))[:4]
    found = many_cores.simulate_prepare(files, 2, [2])
    assert found["seconds"] > 0
    assert found["cores"][2] > 0
    assert many_cores.measure_prepare(files, 2) > 0
