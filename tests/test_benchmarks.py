"""The benchmarks, except for their times: counts, windows, tables, options; each part runs."""

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models import NARROW, TINY, tiny_weights
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vesselseg import registry, weights
from vesselseg.backends import onednn
from vesselseg.backends.pytorch import native_precisions
from vesselseg.registry import EMBEDDED, REGISTRY, find_spec
from vesselseg.sliding import windows
from vesselseg.unet import UNet

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
DRIVE = find_spec("unet_s5-d16_drive")


@pytest.fixture(autouse=True)
def _on_the_path(monkeypatch):
    """The scripts import each other by their bare names."""
    monkeypatch.syspath_prepend(BENCHMARKS)


def load(name):
    return importlib.import_module(name)


class TestFlop:
    @pytest.mark.slow
    def test_operations_of_a_small_network_equal_those_counted_by_hand(self):
        spec = dataclasses.replace(NARROW, width=4, depth=2, crop=8, stride=8)
        map1, map2 = 8 * 8, 4 * 4  # pixels
        units = [
            9 * 3 * 4 * map1, 9 * 4 * 4 * map1,  # encoder, two stages
            9 * 4 * 8 * map2, 9 * 8 * 8 * map2,
            9 * 8 * 4 * map1, 9 * 4 * 4 * map1,  # decoder, after the concatenation
            9 * 4 * 4 * map1, 4 * 2 * map1,  # head
        ]  # fmt: skip
        nominal, executed = load("flops").window_flop(spec, 8, 8)
        assert executed == 2 * (sum(units) + 8 * 4 * map2)
        assert nominal == 2 * (sum(units) + 8 * 4 * map1)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("dataset", "size", "tera"),
        [("drive", (584, 565), 0.58), ("stare", (605, 700), 0.71),
         ("chase_db1", (960, 999), 1.67), ("hrf", (2336, 3504), 14.9)],
    )  # fmt: skip
    def test_published_models_take_the_documented_operations_per_image(self, dataset, size, tera):
        spec = find_spec(f"unet_s5-d16_{dataset}")
        cost = load("flops").cost(spec, *size, batch_size=1)
        assert cost.nominal / 2e12 == pytest.approx(tera, rel=0.01)  # multiply-adds
        assert cost.executed < cost.nominal

    @pytest.mark.slow
    def test_empty_windows_of_the_last_batch_count_as_executed(self):
        flops = load("flops")
        one, sixteen = (flops.cost(DRIVE, 584, 565, batch_size=n) for n in (1, 16))
        assert one.windows == sixteen.windows == 182
        assert sixteen.nominal == one.nominal
        assert sixteen.executed == pytest.approx(one.executed * 192 / 182)

    def test_windows_of_small_images_are_extended(self):
        assert load("flops").window_size(DRIVE, 20, 100) == (32, 64)

    def test_shrunk_windows_cost_less(self):
        flops = load("flops")
        assert flops.window_size(DRIVE, 70, 100, shrink=True) == (48, 64)
        whole, shrunk = (flops.cost(DRIVE, 70, 100, 1, shrink=s) for s in (False, True))
        assert shrunk.windows == whole.windows == 4
        assert shrunk.executed == pytest.approx(whole.executed * 48 / 64)

    def test_no_random_numbers_are_drawn(self):
        flops = load("flops")
        flops.window_flop.cache_clear()
        before = torch.get_rng_state()
        flops.window_flop(NARROW, 64, 64)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore")  # from mmsegmentation
class TestReference:
    @pytest.fixture
    def theirs(self):
        pytest.importorskip("mmseg", reason="mmsegmentation is not installed")
        return load("reference").build(NARROW)

    def test_mmsegmentation_takes_the_nominal_operations(self, theirs):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            theirs(torch.zeros(1, 3, 64, 64), mode="tensor")
        assert counter.get_total_flops() == load("flops").window_flop(NARROW, 64, 64)[0]

    def test_mmsegmentation_with_folded_weights_gives_the_same_logits(
        self, theirs, model, published_file, photograph
    ):
        reference = load("reference")
        reference.fill(theirs, weights.load_network(published_file, NARROW), NARROW)
        logits = reference.slide(theirs, photograph, NARROW)
        expected = model.logits(photograph, scale="native")
        assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("spec", {spec.crop: spec for spec in REGISTRY.values()}.values())
