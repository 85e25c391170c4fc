"""What the tests of modules have in common."""

import pytest

from tritonparam import materialize


@pytest.fixture(scope="module")
def whole():
    """The tensors of the model of tests/module/sharding.py as one process makes them from seed 5, by name."""
    from tests.module.sharding import built, named

    return named(materialize(built(), seed=5))
