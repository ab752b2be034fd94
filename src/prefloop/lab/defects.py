"""Defects of the published bandit code as wrappers, so that a study can measure what each of them does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefloop.errors import UserError
from prefloop.methods import Method


@dataclass(frozen=True)
class Parts:
    """What a defect may wrap."""

    row: Method
    policy: Any
    reference: Any
    problem: Any


def install(defect: str, parts: Parts, seeds: Sequence[int]) -> Parts:
    """The parts with one defect of the published code in them."""
    raise UserError(f"there is no defect `{defect}`")
