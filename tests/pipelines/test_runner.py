from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hybrid import Case, Cohort, InputError
from hybrid.pipelines import Task, run_cases, run_tasks
from hybrid.provenance import digest


def square(payload: int, seed: int) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [{"value": payload**2, "noise": float(rng.normal())}]


def note_and_square(payload: tuple[int, str], seed: int) -> list[dict]:
    number, log = payload
    with Path(log).open("a") as stream:
        stream.write(f"{number}\n")
    return square(number, seed)


def fail_on_three(payload: int, seed: int) -> list[dict]:
    if payload == 3:
        raise InputError("Three is bad.", advice="Use four.")
    return square(payload, seed)


def die_on_three(payload: int, seed: int) -> list[dict]:
    if payload == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return square(payload, seed)


def tasks(n: int = 6) -> list[Task]:
    return [Task(f"t{i}", digest(i), i) for i in range(n)]


def test_one_process_two_processes_and_threads_give_the_same_rows():
    results = [
        run_tasks(square, tasks(), stage="s", n_jobs=n, backend=backend, progress=False).rows
        for n, backend in ((1, "loky"), (2, "loky"), (2, "threading"))
    ]
    assert results[0] == results[1] == results[2]
    assert list(results[1]) == [f"t{i}" for i in range(6)]


def test_finished_tasks_are_not_run_again(tmp_path):
    log = tmp_path / "log"
    work = [Task(f"t{i}", digest(i), (i, str(log))) for i in range(3)]
    first = run_tasks(note_and_square, work[:2], stage="s", out=tmp_path, progress=False)
    second = run_tasks(note_and_square, work, stage="s", out=tmp_path, progress=False)
    assert log.read_text(encoding="utf-8").split() == ["0", "1", "2"]
    assert {key: second.rows[key] for key in first.rows} == first.rows


def test_another_key_computes_again(tmp_path):
    run_tasks(square, [Task("a", digest("old"), 2)], stage="s", out=tmp_path, progress=False)
    result = run_tasks(square, [Task("a", digest("new"), 3)], stage="s", out=tmp_path, progress=False)
    assert result.rows["a"][0]["value"] == 9


def test_failed_case_costs_only_itself_and_is_retried(tmp_path):
    result = run_tasks(fail_on_three, tasks(), stage="s", out=tmp_path, progress=False)
    assert list(result.rows) == ["t0", "t1", "t2", "t4", "t5"]
    table = pd.read_csv(tmp_path / "failures.csv")
    assert table.to_dict("records") == [
        {"case_id": "t3", "stage": "s", "error": "InputError", "message": "Three is bad.", "advice": "Use four."}
    ]
    assert not (tmp_path / "cache" / "s" / "t3.json").exists()
    again = run_tasks(square, tasks(), stage="s", out=tmp_path, progress=False)
    assert len(again.rows) == 6
    assert not (tmp_path / "failures.csv").exists()


def test_worker_that_is_killed_costs_only_its_own_case(tmp_path):
    result = run_tasks(die_on_three, tasks(), stage="s", out=tmp_path, n_jobs=2, progress=False)
    assert list(result.rows) == ["t0", "t1", "t2", "t4", "t5"]
    assert result.failures.iloc[0][["case_id", "error"]].tolist() == ["t3", "WorkerDied"]


def test_damaged_cache_file_is_computed_again(tmp_path):
    first = run_tasks(square, tasks(1), stage="s", out=tmp_path, progress=False)
    (tmp_path / "cache" / "s" / "t0.json").write_text('{"key": "abc", "ro')
    assert run_tasks(square, tasks(1), stage="s", out=tmp_path, progress=False).rows == first.rows


def test_cached_floats_keep_every_bit(tmp_path):
    first = run_tasks(square, tasks(), stage="s", out=tmp_path, progress=False)
    assert run_tasks(square, tasks(), stage="s", out=tmp_path, progress=False).rows == first.rows


