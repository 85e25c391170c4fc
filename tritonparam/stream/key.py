"""Keys: which 64-bit Philox key the tensor called `name` draws with."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tritonparam._arguments import got, shown

if TYPE_CHECKING:
    import numpy.typing as npt

STREAM_VERSION = 1
_PREFIX = b"tritonparam.v1"


def derive_key(seed: int, name: str, occurrence: int = 0) -> int:
    """The 64-bit Philox key of (seed, name, occurrence); docs/stream.md, section 1.

    BLAKE2b (RFC 7693) with an 8-byte digest over: the 14 bytes ``tritonparam.v1``, the seed and the occurrence as
    8-byte little-endian integers, the name in UTF-8. The digest, read little-endian, is the key.

    Args:
        seed: 0 <= seed < 2**64.
        name: Any string that UTF-8 can hold.
        occurrence: How many tensors of this name the same generator has keyed before; 0 <= occurrence < 2**64.

    Raises:
        TypeError: seed or occurrence is not an integer, or name is not a string.
        ValueError: seed or occurrence is out of range, or name holds lone surrogates.

    Examples:
        >>> hex(derive_key(0, "w"))
        '0xba050188b13cfbb3'
    """
    return int.from_bytes(hashlib.blake2b(_head(seed, occurrence) + text_of(name), digest_size=8).digest(), "little")


def derive_keys(seed: int, names: Sequence[str], occurrences: Sequence[int]) -> npt.NDArray[np.uint64]:
    """`derive_key` of many tensors with one seed: key n is that of name n and occurrence n.

    Args:
        seed: As for `derive_key`.
        names, occurrences: Of one length.

    Returns:
        uint64 of shape [n].

    Raises:
        TypeError, ValueError: As for `derive_key`; or there is another number of names than of occurrences.

    Examples:
        >>> derive_keys(0, ["w", "w"], [0, 1]).tolist() == [derive_key(0, "w"), derive_key(0, "w", 1)]
        True
    """
    if len(names) != len(occurrences):
        raise ValueError(f"occurrences must be as many as the {len(names)} names, got {len(occurrences)}")
    if {*map(type, occurrences)} != {int}:  # True and 1.0 are 1 to a set
        for occurrence in occurrences:
            _head(seed, occurrence)
    heads = {occurrence: _head(seed, occurrence) for occurrence in {*occurrences}}
    blake2b = hashlib.blake2b
    digests = [
        blake2b(heads[occurrence] + text_of(name), digest_size=8).digest()
        for name, occurrence in zip(names, occurrences, strict=True)
    ]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64, copy=False)


def _head(seed: int, occurrence: int) -> bytes:
    """What is hashed before the name."""
    try:
        if isinstance(seed, bool) or isinstance(occurrence, bool):
            raise struct.error
        return _PREFIX + struct.pack("<QQ", seed, occurrence)
    except Exception:
        for argument, value in (("seed", seed), ("occurrence", occurrence)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{argument} must be an int, {got(value)}") from None
            if not 0 <= value < 2**64:
                raise ValueError(f"{argument} must be in [0, 2**64), got {shown(value)}") from None
        raise


def text_of(name: str) -> bytes:
    """The bytes of a name.

    Raises:
        TypeError: It is not a string.
        ValueError: It holds lone surrogates.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, {got(name)}")
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"name must be encodable as UTF-8, got {shown(name)}") from None
