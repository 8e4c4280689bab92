"""A run on larger pictures whose tower trains: train, answer and export all keep to its size."""

import json

from PIL import Image
from safetensors.numpy import load_file

from instructblip_jax.commands import answer


def test_train_answer_and_export_keep_to_the_runs_size(cli, world, tmp_path, monkeypatch):
    text = (world / "tiny.py").read_text()
    config = tmp_path / "larger.py"
    config.write_text(
        text.replace('"steps": 30', '"steps": 1, "image_size": 32, "trainable": "vision", "remat": "layer"')
    )
    run = tmp_path / "run"
    result = cli("train", f"--config={config}", f"--workdir={run}")
    assert result.code == 0, result.err
    assert json.loads((run / "train.json").read_text())["steps"] == 1
    given = [f"--model={world / 'model'}", f"--workdir={run}"]
    picture = tmp_path / "picture.png"
    Image.new("RGB", (20, 30), "red").save(picture)
    seen: list = []
    monkeypatch.setattr(answer, "answer", lambda model, processor, *_: seen.extend((model, processor)) or [])
    assert cli("answer", *given, f"--image={picture}", "how many ?").code == 0
    assert (seen[0].config.vision.image_size, seen[1].image.height) == (32, 32)
    result = cli("export", *given, f"--out={tmp_path / 'out'}")
    assert result.code == 0, result.err
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert raw["vision_config"]["image_size"] == 32
    before, after = load_file(world / "model" / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    position = "vision_model.embeddings.position_embedding"
    assert (before[position].shape[1], after[position].shape[1]) == (9 + 1, 16 + 1)
    moved = [name for name in before if name != position and (before[name] != after[name]).any()]
    assert "vision_model.embeddings.patch_embedding.weight" in moved
    assert not [name for name in moved if name.startswith("language_model.")]
