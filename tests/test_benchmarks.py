"""What can be wrong in benchmarks/ without a clock: counts, grids, tables, settings."""

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models import NARROW
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vesselseg.registry import EMBEDDED, REGISTRY, find_spec
from vesselseg.sliding import windows
from vesselseg.unet import UNet

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
DRIVE = find_spec("unet_s5-d16_drive")


@pytest.fixture(autouse=True)
def _as_scripts(monkeypatch):
    """The modules import each other by their bare names, as the started script does."""
    monkeypatch.syspath_prepend(BENCHMARKS)


def load(name):
    return importlib.import_module(name)


class TestFlop:
    def test_by_hand(self):
        spec = dataclasses.replace(NARROW, width=4, depth=2, crop=8, stride=8)
        map1, map2 = 8 * 8, 4 * 4  # pixels
        units = [
            9 * 3 * 4 * map1, 9 * 4 * 4 * map1,  # encoder, two stages
            9 * 4 * 8 * map2, 9 * 8 * 8 * map2,
            9 * 8 * 4 * map1, 9 * 4 * 4 * map1,  # decoder, behind the concatenation
            9 * 4 * 4 * map1, 4 * 2 * map1,  # head
        ]  # fmt: skip
        nominal, executed = load("flops").window_flop(spec, 8, 8)
        assert executed == 2 * (sum(units) + 8 * 4 * map2)
        assert nominal == 2 * (sum(units) + 8 * 4 * map1)

    @pytest.mark.parametrize(
        ("dataset", "size", "tera"),
        [("drive", (584, 565), 0.58), ("stare", (605, 700), 0.71),
         ("chase_db1", (960, 999), 1.67), ("hrf", (2336, 3504), 14.9)],
    )  # fmt: skip
    def test_published_models_per_image(self, dataset, size, tera):
        spec = find_spec(f"unet_s5-d16_{dataset}")
        cost = load("flops").cost(spec, *size, batch_size=1)
        assert cost.nominal / 2e12 == pytest.approx(tera, rel=0.01)  # multiplications with addition
        assert cost.executed < cost.nominal

    def test_the_last_batch_is_filled_up(self):
        flops = load("flops")
        one, sixteen = (flops.cost(DRIVE, 584, 565, batch_size=n) for n in (1, 16))
        assert one.windows == sixteen.windows == 182
        assert sixteen.nominal == one.nominal
        assert sixteen.executed == pytest.approx(one.executed * 192 / 182)

    def test_short_sides_are_filled_up(self):
        assert load("flops").window_size(DRIVE, 20, 100) == (32, 64)

    def test_nothing_is_drawn(self):
        flops = load("flops")
        flops.window_flop.cache_clear()
        before = torch.get_rng_state()
        flops.window_flop(NARROW, 64, 64)
        assert torch.equal(torch.get_rng_state(), before)


class TestReference:
    """mmsegmentation's model, where that is installed (benchmarks/requirements.txt)."""

    @pytest.fixture(scope="class")
    def theirs(self):
        pytest.importorskip("mmseg", reason="mmsegmentation is not installed")

    @pytest.mark.filterwarnings("ignore")  # of the other library
    @pytest.mark.usefixtures("theirs")
    def test_its_operations_are_the_nominal_ones(self):
        model = load("reference").build(NARROW)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, 3, 64, 64), mode="tensor")
        assert counter.get_total_flops() == load("flops").window_flop(NARROW, 64, 64)[0]

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.usefixtures("theirs")
    def test_filled_with_folded_weights_it_gives_the_same_logits(self, model, photograph):
        reference = load("reference")
        theirs = reference.build(NARROW)
        reference.fill(theirs, model._runtime.weights, NARROW)
        logits = reference.slide(theirs, photograph, NARROW)
        expected = model.logits(photograph, scale="native")
        assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