def test_ids_with_slashes_stay_inside_the_folder(tmp_path):
    work = [Task("../a/b", digest(1), 1), Task("..%2Fa/b", digest(2), 2)]
    run_tasks(square, work, stage="s", out=tmp_path, progress=False)
    assert len(list((tmp_path / "cache" / "s").iterdir())) == 2


def test_doubled_ids_and_unknown_backends_are_refused():
    with pytest.raises(InputError, match="one id"):
        run_tasks(square, [*tasks(2), *tasks(1)], stage="s", progress=False)
    with pytest.raises(InputError, match="'threading'"):
        run_tasks(square, tasks(1), stage="s", backend="treading", progress=False)


def touch(case: Case, seed: int, *, log: str) -> list[dict]:
    with Path(log).open("a") as stream:
        stream.write(case.case_id)
    return [{"size": case.image.stat().st_size}]


def test_changed_file_content_is_computed_again_and_a_moved_folder_is_not(tmp_path):
    log = tmp_path / "log"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.nii").write_text("one")
    function = functools.partial(touch, log=str(log))
    arguments = {"stage": "s", "settings": {}, "out": tmp_path / "out", "progress": False}
    run_cases(function, Cohort([Case("c", image=tmp_path / "a" / "x.nii")]), **arguments)
    (tmp_path / "a").rename(tmp_path / "b")
    run_cases(function, Cohort([Case("c", image=tmp_path / "b" / "x.nii")]), **arguments)
    assert log.read_text(encoding="utf-8") == "c"
    (tmp_path / "b" / "x.nii").write_text("three")
    result = run_cases(function, Cohort([Case("c", image=tmp_path / "b" / "x.nii")]), **arguments)
    assert log.read_text(encoding="utf-8") == "cc"
    assert result.rows["c"] == [{"size": 5}]


def draw(case: Case, seed: int) -> list[dict]:
    return [{"value": float(np.random.default_rng(seed).normal())}]


def test_another_code_version_computes_again_and_draws_the_same_numbers(tmp_path, monkeypatch):
    cohort = Cohort([Case("a"), Case("b")])
    arguments = {"stage": "s", "settings": {"k": 1}, "out": tmp_path, "progress": False}
    first = run_cases(draw, cohort, **arguments).rows
    stored = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "cache" / "s").iterdir()}
    monkeypatch.setattr("hybrid.pipelines.runner.code_version", lambda: "0" * 64)
    assert run_cases(draw, cohort, **arguments).rows == first
    assert all((tmp_path / "cache" / "s" / name).read_text(encoding="utf-8") != text for name, text in stored.items())
    assert first["a"] != first["b"]
    assert run_cases(draw, cohort, **{**arguments, "settings": {"k": 2}}).rows != first


def test_doubled_case_ids_are_refused_before_work_starts():
    with pytest.raises(InputError, match="case a"):
        run_cases(square, Cohort([Case("a"), Case("a")]), stage="s", settings={})


SLOW_RUN = """
    import sys, time
    from hybrid.pipelines import Task, run_tasks
    from hybrid.provenance import digest
    import numpy as np
    def slow(payload, seed):
        time.sleep(0.05)
        return [{"value": float(np.random.default_rng(seed).normal()) + payload}]
    run_tasks(slow, [Task(f"t{i}", digest(i), i) for i in range(30)], stage="s", out=sys.argv[1], progress=False)
"""


def test_killed_run_finishes_the_work_and_equals_an_undisturbed_one(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SLOW_RUN))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = subprocess.Popen([sys.executable, str(script), str(broken)])
    while len(list((broken / "cache" / "s").glob("*.json"))) < 5:
        time.sleep(0.02)
    process.kill()
    process.wait()
    done = len(list((broken / "cache" / "s").glob("*.json")))
    assert 5 <= done < 30
    subprocess.run([sys.executable, str(script), str(broken)], check=True)
    subprocess.run([sys.executable, str(script), str(whole)], check=True)
    contents = [
        {path.name: json.loads(path.read_text(encoding="utf-8")) for path in (folder / "cache" / "s").glob("*.json")}
        for folder in (whole, broken)
    ]
    assert contents[0] == contents[1]
    assert len(contents[0]) == 30
