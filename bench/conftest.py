"""Without --benchmark-only the small benchmarks are plain tests, called once."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("benchmark") and not config.option.benchmark_only:
        config.option.benchmark_disable = True
