"""The files of a checkpoint: which tensors go into which, what they are called, the index, and how all are found."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from tritonparam._arguments import few, shown
from tritonparam.checkpoint.errors import CheckpointError, CheckpointNotFoundError
from tritonparam.checkpoint.files import INDEX_NAME, TORCH_ENDINGS, WHOLE_NAME, not_read
from tritonparam.checkpoint.json_files import read_json_object

_SHARDS = "shard-*-model-*.safetensors"
_NUMBERED = re.compile(r"-\d+-of-\d+")
_MAX_CONTAINERS = 10_000  # arrays and objects in an index, which needs three
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_ENDINGS = (".json", ".safetensors", ".bin", ".pt", ".pth", ".png", ".py")
_PICKLE = "a pickle"
_UNREAD = {
    **dict.fromkeys(TORCH_ENDINGS, _PICKLE),
    ".distcp": "of torch.distributed.checkpoint, partly pickled",
    ".gguf": "of llama.cpp",
}


class Sized(Protocol):
    """Anything that has a size in bytes."""

    @property
    def nbytes(self) -> int:
        """The size."""


AnySized = TypeVar("AnySized", bound=Sized)


def in_groups(items: Iterable[AnySized], max_size: int) -> list[list[AnySized]]:
    """The items, in order, in groups of at most `max_size` bytes; a larger one gets its own. At least one group."""
    groups: list[list[AnySized]] = [[]]
    filled = 0
    for item in items:
        if groups[-1] and filled + item.nbytes > max_size:
            groups.append([])
            filled = 0
        groups[-1].append(item)
        filled += item.nbytes
    return groups


def shard_names(total: int, rank: int | None = None) -> list[str]:
    """What transformers calls the files of a checkpoint of `total` files.

    Where several processes save together, `rank` has `total` of them, called as torch's distributed checkpoint does.

    Examples:
        >>> shard_names(1), shard_names(2)[0], shard_names(1, rank=3)[0]
        (['model.safetensors'], 'model-00001-of-00002.safetensors', 'shard-00004-model-00001-of-00001.safetensors')
    """
    if total == 1 and rank is None:
        return [WHOLE_NAME]
    prefix = "" if rank is None else f"shard-{rank + 1:05}-"
    return [f"{prefix}model-{number:05}-of-{total:05}.safetensors" for number in range(1, total + 1)]


def index_text(files: Mapping[str, str], parameters: int, nbytes: int) -> str:
    """The index of a checkpoint of several files: which file has which tensor."""
    metadata = {"total_parameters": parameters, "total_size": nbytes}
    return json.dumps({"metadata": metadata, "weight_map": dict(files)}, indent=2) + "\n"


def not_fetched(text: str, what: str) -> str:
    """The end of an error about a name that is no path: of the hub, if it looks like that, nothing is fetched.

    Examples:
        >>> not_fetched("gpt2", "its config.json"), not_fetched("gpt2.json", "its config.json")
        ('; names of the hub are not fetched: download its config.json and give its path', '')
    """
    if not _HUB_NAME.fullmatch(text) or text.endswith(_ENDINGS) or set(text) <= {"."}:
        return ""
    return f"; names of the hub are not fetched: download {what} and give its path"


def find_files(path: Path, *, missing: bool = False) -> tuple[list[Path], dict[str, Path] | None]:
    """The files of the checkpoint at `path`, and which of them has which tensor where an index says so.

    Args:
        path: A safetensors file, an index, or a folder, in which the first of these counts: `model.safetensors`, its
            index, the only other index that is of no variant, the files of several processes, and all that are of no
            variant.
        missing: Whether a file that an index names may be missing.

    Raises:
        CheckpointNotFoundError: There is none, or one that an index names is missing.
        CheckpointError: An index cannot be read or names what is not beside it, or more than one index could be meant.
        OSError: The system refuses the path.
    """
    if path.is_dir():
        if (path / WHOLE_NAME).exists():
            return [path / WHOLE_NAME], None
        index = _index_in(path)
        if index is None:
            return _files_in(path), None
        path = index
    if not path.exists():
        raise CheckpointNotFoundError(f"{path} does not exist{not_fetched(str(path), 'the checkpoint')}", path)
    if path.suffix != ".json":
        return [path], None
    weight_map = read_index(path)
    for name, file in weight_map.items():
        if not missing and not file.exists():
            raise CheckpointNotFoundError(f"{file} is missing: {path.name} says that it holds {shown(name)}", file)
    return list(dict.fromkeys(weight_map.values())), weight_map


def read_index(path: Path) -> dict[str, Path]:
    """Which file, beside the index at `path`, has which tensor; whether it is there is not looked at.

    Raises:
        CheckpointError: It is no index, or names what is no file beside it.
        OSError: It cannot be read, or is no regular file.
    """
    try:
        weight_map = read_json_object(path, containers=_MAX_CONTAINERS).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ValueError("must have a weight_map, which says which file has which tensor")
    except ValueError as error:
        raise CheckpointError(f"{path} is not the index of a checkpoint: it {error}") from None
    for name, file in weight_map.items():
        if not isinstance(file, str) or not _is_plain(file):
            raise CheckpointError(
                f"{path} is not the index of a checkpoint: it must name files beside it, got "
                f"{shown(file)} for {shown(name)}"
            )
    return {name: path.with_name(file) for name, file in weight_map.items()}


def _is_plain(name: str) -> bool:
    """Whether it is the name of a file, and no way to another folder, on whatever system."""
    return (
        name not in ("", ".", "..") and not any(mark in name for mark in "/\\\0") and not re.match(r"[A-Za-z]:", name)
    )


def _index_in(folder: Path) -> Path | None:
    """The index in `folder`, if there is one that counts."""
    if (folder / INDEX_NAME).exists():
        return folder / INDEX_NAME
    ending = ".safetensors.index.json"
    # What has a dot is of a variant, such as model.fp16.
    found = sorted(each for each in folder.glob(f"*{ending}") if "." not in each.name.removesuffix(ending))
    if len(found) > 1:
        raise CheckpointError(f"{folder} has several indexes, {_names(found)}: name the one to read")
    return found[0] if found else None


def _files_in(folder: Path) -> list[Path]:
    """The safetensors files in `folder`, without those of a variant of others that are there."""
    found = sorted(folder.glob(_SHARDS))
    if found:
        return found
    found = sorted(folder.glob("*.safetensors"))
    bases = {_base(each) for each in found}
    plain = [
        each for each in found if not _base(each).rpartition(".")[0] or _base(each).rpartition(".")[0] not in bases
    ]
    if plain:
        return plain
    others = sorted(each for each in folder.iterdir() if each.suffix in _UNREAD)
    if not others:
        raise CheckpointNotFoundError(f"{folder} has no safetensors files", folder)
    what = _UNREAD[others[0].suffix]
    if what == _PICKLE:
        raise CheckpointError(
            f"{folder} has no safetensors files; {others[0].name[:100]} is of torch.save{not_read(others[0])}"
        )
    raise CheckpointError(
        f"{folder} has no safetensors files, and {_names(others)} cannot be read: {others[0].name} is {what}. "
        "Save it as safetensors, for example with save_pretrained of transformers"
    )


def _base(path: Path) -> str:
    """The name that the files of one checkpoint have in common."""
    return _NUMBERED.sub("", path.name.removesuffix(".safetensors"))


def _names(paths: Sequence[Path]) -> str:
    return few([each.name[:100] for each in paths], 5)