@pytest.mark.filterwarnings("ignore")
def test_monai_uses_the_same_windows(spec):
    inferers = pytest.importorskip("monai.inferers.utils", reason="MONAI is not installed")
    size = (2 * spec.crop + 37, spec.crop + 5)
    corners = []

    def record_corners(x):
        corners.extend((int(w[0, 0, 0]), int(w[1, 0, 0])) for w in x)
        return x

    rows, columns = np.indices(size, dtype=np.float32)
    inferers.sliding_window_inference(
        torch.from_numpy(np.stack([rows, columns]))[None],
        roi_size=(spec.crop, spec.crop),
        sw_batch_size=3,
        predictor=record_corners,
        overlap=load("candidates").overlap(spec.crop, spec.stride),
    )
    assert corners == [(w.top, w.left) for w in windows(*size, spec.crop, spec.stride)]


class TestLimit:
    @pytest.mark.parametrize(("device", "most"), [("cpu", 0.5e9), ("cuda", 2e9)])
    def test_every_convolution_can_be_computed(self, device, most):
        configurations = load("limit").configurations(device)
        assert len(set(configurations)) == len(configurations)
        for channels, side, batch in configurations:
            with torch.device("meta"):
                maps = torch.empty(batch, channels, side, side)
                out = nn.Conv2d(channels, channels, 3, padding=1)(maps)
            assert out.shape == (batch, channels, side, side)
            assert out.numel() * 4 < most  # bytes

    def test_operations_of_a_convolution_equal_those_that_torch_counts(self):
        convolution = load("limit").Convolution(64, 32, 2)
        with FlopCounterMode(display=False) as counter, torch.device("meta"):
            nn.Conv2d(64, 64, 3, padding=1)(torch.empty(2, 64, 32, 32))
        assert convolution.flop == counter.get_total_flops()

    def test_only_the_largest_maps_with_most_channels_are_left_out(self):
        limit = load("limit")
        covered = {(c.channels, c.side) for c in limit.configurations()}
        every = {(channels, side) for channels in limit.CHANNELS for side in limit.SIDES}
        assert every - covered == {(512, 256)}

    def test_a_convolution_is_measured_in_each_native_precision(self, monkeypatch):
        limit = load("limit")
        monkeypatch.setattr(limit, "configurations", lambda _: [limit.Convolution(64, 8, 1)])
        monkeypatch.setattr(limit, "SECONDS", 0)
        rows = limit.measure()
        assert [row["precision"] for row in rows] == native_precisions(torch.device("cpu"))
        assert all(row["gflops"] > 0 for row in rows)

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


def test_a_table_is_written_in_markdown():
    table = load("table")
    columns = [table.Column("image", "size"), table.Column("s", "seconds", "{:.2f}")]
    rows = [{"size": (584, 565), "seconds": 1.0 / 3}, {"size": "other", "seconds": None}, {}]
    assert table.markdown(rows, columns) == (
        "| image | s |\n|---|---|\n| 584 x 565 | 0.33 |\n| other |  |\n|  |  |"
    )