class TestMonai:
    @pytest.mark.parametrize("spec", {r.crop: r for r in REGISTRY.values()}.values())
    @pytest.mark.filterwarnings("ignore")
    def test_its_grid_is_the_same(self, spec):
        inferers = pytest.importorskip("monai.inferers.utils", reason="MONAI is not installed")
        size = (2 * spec.crop + 37, spec.crop + 5)
        seen = []

        def where(x):
            seen.extend((int(w[0, 0, 0]), int(w[1, 0, 0])) for w in x)
            return x

        rows, columns = np.indices(size, dtype=np.float32)
        inferers.sliding_window_inference(
            torch.from_numpy(np.stack([rows, columns]))[None],
            roi_size=(spec.crop, spec.crop),
            sw_batch_size=3,
            predictor=where,
            overlap=load("candidates").overlap(spec.crop, spec.stride),
        )
        assert seen == [(w.top, w.left) for w in windows(*size, spec.crop, spec.stride)]


class TestLimit:
    @pytest.mark.parametrize(("kind", "most"), [("cpu", 0.5e9), ("cuda", 2e9)])
    def test_every_configuration_can_be_computed(self, kind, most):
        configurations = load("limit").configurations(kind)
        assert len(set(configurations)) == len(configurations)
        for channels, side, batch in configurations:
            with torch.device("meta"):
                maps = torch.empty(batch, channels, side, side)
                out = nn.Conv2d(channels, channels, 3, padding=1)(maps)
            assert out.shape == (batch, channels, side, side)
            assert out.numel() * 4 < most  # bytes

    def test_flop(self):
        convolution = load("limit").Convolution(64, 32, 2)
        with FlopCounterMode(display=False) as counter, torch.device("meta"):
            nn.Conv2d(64, 64, 3, padding=1)(torch.empty(2, 64, 32, 32))
        assert convolution.flop == counter.get_total_flops()

    def test_all_channels_and_maps_are_covered_but_the_largest_of_all(self):
        limit = load("limit")
        covered = {(c.channels, c.side) for c in limit.configurations()}
        every = {(channels, side) for channels in limit.CHANNELS for side in limit.SIDES}
        assert every - covered == {(512, 256)}

    def test_a_cell_has_its_best_batch_and_the_limit_is_the_best_cell(self):
        limit = load("limit")
        row = {"precision": "float32", "channels": 64}
        rows = [
            {**row, "side": 8, "batch": 1, "gflops": 11.0},
            {**row, "side": 8, "batch": 2, "gflops": 33.4},
            {**row, "side": 256, "batch": 1, "gflops": 22.0},
            {**row, "precision": "bfloat16", "side": 8, "batch": 1, "gflops": 70.0},
        ]
        assert limit.best(rows) == {"float32": 33.4, "bfloat16": 70.0}
        first, _, second = limit.tables(rows).partition("bfloat16, at most 70")
        assert "at most 33 GFLOP/s" in first
        assert "| 64 | 33 |  |  |  |  | 22 |" in first
        assert "| 64 | 70 |" in second


class TestTable:
    def test_markdown(self):
        table = load("table")
        columns = [table.Column("image", "size"), table.Column("s", "seconds", "{:.2f}")]
        rows = [{"size": (584, 565), "seconds": 1.0 / 3}, {"size": "other", "seconds": None}, {}]
        assert table.markdown(rows, columns) == (
            "| image | s |\n|---|---|\n| 584 x 565 | 0.33 |\n| other |  |\n|  |  |"
        )


class TestSpeed:
    def test_runs_alternate(self):
        order = []
        runs = {name: lambda name=name: order.append(name) for name in "ab"}
        times = load("speed").interleave(runs, 3)
        assert order == ["a", "b"] * 3
        assert {name: len(each) for name, each in times.items()} == {"a": 3, "b": 3}

    def test_the_ratio_is_the_median_of_the_rounds(self):
        ratio = load("speed").ratio
        assert ratio([2, 8, 6], [1, 2, 6]) == 2
        assert ratio(None, [1.0]) is None

    @pytest.fixture
    def narrow(self, monkeypatch, published_file):
        """A narrow model in place of a published one; mmsegmentation is not there."""
        cases = load("cases")
        monkeypatch.setitem(cases.PLANS, "small", cases.Plan("small", (70, 66), "a note"))
        monkeypatch.setattr(cases.Plan, "spec", NARROW)
        monkeypatch.setattr(cases.Case, "_draw", lambda _: published_file)
        monkeypatch.setattr("reference.build", _not_installed)

    @pytest.mark.usefixtures("narrow")
    def test_what_is_here_is_measured_and_what_is_missing_says_why(self):
        names = ["vesselseg-float32", "vesselseg-noise", "mmsegmentation"]
        ((first, noise, missing),) = load("speed").measure(["small"], names, 2, {"float32": 1e9})
        assert (first["image"], first["windows"], first["note"]) == ((70, 66), 4, "a note")
        assert len(first["times"]) == 2
        assert first["executed"] > 1.5 * first["nominal"]  # 4 windows in a batch of 8
        assert first["share"] == first["executed"] / 1e9
        assert noise["equal"] is first["equal"] is first["ratio"] is None
        assert missing["left_out"] == "No module named 'mmseg'"

    @pytest.mark.usefixtures("narrow")
    def test_all_that_is_here_gives_the_same_mask(self, tmp_path):
        case = load("cases").Case(load("cases").PLANS["small"], tmp_path)
        built = {name: load("speed").build(name, case) for name in load("candidates").CANDIDATES}
        found = {name: each for name, each in built.items() if not isinstance(each, str)}
        expected = found["vesselseg-float32"].run()
        assert 0.2 < expected.mean() < 0.8
        for each in found.values():
            if each.comparable:
                least = 0.999 if each.precision == "float32" else 0.95
                assert (each.run() == expected).mean() >= least, each.name


