"""What tests of the compiled kernels share."""

import os

import pytest

from bsc.coders.kernels.build import library


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `compiled` where no compiler is found, but not in continuous integration."""
    if library() is None and not os.environ.get("CI"):
        for item in items:
            if item.get_closest_marker("compiled"):
                item.add_marker(pytest.mark.skip(reason="no C++ compiler"))
