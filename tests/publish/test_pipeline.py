"""The pipeline survives kills, full disks and bad notebooks: small notebooks in real kernels, then the real ones."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import psutil
import pytest

from helpers.engine.errors import UserError
from helpers.engine.files import ROOT, home, results_folder, write_whole
from helpers.engine.sealed import read_json, write_json
from helpers.publish.pipeline import check_parameters, numbered, parse_parameters, publish, remaining, span
from helpers.publish.plan import PROMISED
from helpers.publish.supervise import only_run
from helpers.settings import Settings

from ..conftest import assert_one_line_error
from ..programs import Program, run_module

NAMES = ("01_first", "02_second", "03_third")
# The pipeline as it is, on three notebooks of the test's own.
DRIVER = """
import sys
from pathlib import Path
from helpers.engine.errors import program
from helpers.publish import pipeline, plan
plan.PROMISED.clear()
plan.PROMISED.update({name: (f"{name}.txt",) for name in ("01_first", "02_second", "03_third")})
plan.NOTEBOOKS = Path(sys.argv[1])
pipeline.publish = lambda *_: None
sys.argv[1:2] = ["--dataset", "photos"]
program(pipeline.report)
"""
BODY = """
import time
from pathlib import Path
folder = Path(out)
with open(Path(r"{place}") / "log.txt", "a") as log:
    log.write("{name}\\n")
while (Path(r"{place}") / "hold_{name}").exists():
    time.sleep(0.05)
