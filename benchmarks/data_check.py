"""Time and memory of `prefloop data check` on 200,000 pairs of 1 kB, beside parsing the same lines alone.

python benchmarks/data_check.py [--rows 200000] [--model smollm2]

With a model the rows are also rendered and tokenised: first from nothing, then with the token ids that the first kept.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--model")
    options = parser.parse_args()
    rows = options.rows
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.jsonl"
        words = "the sea is wide and blue and so is the sky " * 10
        with file.open("w", encoding="utf-8") as out:
            for i in range(rows):
                row = {
                    "prompt": f"Question {i}: {words[:300]}",
                    "chosen": f"{words[:330]} {i}",
                    "rejected": words[:320],
                }
                out.write(json.dumps(row) + "\n")
        start = time.perf_counter()
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                json.loads(line)
        parsing = time.perf_counter() - start
        print(f"{rows:,} rows of {file.stat().st_size / rows:.0f} bytes; parsing the lines alone takes {parsing:.1f} s")
        check = [sys.executable, "-m", "prefloop", "data", "check", str(file), "--json"]
        timed("check", check, folder)
        if options.model:
            rendered = [*check, "--model", options.model]
            timed("check and tokenise", rendered, folder)
            timed("again", rendered, folder)
            print(f"token ids on disk: {(Path(folder) / 'tokens.sqlite').stat().st_size / 1e6:.0f} MB")


def timed(name: str, command: list[str], folder: str) -> None:
    """Print wall time, CPU time and memory of a command; memory is the most of any so far."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PREFLOOP_TOKENS": folder})
    wall, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    print(f"{name}: {wall:.1f} s, {busy:.1f} s of CPU, up to {used.ru_maxrss / 1e3:.0f} MB")


if __name__ == "__main__":
    main()
