"""Commands are forked from one process a worker."""

import os

import program
import pytest

if not hasattr(os, "fork"):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def zygote():
    """Ends the worker's zygote with it."""
    yield
    if program.zygote.cache_info().currsize:
        program.zygote().close()
