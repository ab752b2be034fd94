"""Run the JavaScript of pages: in node, and in a headless Chromium; tests skip where neither is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NODE = shutil.which("node")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
SECONDS = 60


def evaluate(code: str, expression: str) -> Any:
    """The value of an expression after the code, as JSON."""
    if NODE is None:
        pytest.skip("runs JavaScript, but node is not installed")
    text = f"{code}\nconsole.log(JSON.stringify({expression}));\n"
    ran = subprocess.run([NODE, "-"], input=text, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def loaded(
    page: Path, folder: Path, address: str = "", *, size: tuple[int, int] = (1200, 900), milliseconds: int = 3000
) -> tuple[str, list[str]]:
    """The document after its scripts have run, and the lines that it wrote to the console.

    Args:
        folder: an empty folder for the browser's files.
        address: what follows the file's name, such as `#a=1`.
        milliseconds: of the page's own time, which passes as fast as the machine allows.
    """
    if CHROMIUM is None:
        pytest.skip("opens a page, but Chromium is not installed")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}"]
    flags += [
        f"--virtual-time-budget={milliseconds}",
        f"--window-size={size[0]},{size[1]}",
        "--enable-logging=stderr",
        "--v=0",
        "--dump-dom",
    ]
    call = [CHROMIUM, *flags, page.resolve().as_uri() + address]
    ran = subprocess.run(call, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, [line for line in ran.stderr.splitlines() if re.search(r":CONSOLE", line)]
