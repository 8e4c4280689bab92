"""The command `convert`: its two ways, and what is neither. On .pth files see test_convert_original."""

import json

import ingredients
import pytest
import toys
from tokenizers import Tokenizer


def test_blip2_and_bert_and_another_language_model(cli, tmp_path):
    blip2 = toys.write_model(tmp_path / "blip2", "blip-2")
    words = Tokenizer.from_file(str(blip2 / "tokenizer.json")).get_vocab_size()
    bert = ingredients.write_bert(tmp_path)
    t5 = ingredients.write_plain_t5(tmp_path / "t5", words - 1)
    given = ["convert", f"--blip2={blip2}", f"--bert={bert}"]
    plain = cli(*given, f"--out={tmp_path / 'plain'}", f"--json={tmp_path / 'j'}")
    assert (plain.code, plain.err) == (0, "")
    report = json.loads((tmp_path / "j").read_text())
    assert f"{report['tensors']:,} tensors" in plain.out
    assert report["files"].keys() == {"model.safetensors"}
    other = cli(*given, f"--language_model={t5}", f"--out={tmp_path / 'other'}", "--max_shard_gb=0.00002")
    assert (other.code, other.err) == (0, "")
    assert len(list((tmp_path / "other").glob("model-*.safetensors"))) == other.out.count(".safetensors") > 2
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("plain", "other")]
    assert [config["text_config"]["d_model"] for config in configs] == [16, ingredients.T5["d_model"]]
    again = cli(*given, f"--out={tmp_path / 'plain'}")
    assert again.code == 1
    assert str(tmp_path / "plain") in again.err
    assert again.err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], ["--out"]),
        (["--out=o"], ["--blip2", "--original", "none of them"]),
        (["--out=o", "--blip2=a"], ["--bert"]),
        (["--out=o", "--bert=a", "--language_model=c"], ["--blip2"]),
        (["--out=o", "--original=a", "--language_model=c"], ["--model"]),
        (["--out=o", "--original=a", "--model=b", "--language_model=c"], ["--language_model"]),
        (["--out=o", "--original=a", "--model=b", "--blip2=c", "--bert=d"], ["--blip2", "--original"]),
        (["--out=o", "--blip2=a", "--bert=b", "more"], ["more"]),
        (["--out=o", "--blip2=a", "--bert=b", "--seed=-1"], ["seed"]),
    ],
    ids=lambda x: " ".join(x),
)
def test_a_wrong_command_line(cli, argv, words):
    result = cli("convert", *argv)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert all(word in result.err for word in words)


@pytest.mark.parametrize("given", [["--blip2={0}/no", "--bert=b"], ["--original=f.pth", "--model={0}/no"]])
def test_what_is_not_there_is_named(cli, tmp_path, given):
    result = cli("convert", f"--out={tmp_path / 'out'}", *[arg.format(tmp_path) for arg in given])
    assert result.code == 1
    assert str(tmp_path / "no") in result.err
    assert not list(tmp_path.iterdir())
