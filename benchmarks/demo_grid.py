"""The demo's cells at several learning rates, on a seed and prompts that the demo does not use.

    python benchmarks/demo_grid.py [--steps 4] [--rates 2e-4 3e-4] [--cells online_dpo ...] [--out demo_grid.json]

Writes one entry per run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from prefloop.cli.demo_cells import CONFIGS, GRID
from prefloop.data.instructions import instructions
from prefloop.runs import config as configuration
from prefloop.runs import experiment

SEED, USED = 100, 40  # the demo evaluates on the first 40 held-out prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-4, 3e-4])
    parser.add_argument("--cells", nargs="+", default=list(GRID))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args, entries = parser.parse_args(), []
    with TemporaryDirectory() as folder:
        prompts = Path(folder) / "tuning.jsonl"
        rest = [group.prompt[-1].content for group in instructions("held_out")[USED:]]
        prompts.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in rest), encoding="utf-8")
        configs = {}
        for rate in args.rates:
            for cell in args.cells:
                flags = [f"--seed={SEED}", f"--training.steps={args.steps}", f"--training.lr={rate}"]
                flags += [f"--output={folder}/runs", f"--data.held_out={prompts}"]
                configs[cell, rate] = configuration.load(CONFIGS / f"{cell}.yaml", flags)
        start = experiment.prepare(list(configs.values()))
        for (cell, rate), config in configs.items():
            result = experiment.run(config, label=f"{cell} lr={rate}", start=start)
            keys = ("eval/reward", "eval/reward_se", "eval/kl_reverse", "eval/length")
            entry = {"cell": cell, "lr": rate, "steps": args.steps, "seed": SEED, "seconds": round(result.seconds)}
            entry |= {"before": result.before["eval/reward"], **{k: result.after[k] for k in keys}}
            entries.append(entry)
            print(json.dumps(entry), flush=True)
            args.out.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
