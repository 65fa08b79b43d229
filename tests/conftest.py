"""Tests that need a GPU or the real corpus skip where there is none."""

import os

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
        if item.get_closest_marker("wikitext2") and not os.environ.get("WIKITEXT2_DIR"):
            item.add_marker(pytest.mark.skip(reason="needs WikiText-2 in the folder named by WIKITEXT2_DIR"))
