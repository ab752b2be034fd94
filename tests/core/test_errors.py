"""Messages of errors fit on a screen, whatever they quote."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prefloop.core.errors import COLUMNS, ROWS, fitted

line = st.text(alphabet="ab ", max_size=6) | st.integers(0, 700).map(lambda n: "x" * n)


@given(text=st.lists(line, max_size=40).map("\n".join), rows=st.sampled_from(sorted(ROWS.values())))
def test_any_text_fits(text: str, rows: int) -> None:
    shown = fitted(text, rows)
    assert sum(max(1, -(-len(part) // COLUMNS)) for part in shown.split("\n")) <= rows
    assert shown == text or "…" in shown
