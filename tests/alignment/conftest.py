"""The tiny run folder of the tests of SFT and reward model."""

from pathlib import Path

import pytest

from tests.alignment.small_run import config_of, make_run, tokenize_chats, tokenize_preferences


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    make_run(folder)
    tokenize_chats(folder)
    tokenize_preferences(config_of(folder), folder)
    return folder
