"""Public files of BEATs and of ULIP: what is read of them, what is refused, and that nothing in them is run."""

import argparse
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
from modality_towers import Tower, weights, written
from safetensors.numpy import load_file, save_file

from instructblip_jax.convert.parts import beats, point_bert
from instructblip_jax.convert.public_file import open_file
from instructblip_jax.convert.write import read as array_of

CFG = {"encoder_layers": 3, "encoder_embed_dim": 24, "encoder_ffn_embed_dim": 40, "encoder_attention_heads": 3}
CFG |= {"input_patch_size": 8, "embed_dim": 20, "conv_pos": 8, "conv_pos_groups": 4, "num_buckets": 16}
CFG |= {"max_distance": 24, "deep_norm": True, "layer_norm_first": False, "finetuned_model": False, "dropout": 0.0}
SIZES = {"trans_dim": 24, "depth": 3, "encoder_dims": 20, "channels": [12, 14, 18], "position_hidden": 10}
SIZES |= {"embed_dim": 16, "num_heads": 1, "group_size": 32, "num_group": 512}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def as_torch(torch, tensors):
    return {name: torch.from_numpy(np.array(x)) for name, x in tensors.items()}


def check(read, want):
    assert read.keys() == want.keys()
    for name, x in read.items():
        found = array_of(x)
        assert (found.shape, found.dtype) == (x.shape, x.dtype)
        np.testing.assert_array_equal(found, want[name])


def test_a_beats_file(torch, tmp_path):
    path, want = tmp_path / "BEATs.pt", weights("beats", 0)
    tensors = as_torch(torch, want)
    tensors["encoder.layers.0.fc1.weight"] = tensors["encoder.layers.0.fc1.weight"].T.contiguous().T  # another order
    tensors["layer_norm.bias"] = torch.nn.Parameter(torch.cat([torch.zeros(5), tensors["layer_norm.bias"]])[5:])
    torch.save({"cfg": CFG, "model": tensors}, path)
    section, found = beats.read(path)
    assert {name: section[name] for name in CFG if name in section} == {
        name: CFG[name] for name in CFG if name in section
    }
    assert beats.read_config(path, section).num_buckets == 16
    check(found, want)
    section_of_directory, found = beats.read(written(tmp_path / "model", "beats", 0))
    assert section_of_directory == section
    check(found, want)


def test_a_beats_that_a_newer_torch_saved_anew(torch, tmp_path):
    """It calls the two tensors of a weight norm otherwise."""
    norm = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(24, 24, 8, groups=4), dim=2)
    names = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    directory = written(tmp_path / "model", "beats", 0)
    want, tensors = Tower(directory, "beats", 0), load_file(directory / "model.safetensors")
    for old, new in names.items():
        tensors[f"encoder.pos_conv.0.{new}"] = x = tensors.pop(f"encoder.pos_conv.0.{old}")
        assert norm.state_dict()[new].shape == x.shape
    save_file(tensors, directory / "model.safetensors")
    found = Tower(directory, "beats", 0)
    for path, x in want.arrays.items():
        np.testing.assert_array_equal(found.arrays[path], x)


def test_an_ulip_file_without_its_other_towers(torch, tmp_path):
    path, want = tmp_path / "ulip.pt", weights("pointbert", 0)
    others = {"visual.conv1.weight": np.ones((2, 2), np.float32), "logit_scale": np.float32(1.0)}
    state = {f"module.{name}": x for name, x in as_torch(torch, want | others).items()}
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-3}]}
    everything = {"epoch": 3, "state_dict": state, "optimizer": optimizer, "args": argparse.Namespace(lr=np.float64(1))}
    torch.save(everything, path)
    section, found = point_bert.read(path)
    assert section == SIZES
    check(found, want)
    section, found = point_bert.read(written(tmp_path / "model", "pointbert", 0))
    assert section == SIZES | {"num_heads": 3, "group_size": 6, "num_group": 10}
    check(found, want)


