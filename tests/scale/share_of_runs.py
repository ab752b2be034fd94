"""One of several processes that train runs together: `share_of_runs.py RANK COUNT MEETING OUTPUT WEIGHTS`.

On standard input is a JSON list of the flags of each run; WEIGHTS is `whole` or `parted`.
"""

from __future__ import annotations

import json
import sys

import torch

from prefloop.runs import config, experiment
from prefloop.scale.processes import Group


def main(rank: str, count: str, meeting: str, output: str, weights: str) -> None:
    torch.set_num_threads(1)
    group = Group(int(rank), int(count), f"file://{meeting}", parted=weights == "parted")
    for flags in json.load(sys.stdin):
        experiment.run(config.load(None, [*flags, f"--output={output}"]), quiet=True, processes=group)
    group.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
