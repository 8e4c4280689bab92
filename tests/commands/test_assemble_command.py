"""The command `assemble`: what it writes and reports, its help, and wrong command lines."""

import json

import ingredients
import pytest
import toys
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from instructblip_jax.convert.ingredients import PARTS, SYSTEMS


def test_it_writes_what_convert_writes(cli, tmp_path):
    blip2 = toys.write_model(tmp_path / "blip2", "blip-2")
    bert = ingredients.write_bert(tmp_path)
    words = Tokenizer.from_file(str(blip2 / "tokenizer.json")).get_vocab_size()
    t5 = ingredients.write_plain_t5(tmp_path / "t5", words - 1)
    given = [f"--blip2={blip2}", f"--bert={bert}", "--seed=3"]
    for extra, other in (([], []), ([f"--language={t5}"], [f"--language_model={t5}"])):
        out = [tmp_path / f"{name}{len(extra)}" for name in ("assemble", "convert")]
        result = cli("assemble", "instructblip", *given, *extra, f"--out={out[0]}", f"--json={tmp_path / 'j'}")
        assert (result.code, result.err) == (0, "")
        assert cli("convert", *given, *other, f"--out={out[1]}").code == 0
        mine, theirs = ({p.relative_to(d): p.read_bytes() for p in d.rglob("*") if p.is_file()} for d in out)
        assert mine == theirs
        report = json.loads((tmp_path / "j").read_text())
        assert f"{report['tensors']:,} tensors" in result.out
        assert report["system"] == "instructblip"
        assert report["parts"].keys() == {"blip2", "bert", "language"} if extra else {"blip2", "bert"}
    again = cli("assemble", "instructblip", *given, f"--out={tmp_path / 'assemble0'}")
    assert again.code == 1
    assert "not empty" in again.err
    assert again.err.count("\n") == 1


def test_a_blip2_of_parts(cli, tmp_path):
    model = toys.write_model(tmp_path / "model")
    words = Tokenizer.from_file(str(model / "tokenizer.json")).get_vocab_size()
    t5 = ingredients.write_plain_t5(tmp_path / "t5", words - 1)
    given = [f"--vision={model}", f"--qformer={model}", f"--language={t5}", "--max_shard_gb=0.00002"]
    result = cli("assemble", "blip-2", *given, f"--out={tmp_path / 'out'}")
    assert (result.code, result.err) == (0, "")
    files = list((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert all(path.name in result.out for path in files)
    assert f"qformer {model}" in result.out
    names = {name for path in files for name in load_file(path)}
    assert "qformer.layernorm.weight" in names
    assert not any("word_embeddings" in name for name in names)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "blip-2"


def test_help_lists_all_systems_and_parts(cli):
    result = cli("assemble", "--help")
    assert result.code == 0
    for system, combinations in SYSTEMS.items():
        for combination in combinations:
            assert f"  {system} {combination}\n" in result.out
    assert all(f"--{part}:" in result.out for part in PARTS)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], ["name the system", "instructblip, blip-2"]),
        (["llavo", "--vision=a"], ["'llavo'", "instructblip, blip-2, llava"]),
        (["instructblip", "--out=o"], ["no part", "--blip2 --bert [--language]"]),
        (["blip-2", "--vision=a", "--language=b", "--audio=c", "--out=o"], ["--audio", "[--vision]"]),
        (["blip-2", "--vision=a", "--language=b"], ["--out"]),
        (["blip-2", "blip", "--vision=a", "--language=b", "--out=o"], ["unexpected blip"]),
        (["blip-2", "--vision=a", "--language=b", "--out=o", "--wings=c"], ["wings"]),
        (["blip-2", "--vision=a", "--language=b", "--out=o", "--seed=-1"], ["seed"]),
    ],
    ids=lambda x: " ".join(x),
)
def test_a_wrong_command_line(cli, argv, words):
    result = cli("assemble", *argv)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert all(word in result.err for word in words), result.err


def test_what_is_not_there_is_named(cli, tmp_path):
    given = [f"--vision={tmp_path / 'no'}", "--language=l", f"--out={tmp_path / 'out'}"]
    result = cli("assemble", "blip-2", *given)
    assert result.code == 1
    assert str(tmp_path / "no") in result.err
    assert not list(tmp_path.iterdir())
