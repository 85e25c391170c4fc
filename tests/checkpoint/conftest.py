"""Set-up of what loads: a trained module's file, and a check that a refusal changes nothing."""

import pytest
from torch import nn

from tests.checkpoint.bits import bits
from tests.checkpoint.models import Net, contents, deferred, trained
from tritonparam import load
from tritonparam.checkpoint.errors import CheckpointError


@pytest.fixture
def checkpoint(tmp_path):
    """A trained Net and its file."""
    save_file = pytest.importorskip("safetensors.torch").save_file
    net = trained()
    save_file(contents(net), tmp_path / "net.safetensors")
    return net, tmp_path / "net.safetensors"


def snapshot(*targets):
    found = []
    for target in targets:
        tensors = [*target.parameters(), *target.buffers()] if isinstance(target, nn.Module) else [target.torch]
        found += [(id(each), each.device.type, each.dtype, None if each.is_meta else bits(each)) for each in tensors]
    return found


@pytest.fixture
def unchanged():
    """Loads into a real and a deferred Net; both, and a lazy parameter beside them, have to be as before."""

    def check(path, error, text, **options):
        for net in (Net(), deferred()):
            before = snapshot(net)
            with pytest.raises(error, match=text) as caught:
                load(net, path, **options)
            assert snapshot(net) == before
            if error is CheckpointError:
                assert str(path.parent) in str(caught.value)

    return check
