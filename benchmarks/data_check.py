"""Time and memory of `prefloop data check` on 200,000 pairs of 1 kB, beside parsing the same lines alone.

python benchmarks/data_check.py [--rows 200000]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    rows = parser.parse_args().rows
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
        start = time.perf_counter()
        command = [sys.executable, "-m", "prefloop", "data", "check", str(file), "--json"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        size = file.stat().st_size / rows
    print(f"{rows:,} rows of {size:.0f} bytes: {wall:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of CPU,")
    print(f"{used.ru_maxrss / 1e3:.0f} MB; parsing the lines alone takes {parsing:.1f} s")


if __name__ == "__main__":
    main()
