"""Several processes: who leads, what each takes, and that together they are as one with the whole batch."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cellkit.core import UsageError
from cellkit.models.store import find_model, load_network
from cells_to_learn import config_of, draw, text_of

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from cellkit.train.config import LoopRules  # noqa: E402
from cellkit.train.crops import EpochSampler  # noqa: E402
from cellkit.train.loop import train  # noqa: E402
from cellkit.train.ranks import Ranks, average, choose_ranks, everywhere, shared  # noqa: E402

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
PLAIN = {
    "model": {"architecture": "unet", "head": "sigmoid", "classes": ["cell"], "parameters": {"width": 4, "depth": 2}},
    "loss": "bce", "optimiser": {"name": "sgd", "rate": 0.005},
}  # fmt: skip
"""A network without batch normalisation, a loss that is a mean over crops, and steps too small to blow up rounding."""

several = pytest.mark.skipif(
    os.environ.get("CELLKIT_PROCESSES") != "all", reason="takes a minute; set CELLKIT_PROCESSES=all"
)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(run: Path) -> dict:
    return load_network(find_model(str(run / "model.safetensors"))).state_dict()


def apart(one: dict, two: dict) -> float:
    """Return the largest difference of two networks' weights."""
    assert one.keys() == two.keys()
    return max(float((one[name].double() - two[name].double()).abs().max()) for name in one)


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_devices_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_ranks(LoopRules(devices="auto"), GPU) == Ranks(2, 1, "auto")
    assert choose_ranks(LoopRules(devices="auto"), CPU).world == 1
    assert choose_ranks(LoopRules(devices=2), CPU).world == 2
    with pytest.raises(UsageError, match="4 GPUs are asked for, this machine has 2"):
        choose_ranks(LoopRules(devices=4), GPU)
    with pytest.raises(UsageError, match="say `--device cuda`"):
        choose_ranks(LoopRules(devices=2), torch.device("cuda", 1))
    with pytest.raises(UsageError, match=r"loop\.batch: 9 crops .* 2 processes; e\.g\. 8"):
        choose_ranks(LoopRules(devices=2, batch=9), GPU)
    with pytest.raises(UsageError, match="NODE_RANK"):
        choose_ranks(LoopRules(nodes=2), GPU)
    monkeypatch.setenv("NODE_RANK", "1")
    assert choose_ranks(LoopRules(nodes=2, devices=2), GPU).world == 4


