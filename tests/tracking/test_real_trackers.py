"""The libraries themselves, where they are installed: each in a process that stops, goes on, and asks no network."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.tracking.test_feed import Rows, expected, lines, put

import run_folders
from prefloop.tracking.trackers import PACKAGES

SEND = """
import socket, sys
from pathlib import Path
real = socket.socket.connect
def connect(self, address):
    if self.family != socket.AF_UNIX and not str(address[0]).startswith(("127.", "::1")):
        sys.exit(f"the network was asked: {address}")
    return real(self, address)
socket.socket.connect = connect
from prefloop.tracking.live import tracked
from prefloop.tracking.record import described
told = []
with tracked(described(Path(sys.argv[1])), [sys.argv[2]], lambda to, text: told.append(text)) as news:
    news()
sys.exit("; ".join(told) or 0)
"""
TRACKIO = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
own = ("step", "timestamp")
rows = SQLiteStorage.get_logs("prefloop", sys.argv[1], run_id=sys.argv[1])
print(json.dumps([[row["step"], {k: x for k, x in row.items() if k not in own}] for row in rows]))
"""
MLFLOW = """
import json, sys
from mlflow.tracking import MlflowClient
client = MlflowClient(sys.argv[1])
(run,) = client.search_runs([client.get_experiment_by_name("prefloop").experiment_id])
assert run.info.status == "FINISHED" and run.data.params["method"] == "dpo"
points = [[one.step, key, one.value] for key in run.data.metrics
          for one in client.get_metric_history(run.info.run_id, key)]
print(json.dumps(points))
"""
WANDB = """
import json, sys
from wandb.proto.wandb_internal_pb2 import Record
history = [Record.FromString(bytes.fromhex(line)).history for line in sys.stdin]
print(json.dumps([{"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in one.item} for one in history]))
"""


def python(tmp: Path, code: str, *words: str, data: bytes | None = None) -> str:
    """What a process prints; it has a home of its own, and nothing of the user's is set."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "MLFLOW_", "TRACKIO_"))}
    env = {**kept, "HOME": str(tmp), "TRACKIO_DIR": str(tmp / "trackio"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code, *words], input=data, capture_output=True, env=env, cwd=tmp,
                          timeout=120, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def of_trackio(tmp: Path, folder: Path) -> Rows:
    return [(step, values) for step, values in json.loads(python(tmp, TRACKIO, folder.name))]


def points(rows: Rows) -> list[tuple[int, str, float]]:
    return sorted((step, key, value) for step, values in rows for key, value in values.items())


def records(file: Path) -> list[bytes]:
    """The records of W&B's file: a header of 7 bytes, then blocks of 32 KiB, in each records with a header of 7."""
    data, out, at, part = file.read_bytes(), list[bytes](), 7, b""
    while at + 7 <= len(data):
        if (room := -at % 2**15) < 7 and room:
            at += room
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        part += data[at + 7 : at + 7 + size]
        if kind in (1, 4):  # whole, or its last part
            out.append(part)
            part = b""
        at += 7 + size
    return out


def of_wandb(tmp: Path, folder: Path) -> Rows:
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    raw = "\n".join(record.hex() for file in files for record in records(file))
    rows = [row for row in json.loads(python(tmp, WANDB, data=raw.encode())) if "step" in row]
    return [(int(row["step"]), {k: x for k, x in row.items() if k != "step" and not k.startswith("_")}) for row in rows]


@pytest.mark.parametrize("to", ["trackio", "wandb", "mlflow", "tensorboard"])
def test_a_run_that_stops_and_goes_on_is_there_whole(tmp_path: Path, to: str) -> None:
    if find_spec(PACKAGES[to]) is None:
        pytest.skip(f"pip install 'prefloop[{to}]'")
    folder = run_folders.make(tmp_path / "runs", "2026-01-05-dpo-abc123", steps=6, every=2)
    whole = lines(folder)
    for some, torn in ((whole[:5], whole[5][:9]), (whole[:3], b""), (whole, b"")):
        put(folder, some, torn)
        python(tmp_path, SEND, str(folder), to)
    wanted: Any = expected(whole)
    if to == "trackio":
        assert of_trackio(tmp_path, folder) == wanted
    elif to == "wandb":
        assert of_wandb(tmp_path, folder) == wanted
    elif to == "mlflow":
        got = json.loads(python(tmp_path, MLFLOW, f"sqlite:///{folder.parent / 'mlflow.db'}"))
        assert sorted(map(tuple, got)) == points(wanted)
    else:
        from tests.tracking.test_tensorboard import stored
        from tests.tracking.test_tensorboard import wanted as rounded

        assert stored(folder) == rounded(folder)
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == sorted(
        ["runs", *(["trackio"] if to == "trackio" else [])]
    )
