"""A path means one checkpoint, or the error says what could be meant; an index names files beside it and no others."""

import json

import pytest
import torch

pytest.importorskip("safetensors")

from safetensors.torch import save_file

from tritonparam import fingerprint, load, save
from tritonparam.checkpoint import as_path
from tritonparam.checkpoint.errors import CheckpointError

LAYOUT = "diffusion_pytorch_model"
INDEX = "model.safetensors.index.json"


def loaded(path):
    """What a load of `a` from there gives."""
    target = {"a": torch.zeros(2)}
    load(target, path, strict=False)
    return target["a"].tolist()


def file(path, value, name="a"):
    save_file({name: torch.full((2,), float(value))}, path)


def index(path, weight_map):
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def sharded(folder, name, value, ending=".safetensors.index.json"):
    """The layout of several files, with an index; the number stands before or after the variant."""
    files = [f"{name}-0000{number}-of-00002.safetensors" for number in (1, 2)]
    file(folder / files[0], value)
    file(folder / files[1], value, "b")
    index(folder / f"{name}{ending}", {"a": files[0], "b": files[1]})


def test_the_index_of_a_diffusers_folder_is_found_beside_a_variant(tmp_path):
    sharded(tmp_path, LAYOUT, 1)
    file(tmp_path / f"{LAYOUT}.fp16.safetensors", 2)
    assert loaded(tmp_path) == [1, 1]
    sharded(tmp_path, f"{LAYOUT}.bf16", 3)
    sharded(tmp_path, LAYOUT, 1, ".safetensors.index.fp16.json")
    assert loaded(tmp_path) == [1, 1]
    assert loaded(tmp_path / f"{LAYOUT}.fp16.safetensors") == [2, 2]
    assert loaded(tmp_path / f"{LAYOUT}.bf16.safetensors.index.json") == [3, 3]


def test_a_file_counts_more_than_its_variants(tmp_path):
    file(tmp_path / f"{LAYOUT}.fp16.safetensors", 2)
    assert loaded(tmp_path) == [2, 2]
    file(tmp_path / f"{LAYOUT}.safetensors", 1)
    file(tmp_path / f"{LAYOUT}.non_ema.safetensors", 3)
    assert loaded(tmp_path) == [1, 1]


def test_files_whose_names_have_dots_are_no_variants_without_a_base(tmp_path):
    for number in range(3):
        file(tmp_path / f"layer.{number}.safetensors", number, "abc"[number])
    target = {name: torch.zeros(2) for name in "abc"}
    load(target, tmp_path)
    assert [each[0].item() for each in target.values()] == [0, 1, 2]


def test_the_order_in_a_folder(tmp_path):
    file(tmp_path / "adapter_model.safetensors", 1)
    assert loaded(tmp_path) == [1, 1]
    sharded(tmp_path, "other", 2)
    assert loaded(tmp_path) == [2, 2]
    sharded(tmp_path, "model", 3)
    assert loaded(tmp_path) == [3, 3]
    file(tmp_path / "model.safetensors", 4)
    assert loaded(tmp_path) == [4, 4]


def test_a_folder_that_could_mean_several_is_refused_with_their_names(tmp_path):
    sharded(tmp_path, "one", 1)
    sharded(tmp_path, "two", 2)
    match = r"several indexes, one\.safetensors\.index\.json, two\.safetensors\.index\.json: name the one to read"
    with pytest.raises(CheckpointError, match=match):
        loaded(tmp_path)
    folder = tmp_path / "files"
    folder.mkdir()
    file(folder / "one.safetensors", 1)
    file(folder / "two.safetensors", 1)
    with pytest.raises(
        CheckpointError, match=r"two\.safetensors and .*one\.safetensors both hold 'a'.*: name the file"
    ):
        loaded(folder)


def test_a_folder_of_other_files_is_told_what_they_are(tmp_path):
    (tmp_path / "__0_0.distcp").write_bytes(b"PK\3\4" * 30)
    with pytest.raises(
        CheckpointError, match=r"no safetensors files, and __0_0.distcp cannot be read: .* of torch.distri"
    ):
        loaded(tmp_path)
    (tmp_path / "__0_0.distcp").unlink()
    for name in ("model.ckpt", "a.bin"):
        (tmp_path / name).write_bytes(b"PK\3\4" * 30)
        with pytest.raises(CheckpointError, match=rf"no safetensors files; {name}.* of torch\.save, which is not read"):
            loaded(tmp_path)


OUTSIDE = [
    "../x.safetensors",
    "/etc/x.safetensors",
    "",
    ".",
    "..",
    "sub/x.safetensors",
    "sub\\x",
    "C:x",
    "x\0",
    "a" * 90000 + "/",
]
NO_STRINGS = [None, 3, True, 1.5, ["x.safetensors"], {"x": "y"}, [[0] * 90000]]