class TestSpeed:
    def test_candidates_take_turns(self):
        order = []
        runs = {name: lambda name=name: order.append(name) for name in "ab"}
        times = load("speed").interleave(runs, 3)
        assert order == ["a", "b"] * 3
        assert {name: len(each) for name, each in times.items()} == {"a": 3, "b": 3}

    def test_the_ratio_is_the_median_of_the_rounds(self):
        assert load("speed").ratio([2, 8, 6], [1, 2, 6]) == 2

    def test_savings_are_shares_of_the_time_without_a_part(self):
        times = {"": [9.0, 9.0], "-no-winograd": [10.0, 10.0], "-no-packing": [20.0, 20.0]}
        rows = [
            {"model": "m", "image": (8, 8), "candidate": f"vesselseg-float32{name}", "times": each}
            for name, each in times.items()
        ]
        (row,) = load("speed").savings(rows)
        assert (row["precision"], row["packing"]) == ("float32", 0.5)
        assert row["winograd"] == pytest.approx(0.1)
        assert load("speed").savings(rows[:2]) == []

    @pytest.fixture
    def plan(self, monkeypatch, published_file):
        """A narrow model in place of a published one, without mmsegmentation."""

        def not_installed(_):
            raise ModuleNotFoundError("No module named 'mmseg'")

        cases = load("cases")
        plan = cases.Plan("small", (70, 66), "a note")
        monkeypatch.setitem(cases.PLANS, "small", plan)
        monkeypatch.setattr(cases.Plan, "spec", NARROW)
        monkeypatch.setattr(cases, "random_weights", lambda _: published_file)
        monkeypatch.setattr("reference.build", not_installed)
        return plan

    @pytest.mark.usefixtures("plan")
    def test_a_missing_candidate_says_why_and_the_others_are_measured(self):
        names = ["vesselseg-float32", "vesselseg-noise", "mmsegmentation"]
        ((first, noise, missing),) = load("speed").measure(["small"], names, 2, {"float32": 1e9})
        assert (first["image"], first["windows"], first["note"]) == ((70, 66), 4, "a note")
        assert len(first["times"]) == 2
        assert first["executed"] > 1.5 * first["nominal"]  # 4 windows in a batch of 8
        assert first["share"] == first["executed"] / 1e9
        assert not {"equal", "ratio"} & (first.keys() | noise.keys())
        assert missing["left_out"] == "No module named 'mmseg'"

    @pytest.mark.slow
    def test_every_candidate_gives_the_same_mask(self, plan, tmp_path):
        case = load("cases").Case(plan, tmp_path)
        built = {name: load("speed").build(name, case) for name in load("candidates").CANDIDATES}
        found = {name: each for name, each in built.items() if not isinstance(each, str)}
        expected = found["vesselseg-float32"].run()
        assert 0.2 < expected.mean() < 0.8
        for name, each in found.items():
            if each.comparable:
                least = 0.999 if each.precision == "float32" else 0.95
                assert (each.run() == expected).mean() >= least, name

    @pytest.mark.slow
    @pytest.mark.skipif(not onednn.available(), reason="needs oneDNN on an x86 CPU")
    @pytest.mark.parametrize(
        ("candidate", "expected"),
        [("vesselseg-float32", {"PackedUnit", "WinogradUnit"}),
         ("vesselseg-float32-no-winograd", {"PackedUnit"}),
         ("vesselseg-float32-no-packing", set())],
    )  # fmt: skip
    def test_a_candidate_without_a_part_does_not_use_it(
        self, candidate, expected, plan, tmp_path, monkeypatch
    ):
        cases = load("cases")
        wide = dataclasses.replace(TINY, width=64, depth=3)
        file = tiny_weights(tmp_path / "wide.pth", wide)
        monkeypatch.setattr(cases.Plan, "spec", wide)
        monkeypatch.setattr(cases, "random_weights", lambda _: file)
        used = set()
        for kind in (onednn.PackedUnit, onednn.WinogradUnit):
            monkeypatch.setattr(kind, "forward", recorded(kind, used))
        load("speed").build(candidate, cases.Case(plan, tmp_path)).run()
        assert used == expected


def recorded(kind, used):
    """The forward method of a class, which adds the name of the class to `used`."""
    forward = kind.forward

    def record(self, *parts):
        used.add(kind.__name__)
        return forward(self, *parts)

    return record


