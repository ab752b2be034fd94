"""README, tutorial and how-to pages are run as they stand, on a tiny model in place of the real one.

A console block is run line by line; a Python or YAML block that begins with `# name.ext` is written to that file, and
any other Python block is run.
"""

from __future__ import annotations

import glob
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import tiny
from prefloop.cli.main import main
from prefloop.policies import pretrained

pytestmark = pytest.mark.slow  # minutes: whole trainings, if tiny ones
ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "docs/tutorial.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/how-to/*.md"))]
SKIPPED = {  # beginning of a command -> why it is not run here
    "make ": "this is `make test`; `make demo` is run by tools/fresh.sh",
    "pip ": "installs",
    "prefloop chat": "reads standard input; tests/cli/test_answers.py has conversations",
    "printf ": "a pipe; see there",
    "prefloop demo": "trains the real model; tools/fresh.sh runs it",
    "prefloop train config.yaml --model.device cuda:1": "needs two GPUs; tests/runs/test_gpu.py runs on one",
    "prefloop watch": "serves until Ctrl-C; tests/report/test_live.py starts and ends it",
    "prefloop run alpacafarm-mini": "minutes on the real model; tests/recipes runs it on a tiny one",
    "prefloop study run all": "more than an hour; size smoke is a test of its own",
}
PAIRS = [("Name a prime.", "b a b", "c"), ("Name a colour.", "a b c", "b"), ("Say yes.", "yes", "no no")]


@dataclass(frozen=True)
class Block:
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Block(*m) for m in re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)]


def commands(text: str) -> Iterator[str]:
    """Each line after a `$ `, continued over lines that end in a backslash, without its comment."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            yield line[2:].partition("  #")[0].strip()


def words(command: str) -> list[str]:
    """As a shell would split them, `*` expanded."""
    split = shlex.split(command)
    return [w for word in split for w in (sorted(glob.glob(word)) or [word] if "*" in word else [word])]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a file of pairs and the examples; `smollm2` is a tiny model."""
    torch.set_num_threads(1)
    pretrained.save(tiny.llama(len(tiny.WORDS), torch.float32, context=512), tiny.tokenizer(), tmp_path / "model", "")
    monkeypatch.setattr(pretrained, "smollm2", lambda: tmp_path / "model")
    rows = [{"prompt": f"{q} {i}", "chosen": w, "rejected": x} for i in range(40) for q, w, x in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PREFLOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_works(page: str, workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ran = 0
    for block in blocks(page):
        first = block.text.partition("\n")[0]
        if block.language in ("python", "yaml") and re.fullmatch(r"# [\w/]+\.(py|yaml)", first):
            (workplace / first[2:]).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, page, "exec"), {"__name__": "document"})
            ran += 1
        elif block.language == "console":
            for command in commands(block.text):
                if not command.startswith(tuple(SKIPPED)):
                    program, *rest = words(command)
                    assert program == "prefloop", command
                    assert main(rest) == 0, f"{command}\n{capfd.readouterr().err}"
                    ran += 1
    assert ran > 0 or not any(block.language in ("console", "python") for block in blocks(page))


def test_every_link_of_the_readme_leads_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = [t for t in re.findall(r"\]\(([^)#]+)", text) if not t.startswith("http")]
    assert targets and [t for t in targets if not (ROOT / t).exists()] == []
