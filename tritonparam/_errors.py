"""The root of the errors that are this library's own."""

from __future__ import annotations


class TritonParamError(Exception):
    """What every error of a class of this library is; bad arguments are a `TypeError` or `ValueError`, as elsewhere.

    Examples:
        >>> import tritonparam as tp
        >>> try:
        ...     tp.fingerprint("no/such/folder")
        ... except tp.TritonParamError as error:
        ...     type(error).__name__
        'CheckpointNotFoundError'
    """