class TestCases:
    def test_the_middle_of_an_image_has_sides_that_suit_the_network(self):
        pixels = load("cases").noise((70, 600))
        assert np.array_equal(load("cases").middle(pixels), pixels[3:67, 172:428])

    def test_random_weights_give_both_classes(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # as the cases do
            network = UNet(NARROW.width, NARROW.depth)
            window = torch.randn(1, 3, 64, 64)
        load("cases").balance(network.head.classifier, network, window)
        with torch.no_grad():
            vessel = network(window).argmax(dim=1)
        assert 0.4 < vessel.float().mean() < 0.6

    @pytest.mark.filterwarnings("ignore")  # from mmsegmentation
    def test_the_embedded_model_has_its_own_weights(self, tmp_path):
        case = load("cases").Case(load("cases").PLANS["embedded-drive"], tmp_path)
        assert case.load("float32").sha256 == EMBEDDED.sources[0].sha256

    def test_plans_use_known_models_and_note_their_windows(self):
        plans = load("cases").PLANS
        for plan in plans.values():
            assert plan.spec in (EMBEDDED, *REGISTRY.values())
        part, spec = plans["hrf"], plans["hrf"].spec
        assert len(windows(*part.size, spec.crop, spec.stride)) == 36
        assert len(windows(*spec.fit_size, spec.crop, spec.stride)) == 294
        assert "36" in part.note
        assert "294" in part.note

    def test_a_photograph_fills_its_frame(self):
        cases = load("cases")
        assert cases.photograph((40, 60)).shape == (40, 60, 3)
        assert np.array_equal(cases.noise((4, 6)), cases.noise((4, 6)))


class TestSteps:
    def test_a_step_does_not_count_what_runs_inside_it(self, monkeypatch):
        steps = load("steps")
        clock = iter([0.0, 1.0, 4.0, 10.0])  # outer begins, inner begins and ends, outer ends
        monkeypatch.setattr(steps.time, "perf_counter", lambda: next(clock))
        watch = steps.Stopwatch()
        with watch.step("outer"):
            watch.timed("inner", lambda: None)()
        assert watch.seconds == {"outer": 7.0, "inner": 3.0}

    @pytest.mark.slow
    def test_every_step_takes_some_of_the_time(self, monkeypatch):
        steps = load("steps")
        monkeypatch.setattr(steps, "native_precisions", lambda _: ["float32", "float16"])
        rows = steps.measure(repeats=1, models=("embedded-drive",))
        assert [row["step"] for row in rows] == [*steps.STEPS, steps.REST, "all"]
        assert {row["precision"] for row in rows} == {"float32"}
        assert all(row["ms"] > 0 for row in rows)
        assert sum(row["share"] for row in rows[:-1]) == pytest.approx(1)

    @pytest.mark.parametrize("packed", [True, False])
    def test_the_layers_do_all_operations(self, packed, monkeypatch):
        if not packed:
            monkeypatch.setattr(onednn, "available", lambda: False)
        steps, plan = load("steps"), load("cases").Plan(EMBEDDED.name, (64, 64))
        spec = dataclasses.replace(EMBEDDED, crop=64, stride=64)
        monkeypatch.setattr(type(plan), "spec", spec)
        monkeypatch.setattr(steps.TorchBackend, "batch_size", lambda *_: 1)
        rows = steps.measure_layers(plan, "float32", 1, gflops=100, gigabytes=10)
        flop = sum(row["gflops"] * row["ms"] * 1e6 for row in rows)
        assert flop == pytest.approx(load("flops").window_flop(spec, 64, 64)[1])
        assert all(row["least"] > 0 for row in rows)


class TestCommand:
    def test_wrong_arguments_are_rejected(self, capsys):
        run = load("run")
        for wrong in (["--parts", "sped"], ["--repeats", "0"], ["--candidates", "x"]):
            with pytest.raises(SystemExit):
                run.parse(wrong)
        assert "'0' is not a positive integer" in capsys.readouterr().err

    def test_a_gpu_has_fewer_parts_and_the_whole_image_of_hrf(self, capsys):
        run = load("run")
        options = run.parse(["--device", "cuda"])
        assert options.parts == ["limit", "speed"]
        assert "hrf-whole" in options.models
        assert run.parse([]).parts == [*run.PARTS]
        assert "hrf-whole" not in run.parse([]).models
        with pytest.raises(SystemExit):
            run.parse(["--device", "cuda", "--parts", "limit", "memory"])
        assert "measured on the CPU only: memory" in capsys.readouterr().err

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


@pytest.mark.slow
@pytest.mark.usefixtures("small_window")
def test_throughput_and_scaling_are_measured(monkeypatch):
    throughput = load("throughput")
    monkeypatch.setattr(throughput, "EMBEDDED", registry.EMBEDDED)
    rows = throughput.measure(repeats=1, count=2)
    assert {row["way"] for row in rows} == {
        "one by one", "segment_many", "batch, masks written",
    }  # fmt: skip
    assert all(row["rate"] > 0 for row in rows)
    small, large = throughput.scaling(repeats=1, sides=(64, 128))
    assert (small["windows"], large["windows"]) == (1, 4)


@pytest.mark.slow
def test_memory_of_one_photograph_and_of_many_is_measured():
    memory = load("memory")
    (row,) = memory.measure([("embedded", (200, 200), "native", None)])
    assert 0 < row["peak"] < 1000
    early, late = memory.measure_growth(2)
    assert early["images"] == late["images"] == 2
    assert late["growth"] == late["resident"] - early["resident"]