def _not_installed(_):
    raise ModuleNotFoundError("No module named 'mmseg'")


class TestCases:
    def test_the_middle_suits_the_network(self):
        pixels = load("cases").noise((70, 600))
        assert np.array_equal(load("cases").middle(pixels), pixels[3:67, 172:428])

    def test_random_weights_give_both_classes(self):
        network = UNet(NARROW.width, NARROW.depth)
        window = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        load("cases").balance(network.head.classifier, network, window)
        with torch.no_grad():
            vessel = network(window).argmax(dim=1)
        assert 0.4 < vessel.float().mean() < 0.6

    def test_plans(self):
        plans = load("cases").PLANS
        for plan in plans.values():
            assert plan.spec in (EMBEDDED, *REGISTRY.values())
        part, spec = plans["hrf"], plans["hrf"].spec
        assert len(windows(*part.size, spec.crop, spec.stride)) == 36
        assert len(windows(*spec.fit_size, spec.crop, spec.stride)) == 294
        assert "36" in part.note
        assert "294" in part.note

    def test_photograph_fills_its_frame(self):
        cases = load("cases")
        assert cases.photograph((40, 60)).shape == (40, 60, 3)
        assert np.array_equal(cases.noise((4, 6)), cases.noise((4, 6)))


class TestCommand:
    def test_wrong_arguments_are_rejected(self, capsys):
        run = load("run")
        for wrong in (["--parts", "sped"], ["--repeats", "0"], ["--candidates", "x"]):
            with pytest.raises(SystemExit):
                run.parse(wrong)
        assert "'0' is not a whole number from 1 up" in capsys.readouterr().err

    def test_every_part_can_be_run(self):
        run = load("run")
        assert set(run.RUN) == set(run.PARTS) == set(run.parse([]).parts)

    def test_on_a_gpu_there_is_less_to_measure_and_more_of_hrf(self, capsys):
        run = load("run")
        options = run.parse(["--device", "cuda"])
        assert options.parts == ["limit", "speed"]
        assert "hrf-whole" in options.models
        assert "hrf-whole" not in run.parse([]).models
        with pytest.raises(SystemExit):
            run.parse(["--device", "cuda", "--parts", "limit", "memory"])
        assert "measured on the CPU alone: memory" in capsys.readouterr().err

    def test_figures_of_a_part_are_printed_and_written(self, tmp_path, monkeypatch, capsys):
        run = load("run")
        monkeypatch.setattr("start.measure", lambda repeats: [{"what": "it", "seconds": repeats}])
        file = tmp_path / "results.json"
        run.main(["--parts", "start", "--repeats", "3", "--json", str(file)])
        assert "| it | 3.000 |" in capsys.readouterr().out
        results = json.loads(file.read_text())
        assert results["start"] == [{"what": "it", "seconds": 3}]
        assert results["about"]["versions"]["torch"] == torch.__version__

    def test_a_busy_machine_is_reported(self):
        machine = load("machine")
        assert "busy in the last minute (load 1.50)" in machine.warning(1.5)
        assert machine.warning(0.1) == machine.warning(None) == ""
