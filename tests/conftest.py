"""Settings of every test run, and what several tests need: a tiny model, one thread, the folder of real data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test may reach for the network
os.environ["PREFLOOP_TOKENS"] = ""  # nor read what another run has rendered

from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "prefloop", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.register_profile(  # of tools/mutate.py: any failing example will do, no smaller one is sought
    "mutants", settings.get_profile("prefloop"), phases=[Phase.explicit, Phase.generate]
)
settings.load_profile("prefloop")


@pytest.fixture(scope="session")
def preference_data() -> Path:
    """The folder of published preference data: `$PREFLOOP_TEST_DATA`, or `shared/data` beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PREFLOOP_TEST_DATA") or beside)
    if not folder.is_dir():
        pytest.skip("no real data here: set PREFLOOP_TEST_DATA to its folder")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny language model."""
    import torch

    import tiny
    from prefloop.policies import pretrained

    folder = tmp_path_factory.mktemp("model") / "tiny"
    pretrained.save(tiny.llama(len(tiny.WORDS), torch.float32), tiny.tokenizer(), folder, "a tiny model")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small products; more threads only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
