"""Keys: which 64-bit Philox key the tensor called `name` draws with."""

from __future__ import annotations

import hashlib
import struct

from tritonparam._arguments import got, shown

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
    try:
        if isinstance(seed, bool) or isinstance(occurrence, bool):
            raise struct.error
        head = struct.pack("<QQ", seed, occurrence)
    except Exception:
        for argument, value in (("seed", seed), ("occurrence", occurrence)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{argument} must be an int, {got(value)}") from None
            if not 0 <= value < 2**64:
                raise ValueError(f"{argument} must be in [0, 2**64), got {shown(value)}") from None
        raise
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, {got(name)}")
    try:
        text = name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"name must be encodable as UTF-8, got {shown(name)}") from None
    return int.from_bytes(hashlib.blake2b(_PREFIX + head + text, digest_size=8).digest(), "little")