def test_files_of_other_networks_are_refused(torch, tmp_path):
    path = tmp_path / "file.pt"
    tensors = as_torch(torch, weights("beats", 0))

    def refused(read, content, *words):
        torch.save(content, path)
        with pytest.raises(ValueError, match=re.escape(str(path))) as error:
            read(path)
        assert all(word in str(error.value) for word in words), error.value

    head = {"predictor.weight": torch.zeros(2, 24)}
    refused(beats.read, {"cfg": CFG | {"finetuned_model": True}, "model": tensors | head}, "fine-tuned", "iter3_plus")
    refused(beats.read, {"cfg": CFG | {"layer_norm_first": True}, "model": tensors}, "layer_norm_first")
    refused(beats.read, {"cfg": CFG | {"encoder_attention_heads": 5}, "model": tensors}, "encoder_attention_heads")
    refused(beats.read, {"cfg": CFG | {"num_buckets": 3}, "model": tensors}, "num_buckets")
    refused(beats.read, {"model": tensors}, "cfg")
    refused(beats.read, {"cfg": CFG, "model": {"x": torch.zeros(1)}}, "is no BEATs")
    refused(beats.read, {"cfg": CFG, "model": {"x": 1}}, '"model"')
    refused(beats.read, [1], "holds no dict")
    state = as_torch(torch, weights("pointbert", 0))
    refused(point_bert.read, {"state_dict": {"x": torch.zeros(1)}}, "is no PointBERT")
    colour = {"point_encoder.encoder.first_conv.0.weight": torch.zeros(12, 6, 1)}
    refused(point_bert.read, {"state_dict": state | colour}, "6 numbers per point", "colour", "pointbert_ULIP-2.pt")
    with pytest.raises(FileNotFoundError, match="none"):
        beats.read(tmp_path / "none.pt")


def test_tables_of_relative_positions_that_differ_are_refused(tmp_path):
    directory = written(tmp_path / "model", "beats", 0)
    tensors = load_file(directory / "model.safetensors")
    tensors["encoder.layers.2.self_attn.relative_attention_bias.weight"][0, 0] += 1
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(ValueError, match=r"layers\.2.*differs from encoder\.layers\.0.*copies of one parameter"):
        Tower(directory, "beats", 0)


class Evil:
    """An object whose pickle calls a function with a list."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def archive(path, content):
    """A file like torch.save's, of these bytes of a pickle and four numbers."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/data/0", np.arange(4, dtype=np.float32).tobytes())


def described(shape, strides, *, offset=0, key="0", length=4):
    """The pickle of {"model": {"x": a tensor}}, written without torch."""

    def part(value):
        return re.sub(rb"p\d+\n", b"", pickle.dumps(value, 0).removesuffix(b"."))  # without its own numbers of objects

    storage = b"(Vstorage\nctorch\nFloatStorage\n" + part((key, "cpu", length))[1:].removesuffix(b"t") + b"tQ"
    arguments = b"(" + storage + b"".join(map(part, (offset, shape, strides))) + b"t"
    return b"(dVmodel\n(dVx\nctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rss."


def test_nothing_in_a_file_is_run_and_no_memory_is_wasted(tmp_path):
    path, mark = tmp_path / "file.pt", tmp_path / "mark"
    archive(path, pickle.dumps({"cfg": Evil(mark), "model": {}}, 2))
    assert set(open_file(path).content) == {"cfg", "model"}
    assert not mark.exists()
    archive(path, b"\x80\x02}r\xff\xff\xff\xff.")  # a place among objects that would take 64 GB
    with pytest.raises(ValueError, match="an invalid index"):
        open_file(path)
    archive(path, described((2, 2), (2, 1)))
    np.testing.assert_array_equal(array_of(open_file(path).tensors("model")["x"]), [[0, 1], [2, 3]])
    far = 2**40
    for wrong in (
        described((2, 2), (2, 1), offset=1),
        described((far,), (0,)),
        described((far,), (1,), length=far),
        described((2,), (far,)),
        described((2,), (-1,)),
        described((2,), (1, 1)),
        described((2,), (1,), key="1"),
        described((2,), (1,), length=5),
    ):
        archive(path, wrong)
        with pytest.raises(ValueError, match="x is outside"):
            open_file(path).tensors("model")


def test_truncated_and_altered_files_are_refused_or_read(torch, tmp_path):
    """200 of them: an error of one class that names the file, or the tensors."""
    path, whole = tmp_path / "file.pt", tmp_path / "whole.pt"
    torch.save({"cfg": CFG, "model": {"a": torch.ones(3, 2), "b": torch.zeros(4, dtype=torch.int64)}}, whole)
    content, rng, errors = whole.read_bytes(), np.random.default_rng(0), []
    for n in range(200):
        mutant = bytearray(content[: rng.integers(len(content))] if n % 4 == 0 else content)
        for _ in range(rng.integers(1, 6) if mutant else 0):
            mutant[rng.integers(len(mutant))] = rng.integers(256)
        path.write_bytes(mutant)
        try:
            for tensor in open_file(path).tensors("model").values():
                array_of(tensor)
        except ValueError as error:
            errors.append(str(error))
    assert len(errors) > 50
    assert all(str(path) in error for error in errors)