@pytest.mark.parametrize(
    ("given", "leads"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}, True),
        ({"RANK": "2", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, False),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_the_first_process_leads(monkeypatch, given, leads):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert Ranks(2, 2).leads is leads
    assert Ranks(1, 1).leads  # by itself, whatever started it


def test_alone_there_is_no_one_to_agree_with():
    assert shared("mine") == "mine"
    assert [bool(everywhere(torch.tensor(fine))) for fine in (True, False)] == [True, False]
    assert average({"loss": 0.25}, CPU) == {"loss": 0.25}


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_out_each_batch(world):
    batch, steps = 8, 5
    samplers = [EpochSampler(batch * steps, epoch=3, rank=rank, world=world) for rank in range(world)]
    drawn = [list(sampler) for sampler in samplers]
    own = batch // world
    for step in range(steps):
        together = [key for mine in drawn for key in mine[step * own : (step + 1) * own]]
        assert sorted(together) == [(3, index) for index in range(step * batch, (step + 1) * batch)]


def test_two_batches_a_step_are_one_of_twice_the_size(tmp_path):
    cells = draw(tmp_path / "cells")
    loop = {"epochs": 2, "ema": 0.9, "validate": 2}
    train(config_of(cells, "sigmoid", {**loop, "steps": 5, "batch": 8}, **PLAIN), tmp_path / "whole", device="cpu")
    halves = config_of(cells, "sigmoid", {**loop, "steps": 10, "batch": 4, "accumulate": 2}, **PLAIN)
    train(halves, tmp_path / "halves", device="cpu")
    unlike = config_of(cells, "sigmoid", {**loop, "steps": 5, "batch": 4}, **PLAIN)
    train(unlike, tmp_path / "unlike", device="cpu")
    whole, parts, other = (weights(tmp_path / name) for name in ("whole", "halves", "unlike"))
    assert apart(whole, parts) < 5e-6
    assert apart(whole, other) > 1e-4
    assert [row["step"] for row in rows_of(tmp_path / "halves")] == ["5", "10"]


SCRIPT = """
import os, sys
import torch
from cellkit.train.config import read_config
from cellkit.train.dense import DenseTask
from cellkit.train.loop import train

def keep(self):
    rank = torch.distributed.get_rank()
    ema = {f"ema {name}": value for name, value in self.ema.mean.items()}
    torch.save({**self.network.state_dict(), **ema, "best": torch.tensor(self.best)}, f"{sys.argv[2]}-{rank}.pt")

DenseTask.on_train_end = keep
if __name__ == "__main__":
    report = train(read_config(sys.argv[1]), sys.argv[2], device="cpu")
    print("leads" if report.leads else "follows", report.epochs, flush=True)
"""


def started(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=400, check=False)


def cellkit(*arguments: object) -> subprocess.CompletedProcess[str]:
    return started("-m", "cellkit_cli.main", *map(str, arguments))


@several
@pytest.mark.parametrize("network", ["plain", "batch-normalised"])
def test_two_processes_train_one_network(tmp_path, network):
    cells = draw(tmp_path / "cells")
    loop = {"epochs": 3, "steps": 5, "batch": 8, "validate": 1, "devices": 2}
    changes = PLAIN if network == "plain" else {}
    (cells / "config.yaml").write_text(text_of(cells, "sigmoid", loop, **changes))
    (tmp_path / "script.py").write_text(SCRIPT)
    done = started(str(tmp_path / "script.py"), str(cells / "config.yaml"), str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")) == ["", "follows 3", "leads 3"]
    first, second = (torch.load(tmp_path / f"two-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    alone = config_of(cells, "sigmoid", {**loop, "devices": 1}, **changes)
    train(alone, tmp_path / "one", device="cpu")
    one, two = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    assert [row["step"] for row in one] == [row["step"] for row in two] == ["5", "10", "15"]
    if network == "plain":
        assert apart(weights(tmp_path / "one"), weights(tmp_path / "two")) < 1e-5
        assert [float(row["loss"]) for row in one] == pytest.approx([float(row["loss"]) for row in two], abs=1e-5)
        assert [float(row["score"]) for row in one] == pytest.approx([float(row["score"]) for row in two], abs=1e-3)
    else:
        assert float(two[-1]["loss"]) < 0.5 * float(two[0]["loss"])
    files = {entry.name for entry in (tmp_path / "two").iterdir()}
    page = {"report.html", "curves.png", "run.json", "examples.npz", "audit.json"}
    assert files == {"model.safetensors", "config.yaml", "log.csv", "last.ckpt", "best.ckpt", *page}


@several
def test_two_processes_stop_in_time_and_go_on(tmp_path):
    cells = draw(tmp_path / "cells")
    loop = {"epochs": 100_000, "steps": 4, "batch": 8, "validate": 10_000}
    path, run = cells / "config.yaml", tmp_path / "run"
    path.write_text(text_of(cells, "sigmoid", loop, **PLAIN))
    command = ("train", path, "-o", run, "--device", "cpu", "--devices", 2)
    stopped = cellkit(*command, "--time-limit", "30s")
    assert stopped.returncode == 0, stopped.stderr
    epochs = len(rows_of(run))
    assert stopped.stdout == f"stopped by the time limit after epoch {epochs:,}; --resume goes on\n"
    path.write_text(text_of(cells, "sigmoid", {**loop, "epochs": epochs + 2}, **PLAIN))
    again = cellkit(*command, "--resume", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["epochs"] == epochs + 2  # printed once
    assert [row["step"] for row in rows_of(run)] == [str(4 * (n + 1)) for n in range(epochs + 2)]


@several
def test_two_processes_train_folds(tmp_path):
    cells = draw(tmp_path / "cells")
    loop = {"epochs": 2, "steps": 3, "batch": 8, "validate": 1}
    path = cells / "config.yaml"
    path.write_text(text_of(cells, "sigmoid", loop, **PLAIN))
    for number in (1, 2):
        where = ("-o", tmp_path / f"{number}", "--device", "cpu", "--devices", number)
        done = cellkit("train", path, *where, "--folds", 2)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("all models together") == 1
    found = [json.loads((tmp_path / f"{number}" / "folds.json").read_text()) for number in (1, 2)]
    assert [one["finished"] for one in found] == [True, True]
    for fold in ("fold-1", "fold-2"):
        assert apart(weights(tmp_path / "1" / fold), weights(tmp_path / "2" / fold)) < 1e-5


@several
def test_a_loss_that_is_no_number_in_one_process_stops_both(tmp_path):
    cells = draw(tmp_path / "cells")
    path, plugin, run = cells / "config.yaml", tmp_path / "poison.py", tmp_path / "run"
    path.write_text(text_of(cells, "sigmoid", {"epochs": 2, "steps": 3, "batch": 8, "validate": 1}, **PLAIN))
    plugin.write_text(
        "import os\n"
        "import cellkit\n"
        "from cellkit.core import Image\n"
        "from cellkit.train.dense import DenseTask\n"
        "honest = DenseTask.training_step\n"
        "def poisoned(self, batch, index):\n"
        "    if os.environ.get('LOCAL_RANK') == '1' and self.current_epoch == 1:\n"
        "        batch['image'][0] = float('nan')\n"
        "    return honest(self, batch, index)\n"
        "DenseTask.training_step = poisoned\n"
        "@cellkit.stage(reach=0)\n"
        "def poison(image: Image, /) -> Image:\n"
        "    return image\n"
    )
    done = cellkit("train", path, "-o", run, "--device", "cpu", "--devices", 2, "--with", plugin)
    assert done.returncode == 1, done.stderr
    assert "cellkit: the loss of another process is not finite in epoch 2" in done.stderr
    assert "Traceback" not in done.stderr
    assert (run / "diverged.npz").exists()
    assert len(rows_of(run)) == 1
