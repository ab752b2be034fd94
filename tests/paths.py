"""Files of published preference data that tests read where they are; they are no part of the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

HUMAN_PAIRS = "fine_grained_rlhf/pairs_human.jsonl.gz"  # split by `qid`
HUMAN_CHATS = "open_assistant/pairs_human_ranked.jsonl"  # split by `tree`


def real(folder: Path, name: str) -> Path:
    """The file of that name in the folder of real data, or a skip that says what is missing."""
    if not (folder / name).is_file():
        pytest.skip(f"no {name} in {folder}")
    return folder / name