@pytest.mark.parametrize("value", [*OUTSIDE, *NO_STRINGS], ids=lambda value: str(value)[:20])
def test_an_index_that_names_what_is_no_file_beside_it_is_refused_by_name(value, tmp_path):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for each in (tmp_path, folder, folder / "sub"):
        file(each / "x.safetensors", 1)
    index(folder / INDEX, {"a": value})
    for path in (folder, folder / INDEX):
        with pytest.raises(CheckpointError, match=r"must name files beside it, got .* for 'a'") as caught:
            loaded(path)
        assert str(folder / INDEX) in str(caught.value)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"[" * 100_000, "nested more than"),
        (b'{"weight_map":' * 100_000, "nested more than"),
        (b'{"weight_map": {"a": [' + b"{}," * 100_000 + b"{}]}}", "at most 10000 arrays and objects"),
        (b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "the key 'a' twice"),
        (b'{"weight_map": {}, "weight_map": {"a": "x.safetensors"}}', "the key 'weight_map' twice"),
        (b'{"weight_map": [["a", "x.safetensors"]]}', "must have a weight_map"),
        (b'{"weight_map": null}', "must have a weight_map"),
        (b'\xef\xbb\xbf{"weight_map": {"a": "x.safetensors"}}', "is not the index"),
        (b'{"weight_map": {"\xff": "x.safetensors"}}', "UTF-8"),
        (b'{"weight_map": {"\\ud800": "x.safetensors"}}', "half of a surrogate pair"),
        (b"", "is not the index"),
    ],
    ids=range(11),
)
def test_an_index_that_is_no_plain_json_is_refused_by_name(text, match, tmp_path):
    file(tmp_path / "x.safetensors", 1)
    (tmp_path / INDEX).write_bytes(text)
    with pytest.raises(CheckpointError, match=match) as caught:
        loaded(tmp_path)
    assert str(tmp_path / INDEX) in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_links_of_a_cache_are_followed(tmp_path):
    """A hub's cache has the files elsewhere, under their digests, and links to them."""
    for name in ("blobs", "snapshot"):
        (tmp_path / name).mkdir()
    file(tmp_path / "blobs" / "0123", 1)
    index(tmp_path / "blobs" / "4567", {"a": "x.safetensors"})
    (tmp_path / "snapshot" / "x.safetensors").symlink_to("../blobs/0123")
    (tmp_path / "snapshot" / INDEX).symlink_to("../blobs/4567")
    assert loaded(tmp_path / "snapshot") == [1, 1]


@pytest.mark.parametrize("value", ["", "a\0b", "\ud800"], ids=["empty", "NUL", "half a pair"])
def test_a_path_that_no_file_can_have_is_refused(value):
    with pytest.raises(ValueError, match="path must"):
        loaded(value)


@pytest.mark.parametrize("value", [None, 3, b"x", 1.5, ["x"], object()], ids=lambda value: type(value).__name__)
def test_what_is_no_path_is_refused(value):
    with pytest.raises(TypeError, match="path must be a string or"):
        loaded(value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["x.pt", "pytorch_model.bin", "without_ending"])
def test_a_file_of_torch_save_is_told_apart_and_how_to_convert_it(tmp_path, name, zipped):
    """By its first bytes, whatever it is called; and what the error says to do does it."""
    path = tmp_path / name
    torch.save({"a": torch.tensor([1.0, 2.0])}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        CheckpointError, match=rf"{name} is a torch\.save file, which is not read: .* run code"
    ) as caught:
        loaded(path)
    assert f"torch.load('{name}', weights_only=True)" in str(caught.value)
    assert "load_state_dict" in str(caught.value)
    save(torch.load(path, weights_only=True), tmp_path / "converted" / "x.safetensors")
    assert loaded(tmp_path / "converted" / "x.safetensors") == [1, 2]


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.bin", "m.ckpt"])
def test_save_writes_no_file_that_is_called_as_torchs(tmp_path, name):
    with pytest.raises(ValueError, match=r"^path must be a folder .*got '.*': say 'm\.safetensors', or .* torch\.save"):
        save({"a": torch.zeros(2)}, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_home_folder_is_one_for_save_load_and_fingerprint(tmp_path, monkeypatch):
    """A user that there is not is part of a name, as for a shell."""
    monkeypatch.setenv("HOME", str(tmp_path))
    save({"a": torch.ones(2)}, "~/m")
    assert (tmp_path / "m" / "model.safetensors").exists()
    assert loaded("~/m") == [1, 1]
    assert fingerprint("~/m").total == fingerprint(tmp_path / "m").total
    assert as_path("~/x") == tmp_path / "x"
    assert as_path("~no-such-user/x").as_posix() == "~no-such-user/x"
    assert as_path("a/~/x").as_posix() == "a/~/x"


def test_a_model_in_the_place_of_the_path_is_told(tmp_path):
    model = torch.nn.Linear(2, 2)
    for call in (save, load):
        with pytest.raises(TypeError, match="got a Linear; the model goes before the path"):
            call(tmp_path / "m", model)