(folder / "{name}.txt").write_text("{name} of " + time.ctime(), encoding="utf-8")
"""


class Place:
    """Three notebooks, an output folder and a log of which notebook ran."""

    def __init__(self, folder: Path, out: Path | None = None) -> None:
        self.folder, self.out = folder, out or folder / "outs"
        self.processes: list[Program] = []
        for name in NAMES:
            self.write(name, self.body(name))

    def body(self, name: str) -> str:
        return BODY.format(name=name, place=self.folder)

    def write(self, name: str, body: str) -> None:
        literals = 'profile = "full"\ndataset = "auto"\nout = ""\n'
        cell = nbformat.v4.new_code_cell(literals, metadata={"tags": ["parameters"]})
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        notebook = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell(body)], metadata=metadata)
        nbformat.write(notebook, self.folder / f"{name}.ipynb")

    def release(self, name: str) -> None:
        (self.folder / f"hold_{name}").unlink()

    def start(self) -> Program:
        self.processes.append(Program("-c", DRIVER, str(self.folder), "--out", str(self.out)))
        return self.processes[-1]

    def run(self) -> subprocess.CompletedProcess[str]:
        return self.start().completed()

    def ran(self) -> list[str]:
        path = self.folder / "log.txt"
        return path.read_text(encoding="utf-8").split() if path.is_file() else []

    def started(self, name: str) -> tuple[Program, list[psutil.Process]]:
        """A pipeline whose notebook `name` is at work until it is released, and the processes below it."""
        (self.folder / f"hold_{name}").touch()
        process = self.start()
        wait_for(lambda: name in self.ran() or process.poll() is not None, f"{name} starts")
        assert process.poll() is None, process.communicate()
        return process, psutil.Process(process.pid).children(recursive=True)

    def killed(self, name: str) -> None:
        """A run that is killed inside the notebook `name`."""
        process, below = self.started(name)
        process.kill()
        process.wait()
        wait_for(lambda: gone(below), "the end of the kernels", 30)
        self.release(name)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for process in place.processes:  # of a test that failed in the middle
        process.kill()


def wait_for(condition: Callable[[], object], what: str, seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.05)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


# --- interruptions ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped_and_a_complete_one_begins_anew(place: Place) -> None:
    place.killed("02_second")
    (place.out / ".metrics.json.999999999.tmp").write_text("what a killed writer left behind", encoding="utf-8")
    assert (place.out / ".unfinished.json").is_file() and not (place.out / "run.json").exists()
    first = (place.out / "01_first.txt").read_text(encoding="utf-8")
    done = place.run()
    assert done.returncode == 0, done.stderr
    assert "01_first: finished before the interruption" in done.stdout
    assert place.ran() == ["01_first", "02_second", "02_second", "03_third"]
    assert (place.out / "01_first.txt").read_text(encoding="utf-8") == first
    record = read_json(place.out / "run.json")
    assert set(record["seconds"]) == set(record["peak_mib"]) == set(NAMES)
    left = {path.name for path in place.out.iterdir()}
    assert left - {".lock"} == {"notebooks", "run.json", *(f"{name}.txt" for name in NAMES)}
    again = place.run()
    assert again.returncode == 0 and place.ran()[4:] == list(NAMES) and "finished before" not in again.stdout
    assert re.search(r"\[1/3\] 01_first: started \d\d:\d\d, about \d+ s; all done about \d\d:\d\d", again.stdout)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_within_seconds_with_one_line(place: Place, number: signal.Signals) -> None:
    process, below = place.started("02_second")
    before = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - before < 30
    wait_for(lambda: gone(below), "the end of the kernels", 30)
    assert process.returncode == 128 + number
    last = errors.strip().splitlines()[-1]
    assert last == f"stopped by {number.name}; the same command goes on where this one stopped"
    assert "Traceback" not in errors
    place.release("02_second")
    assert "01_first: finished before" in place.run().stdout


def test_what_changed_since_the_interruption_runs_again(place: Place) -> None:
    place.killed("03_third")
    (place.out / "02_second.txt").write_text("changed by hand", encoding="utf-8")
    done = place.run()
    assert done.returncode == 0, done.stderr
    assert place.ran() == [*NAMES, "02_second", "03_third"]


def test_a_changed_notebook_or_a_damaged_record_is_not_taken_for_finished(place: Place) -> None:
    place.killed("02_second")
    place.write("01_first", place.body("01_first") + "# changed\n")
    record = place.out / ".unfinished.json"
    record.write_text(record.read_text(encoding="utf-8").replace('"seconds": ', '"seconds": 1'), encoding="utf-8")
    done = place.run()
    assert done.returncode == 0, done.stderr
    assert place.ran()[2:] == list(NAMES) and "its sha256 does not match" in done.stdout


def test_the_second_of_two_runs_on_one_folder_is_refused_in_one_line(place: Place) -> None:
    process, _ = place.started("01_first")
    assert_one_line_error(place.run(), "another run is writing to", "--out")
    place.release("01_first")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert place.ran() == list(NAMES)


# --- notebooks that fail ----------------------------------------------------------------------------------------


def test_a_failed_notebook_names_its_cell_the_reason_and_the_file(place: Place) -> None:
    place.write("02_second", "numbers = [1, 2]\nnumbers[7]")
    done = place.run()
    assert_one_line_error(done, "02_second failed in cell 3 (numbers = [1, 2]): IndexError", "02_second.failed.ipynb")
    place.write("02_second", place.body("02_second"))
    assert place.run().returncode == 0 and place.ran() == list(NAMES)  # 01 was not run a second time


def test_a_killed_kernel_is_one_line(place: Place) -> None:
    place.write("01_first", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert_one_line_error(place.run(), "01_first failed", "its kernel died", "memory")


def test_a_notebook_that_breaks_its_promise_fails(place: Place) -> None:
    place.write("01_first", "pass")
    assert_one_line_error(place.run(), "01_first failed", "did not write 01_first.txt")


def test_a_damaged_notebook_is_named(place: Place) -> None:
    (place.folder / "02_second.ipynb").write_text('{"cells": [', encoding="utf-8")
    assert_one_line_error(place.run(), "02_second.ipynb is not a notebook")
    assert place.ran() == []


def test_a_single_notebook_in_a_new_folder_ends_without_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data.json").write_text("{}", encoding="utf-8")
    publish("photos", tmp_path)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"no report: {tmp_path} has not the results of 01_data_exploration, 02_autoencoder, ")


# --- disks ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small file system in memory."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, encoding="utf-8"
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small disk here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a small disk")
def test_a_full_disk_is_one_line_and_the_last_good_file_stays(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        write_whole(disk / "file", "the last good one")
        with pytest.raises(UserError, match="No space left on device; free some space"):
            write_whole(disk / "file", bytes(2**21))
        assert (disk / "file").read_text(encoding="utf-8") == "the last good one" and len(list(disk.iterdir())) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs a small disk")
def test_a_kernel_that_meets_a_full_disk_ends_the_run_with_one_line(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        place = Place(tmp_path, disk)
        good = disk / "02_second.txt"
        good.write_text("the last good one", encoding="utf-8")
        place.write("02_second", "from pathlib import Path\nfrom helpers.engine.files import write_whole\n"
                                 "write_whole(Path(out) / '02_second.txt', bytes(2**21))")  # fmt: skip
        assert_one_line_error(place.run(), "No space left on device", "free some space")
        assert good.read_text(encoding="utf-8") == "the last good one" and not list(disk.glob("**/*.tmp"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs a disk of its own")
def test_a_read_only_folder_is_refused_before_any_kernel(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=1m,ro") as disk:
        place = Place(tmp_path, disk)
        assert_one_line_error(place.run(), f"cannot write {disk}", "Read-only file system", "choose a folder")
        assert place.ran() == []


# --- what may be asked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", [".", "..", "notebooks", "report/exercise_03", "outs/../helpers", "/", "a\0b"])
def test_results_never_go_among_the_sources(out: str) -> None:
    with pytest.raises(UserError, match="results cannot go|cannot be the name"):
        results_folder(ROOT / out)


def test_a_parameter_cannot_move_the_results_past_the_lock() -> None:
    for name in ("out", "profile", "dataset"):
        with pytest.raises(UserError, match=f"--{name}"):
            parse_parameters([f"{name}=elsewhere"])


def test_unknown_parameters_and_wrong_types_stop_before_any_kernel() -> None:
    known = {"epochs": 0, "lr": 1.0}
    check_parameters(parse_parameters(["epochs=3", "lr=2"]), known)
    with pytest.raises(UserError, match="Did you mean 'epochs'"):
        check_parameters({"epoch": 3}, known)
    with pytest.raises(UserError, match="is str"):
        check_parameters({"epochs": "two"}, known)


def test_notebooks_are_chosen_by_numbers_of_one_or_two_digits() -> None:
    assert numbered(["4", "01"]) == ["01_data_exploration", "04_evaluation"] and len(numbered([])) == 7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-p", "epoch=3"), ("unknown parameter", "epochs")), (("-p", "epochs=two"), ("'two' is str",)),
        (("--only", "99"), ("01, 02", "07")), (("--only", "01", "--only", "99"), ("--only 99: there are only 01",)),
        (("--profile", "smoke"), ("--out",)), (("-p", "epochs"), ("name=value",)),
        (("--dataset", "cifar"), ("cifar10",)), (("-p", "seed=-1"), ("seed=-1",)),
        (("-p", f"seed={2**62}"), ("2147483647",)), (("-p", "epochs=-3"), ("epochs=-3",)),
    ],
)  # fmt: skip
def test_bad_command_lines_are_one_line_each(
    arguments: tuple[str, ...], words: tuple[str, ...], tmp_path: Path
) -> None:
    # Not in this process, all of whose children it would end.
    done = run_module("helpers", "report", *arguments, *(("--out", tmp_path / "new") if "--out" not in words else ()))
    assert_one_line_error(done, *words)
    assert not (tmp_path / "new").exists()
    assert len(done.stderr.splitlines()) == 1


# --- memory and time --------------------------------------------------------------------------------------------


def test_a_run_stays_under_four_gibibytes_and_says_so(smoke: Path) -> None:
    peaks = read_json(smoke / "run.json")["peak_mib"]
    assert len(peaks) == 7 and all(200 < mib < 4096 for mib in peaks.values()), peaks


def test_the_committed_run_stayed_under_its_bound_of_memory() -> None:
    record = read_json(home("cifar10") / "run.json")
    assert not record["fresh"] and len(record["peak_mib"]) == 7 and max(record["peak_mib"].values()) < 3072, record


def test_the_second_training_had_the_settings_of_the_first() -> None:
    records = [read_json(folder / "vae_history.json") for folder in (home("cifar10"), home("cifar10") / "again")]
    first, second = (Settings.from_dict(record["settings"]) for record in records)
    assert not first.difference(second)
    assert records[0]["run"]["weights_sha256"] != records[1]["run"]["weights_sha256"]  # a training, not a copy


def test_times_read_as_somebody_would_say_them(tmp_path: Path) -> None:
    assert [span(s) for s in (4.4, 100, 3600 * 2 + 300)] == ["4 s", "2 min", "2 h 05 min"]
    given, record = {"profile": "full"}, read_json(home("cifar10") / "run.json")
    assert remaining(["a"], tmp_path, given) == ""
    write_json(tmp_path / "run.json", record | {"seconds": {"a": 60.0}})
    assert remaining(["a"], tmp_path, given).startswith(", about 60 s; all done about ")
    assert not remaining(["b"], tmp_path, given) and not remaining(["a"], tmp_path, given | {"fresh": True})
    (tmp_path / "run.json").write_text(json.dumps({"seconds": "many"}), encoding="utf-8")
    assert remaining(["a"], tmp_path, given) == ""  # a damaged record costs an estimate, not the run


# --- the real notebooks -----------------------------------------------------------------------------------------


def test_the_smoke_run_leaves_everything_it_promises(smoke: Path) -> None:
    for name, promised in PROMISED.items():
        assert (smoke / "notebooks" / f"{name}.ipynb").is_file()
        assert all((smoke / file).stat().st_size > 0 for file in promised)
    record = json.loads((smoke / "run.json").read_text(encoding="utf-8"))
    assert set(record["seconds"]) == set(PROMISED) and record["profile"] == "smoke"
    assert not list(smoke.glob("**/*.tmp")) and not list(smoke.glob("notebooks/*.partial.ipynb"))


def test_a_failed_notebook_is_kept_beside_the_last_good_one(tmp_path: Path) -> None:
    good = tmp_path / "notebooks" / "07_latent_explorer.ipynb"
    good.parent.mkdir()
    good.write_text("the last good one", encoding="utf-8")
    done = run_module("helpers", "report", "--only", "07", "--dataset", "photos", "--out", str(tmp_path))
    assert_one_line_error(done, "07_latent_explorer failed", "vae.safetensors does not exist")
    assert good.read_text(encoding="utf-8") == "the last good one" and good.with_suffix(".failed.ipynb").is_file()


def test_stock_papermill_runs_a_notebook(tmp_path: Path) -> None:
    target = tmp_path / "out.ipynb"
    arguments = ["notebooks/07_latent_explorer.ipynb", str(target), "--prepare-only", "-p", "n_directions", "4"]
    done = run_module("papermill", *arguments)
    assert done.returncode == 0, done.stderr
    assert "n_directions = 4" in target.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_real_run_is_stopped_inside_a_training_and_goes_on(tmp_path: Path) -> None:
    arguments = ["report", "--profile", "smoke", "--dataset", "photos", "--out", str(tmp_path / "outs")]
    checkpoint = tmp_path / "outs" / "autoencoder.checkpoint.safetensors"
    process = Program("-m", "helpers", *arguments)
    wait_for(lambda: checkpoint.exists() or process.poll() is not None, "training")
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()  # inside notebook 2, which trains
    wait_for(lambda: gone(below), "the end of the kernel", 30)
    assert (tmp_path / "outs" / "data.json").is_file()
    process = Program("-m", "helpers", *arguments)
    wait_for(lambda: "03_vae_training: started" in process.said()[0] or process.poll() is not None, "notebook 3")
    process.send_signal(signal.SIGTERM)
    text, errors = process.communicate(60)
    assert "[1/7] 01_data_exploration: finished before the interruption" in text
    assert "[2/7] 02_autoencoder: started" in text
    assert process.returncode == 128 + signal.SIGTERM and "the same command goes on" in errors
    assert read_json(tmp_path / "outs" / "autoencoder_history.json")["records"][-1]["epoch"] == 2
    with only_run(tmp_path / "outs"):
        pass  # the lock is free again
