"""Fingerprints of tensors: the key of a name, and what becomes of the sums over a tensor's words; docs/fingerprint.md.

The sums themselves are made where the tensor is: `reference.fingerprint` defines them.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence

from tritonparam._arguments import got, shown
from tritonparam.stream.key import text_of

_KEY = b"tparam.fp1.key"  # BLAKE2b's person: of keys, and of digests
_DIGEST = b"tparam.fp1.sum"
_WORD = 2**64


def fingerprint_key(name: str) -> int:
    """The 64-bit Philox key of the tensor called `name`: BLAKE2b of the name in UTF-8, with a person of its own.

    Raises:
        TypeError: name is not a string.
        ValueError: name holds lone surrogates.

    Examples:
        >>> hex(fingerprint_key("w"))
        '0x95d474480d302f35'
    """
    return int.from_bytes(hashlib.blake2b(text_of(name), digest_size=8, person=_KEY).digest(), "little")


def fingerprint_digest(name: str, dtype: str, shape: Sequence[int], sums: Sequence[int]) -> str:
    """The fingerprint of a tensor, from the sums over all its words.

    Args:
        name: What it is called.
        dtype: Its dtype as torch names it, such as "bfloat16".
        shape: Of the whole tensor.
        sums: The two sums, each 0 <= sum < 2**64.

    Returns:
        32 hexadecimal digits.

    Raises:
        TypeError: name or dtype is not a string.
        ValueError: name or dtype is not encodable, a size or a sum is out of range, or there are not two sums.

    Examples:
        >>> fingerprint_digest("w", "float32", (0,), (0, 0))
        '5eeb580e9d89c8fc27f95bb038087d0b'
    """
    if len(sums) != 2 or not all(0 <= each < _WORD for each in sums):
        raise ValueError(f"sums must be two ints in [0, 2**64), got {shown(sums)}")
    if not all(0 <= each < _WORD for each in shape):
        raise ValueError(f"shape must hold ints in [0, 2**64), got {shown(shape)}")
    name_bytes, dtype_bytes = text_of(name), text_of(dtype)
    words = (len(name_bytes), len(dtype_bytes), len(shape), *shape, *sums)
    hashed = struct.pack(f"<{len(words)}Q", *words) + name_bytes + dtype_bytes
    return hashlib.blake2b(hashed, digest_size=16, person=_DIGEST).hexdigest()


def fingerprint_total(digests: Iterable[str]) -> str:
    """The fingerprint of tensors together: the sum of theirs, as numbers of 128 bits, in whatever order.

    Args:
        digests: 32 hexadecimal digits each.

    Raises:
        TypeError, ValueError: One is something else.

    Examples:
        >>> fingerprint_total(["0" * 31 + "1", "f" * 32])
        '00000000000000000000000000000000'
    """
    total = 0
    for digest in digests:
        if not isinstance(digest, str):
            raise TypeError(f"digests must be strings, {got(digest)}")
        if len(digest) != 32 or not set(digest) <= set("0123456789abcdef"):
            raise ValueError(f"digests must be 32 hexadecimal digits each, got {shown(digest)}")
        total += int(digest, 16)
    return f"{total % 2**128:032x}"
