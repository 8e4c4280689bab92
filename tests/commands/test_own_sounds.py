"""Sounds of one's own, from a public BEATs file and a list of recordings to an evaluated model that answers."""

import json
import wave

import ingredients
import numpy as np
import pytest
import x_toys
from PIL import Image
from safetensors.numpy import load_file

import instructblip_jax as ib
from instructblip_jax.convert.layouts.x_instructblip import trained_names

CONFIG = """
from instructblip_jax.recipes.instructblip import own_data

def get_config():
    config = own_data("{model}", sets=("own",))
    config.steps, config.batch_size, config.dtype = 2, 8, "float32"
    config.trainable = "qformer_audio"
    config.mesh = {{"data": 4, "fsdp": 2, "tensor": 1}}
    config.optim.learning_rate, config.optim.warmup_steps = 0.01, 0
    config.data.directory, config.data.features = "{root}", "{root}/features"
    config.data.instruction_lengths, config.data.response_lengths = (48,), (8,)
    config.evaluation.held_out, config.evaluation.max_new_tokens = ("own",), 3
    return config
"""
ASKED = "a cab"


def write_sounds(folder):
    """Five recordings, one of them empty, and the list that asks about them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(5):
        with wave.open(str(folder / f"{n}.wav"), "wb") as sound:
            sound.setparams((1, 2, 16000, 0, "NONE", ""))
            sound.writeframes(rng.integers(-9000, 9000, 4000 * (n < 4)).astype("<i2").tobytes())
    rows = [{"audio": f"{n}.wav", "instruction": ASKED, "answer": "abc"[n % 3]} for n in range(5)]
    for split, chosen in (("train", [*rows[:3], rows[4]]), ("test", rows[3:4])):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, chosen)))


def write_beats(path, torch):
    """A tower as BEATs' authors publish theirs."""
    tower = x_toys.write_tower(path.with_suffix(""), "audio", input_patch_size=16)
    cfg = json.loads((tower / "config.json").read_text())
    tensors = {name: torch.from_numpy(x.copy()) for name, x in load_file(tower / "model.safetensors").items()}
    torch.save({"cfg": {name: cfg[name] for name in x_toys.BEATS}, "model": tensors}, path)
    return path


@pytest.mark.long
def test_from_a_public_file_and_a_list_of_recordings_to_answers(cli, tmp_path):
    torch = pytest.importorskip("torch")
    language = ingredients.write_plain_llama(tmp_path / "llama")
    bert = ingredients.write_bert(tmp_path / "bert")
    beats, model = write_beats(tmp_path / "BEATs.pt", torch), tmp_path / "model"
    parts = (f"--language={language}", f"--bert={bert}", f"--audio={beats}", "--queries=3")
    result = cli("assemble", "x-instructblip", *parts, f"--out={model}")
    assert result.code == 0, result.err

    write_sounds(tmp_path / "mine")
    given = (f"--source={tmp_path / 'mine'}", "--name=own", f"--out={tmp_path}", f"--json={tmp_path / 'p.json'}")
    result = cli("prepare", "custom", *given)
    assert result.code == 0, result.err
    splits = json.loads((tmp_path / "p.json").read_text())["splits"]
    assert {name: (told["written"], told["skipped"]) for name, told in splits.items()} == {
        "train": (3, 1),
        "test": (1, 0),
    }

    (tmp_path / "mine.py").write_text(CONFIG.format(model=model, root=tmp_path))
    of_run = (f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'run'}")
    assert (result := cli("train", *of_run)).code == 0, result.err
    assert (result := cli("evaluate", *of_run)).code == 0, result.err
    told = json.loads((tmp_path / "run" / "evaluation.json").read_text())["sets"]["own"]
    assert (told["count"], told["metric"]) == (1, "exact_match")

    out = tmp_path / "tuned"
    assert (result := cli("export", f"--model={model}", f"--workdir={tmp_path / 'run'}", f"--out={out}")).code == 0
    before, after = (
        {name: x for file in sorted(at.glob("*.safetensors")) for name, x in load_file(file).items()}
        for at in (model, out)
    )
    changed = {name for name, x in before.items() if not np.array_equal(x, after[name])}
    assert changed
    assert all(name.startswith(trained_names("audio")) for name in changed)

    sound = tmp_path / "mine" / "3.wav"
    asked = (f"--media=audio={sound}", "--dtype=float32", "--max_new_tokens=4", ASKED)
    own = cli("answer", f"--model={model}", f"--workdir={tmp_path / 'run'}", *asked)
    assert (own.code, own.out) == (0, cli("answer", f"--model={out}", *asked).out), own.err
    loaded, processor = ib.from_pretrained(out, dtype="float32"), ib.Processor.from_pretrained(out)
    want = ib.generate(loaded, processor, instructions=[ASKED], media={"audio": [str(sound)]}, max_new_tokens=4)
    assert own.out == f"{want[0]}\n"
    ranked = cli("answer", f"--model={out}", *asked, "--candidates=a,b", f"--json={tmp_path / 'a.json'}")
    assert ranked.code == 0, ranked.err
    (row,) = json.loads((tmp_path / "a.json").read_text())["answers"]
    assert row["media"] == {"audio": [str(sound)]}
    assert {each["candidate"] for each in row["ranking"]} == {"a", "b"}


@pytest.mark.parametrize(
    ("media", "message"),
    [
        ("audio=missing.wav", "missing.wav"),
        ("smell=rose.txt", "smell"),
        ("pc=square.png", "square.png"),
    ],
)
def test_media_that_cannot_be_read_are_named(cli, tmp_path, monkeypatch, media, message):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("square.png")
    model = x_toys.write_model(tmp_path / "model", modalities=("pc", "audio"))
    result = cli("answer", f"--model={model}", f"--media={media}", "which digit ?")
    assert result.code == 1
    assert message in result.err
    assert "Traceback" not in result.err
