"""Devices that a user names: those that are not there are an error that says so."""

from __future__ import annotations

import pytest
import torch

from tritonparam.plan import MissingDeviceError, checked_device, named_device


@pytest.mark.parametrize("device", ["cuda:128", "cuda:256", "cuda:999", "cuda:-1", "cuda:x", "gpu", "", "cpu:999"])
def test_a_name_that_torch_would_read_as_another_is_refused(device: str) -> None:
    """torch counts devices in 8 bits: "cuda:256" would be "cuda:0", and "cuda:999" one below zero."""
    with pytest.raises(ValueError, match=f"^device must be a cpu or cuda device, got '{device}'"):
        named_device(device)


def test_a_device_that_torch_took_for_one_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^device must be"):
        checked_device(torch.device("cuda", 999))


@pytest.mark.parametrize("device", [[], True, torch.float32, b"cpu", {"cpu"}])
def test_anything_but_a_name_or_a_device_is_refused(device: object) -> None:
    with pytest.raises(TypeError, match=r"^device must be a string, an int or a torch.device, got "):
        checked_device(device)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:127"])
def test_a_device_that_this_machine_has_not_is_missing(device: str) -> None:
    with pytest.raises(MissingDeviceError, match=f"got '{device}': this machine has 0 CUDA devices"):
        checked_device(device)
