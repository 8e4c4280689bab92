"""The shipped parts of the digits world's four senses: small, right for their words, and able to tell digits."""

import json
import runpy
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from flax import nnx
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from instructblip_jax import embedded
from instructblip_jax.convert.parts import beats, llama, point_bert
from instructblip_jax.datasets.digits import questions, senses
from instructblip_jax.models.towers.beats import Beats
from instructblip_jax.models.towers.point_bert import PointBert

FOLDERS = {"digits_voices": 1_500_000, "digits_beats": 500_000, "digits_point_bert": 500_000, "digits_senses": 500_000}


@pytest.fixture(scope="module", autouse=True)
def tools():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(toys.ROOT / "tools"))
        yield


def config_of(folder: str, part):
    path = embedded.ASSETS / folder / "config.json"
    return part.read_config(path, json.loads(path.read_text()))


def loaded(folder: str, rules) -> dict:
    """The parameters of a part that ships, as an nnx pure dict; ``rules``: its table of names."""
    (path,) = (embedded.ASSETS / folder).glob("*.safetensors")
    stored = {name: np.asarray(x, np.float32) for name, x in load_file(path).items()}
    found = {}
    for rule in rules:
        names = [rule.theirs.replace("{layer}", str(n)) for n in range(len(stored))]
        read = [rule.transform.read(stored[name]) for name in dict.fromkeys(names) if name in stored]
        found[rule.ours] = jnp.asarray(np.stack(read) if rule.stacked else read[0])
    return unflatten_dict(found, sep="/")


def test_it_is_small():
    sizes = {
        name: sum(path.stat().st_size for path in (embedded.ASSETS / name).rglob("*") if path.is_file())
        for name in FOLDERS
    }
    assert all(sizes[name] < most for name, most in FOLDERS.items()), sizes
    assert sum(sizes.values()) < 3_000_000


def test_the_language_model_knows_all_words_and_compares_what_vectors_say():
    """Chance is 10 percent for a digit and 50 for the rest; no tower's output is in its texts."""
    import digits_senses_llama
    import digits_towers

    words = Tokenizer.from_file(str(embedded.ASSETS / "digits_senses" / "tokenizer.json"))
    assert {f"▁{word}" for word in (*questions.words(), "image", "video", "audio", "3d")} <= set(words.get_vocab())
    graph, _ = nnx.split(digits_towers.small_llama(words).build(dtype=jnp.float32, rngs=nnx.Rngs(0)))
    params = loaded("digits_senses", llama.rules("", ""))
    right = digits_senses_llama.accuracy(graph, params, words, rows=100)
    assert min(right.values()) >= 0.95, right


@pytest.mark.parametrize(
    ("folder", "part", "tower", "drawn"),
    [("digits_beats", beats, Beats, "clips"), ("digits_point_bert", point_bert, PointBert, "clouds")],
)
def test_a_tower_tells_digits_of_voices_and_hands_that_it_never_met(folder, part, tower, drawn):
    """Each test example is called what the nearest mean of training examples is; chance is 10 percent."""
    import digits_senses

    config = config_of(folder, part)
    graph, _ = nnx.split(tower(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    params = loaded(folder, part.rules(config, "", ""))
    run = jax.jit(lambda media: nnx.merge(graph, params)(media).mean(1))
    (known, named), (new, wanted) = (getattr(digits_senses, drawn)(split, 120, 3) for split in ("train", "test"))
    known, new = np.asarray(run(known)), np.asarray(run(new))
    means = np.stack([known[named == digit].mean(0) for digit in range(10)])
    means, new = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (means - known.mean(0), new - known.mean(0)))
    assert np.mean(np.argmax(new @ means.T, 1) == wanted) > 0.8


def test_the_model_is_put_together_of_what_ships_and_of_a_model_that_is_put_together_first(tmp_path, monkeypatch):
    commands = []

    def assembled(command, **options):
        out = Path(command[-1].removeprefix("--out="))
        out.mkdir()
        (out / "config.json").write_text("{}")
        commands.append(command[4:-1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(embedded.subprocess, "run", assembled)
    made = embedded.model("digits-x")
    assert embedded.model("digits-x") == made
    (first, *_), (second, *parts) = commands
    assert (first, second) == ("blip-2", "x-instructblip")
    two = embedded.model("digits-two-queries")
    assert {f"--image={two}", f"--video={two}", f"--audio={embedded.ASSETS / 'digits_beats'}"} <= set(parts)
    assert len(commands) == 2  # nothing is assembled again


def test_each_run_trains_one_modality_on_one_sense(monkeypatch):
    monkeypatch.setattr(embedded, "model", lambda name: embedded.ASSETS / "digits")
    get_config = runpy.run_path(str(toys.ROOT / "configs" / "digits_x.py"))["get_config"]
    runs = {name: get_config(name) for name in ("image", "audio", "video", "pc")}
    assert [run.trainable for run in runs.values()] == [f"qformer_{name}" for name in runs]
    assert [run.mixture.sets for run in runs.values()] == [(s, f"{s}{senses.FACTS}") for s in senses.SENSES]
    with pytest.raises(ValueError, match="it has image, audio, video, pc"):
        get_config("touch")
