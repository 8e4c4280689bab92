"""KOSMOS-2 as transformers has it on PyTorch: random checkpoints, and what it answers. Imports torch."""

import json
from collections.abc import Mapping
from pathlib import Path

import checkpoints
import numpy as np
from reference import torch, transformers
from safetensors.numpy import save_file


def write(directory: Path, raw: dict, seed: int) -> Path:
    """``config.json`` and weights, with a buffer that old files hold on top."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(raw))
    tensors = {name: checkpoints.values(name, x, seed) for name, x in checkpoints.tensor_shapes(directory).items()}
    patches = (raw["vision_config"]["image_size"] // raw["vision_config"]["patch_size"]) ** 2
    tensors["vision_model.model.embeddings.position_ids"] = np.arange(patches + 1)[None]
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def load(directory: Path):
    """The model in float32 and evaluation mode. Fails when a tensor is missing, unexpected or mis-shaped."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model, report = transformers.Kosmos2ForConditionalGeneration.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    report["unexpected_keys"] = [name for name in report["unexpected_keys"] if not name.endswith("position_ids")]
    wrong = {key: report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[key]}
    assert not wrong, wrong
    return model.eval()


def places(raw: Mapping, ids: np.ndarray) -> np.ndarray:
    """True where a picture's vectors stand in tokens [B, T]."""
    slots, where = raw["latent_query_num"], np.zeros(ids.shape, bool)
    for row, start in zip(*np.nonzero(ids == raw["image_begin_token_id"]), strict=True):
        where[row, start + 1 : start + 1 + slots] = True
    return where


def shown(batch: Mapping[str, np.ndarray], pictures: list[int]):
    """The pictures of all rows in one list, channels first."""
    found = [batch["pixel_values"][row, n] for row, count in enumerate(pictures) for n in range(count)]
    return torch.from_numpy(np.moveaxis(np.stack(found), -1, 1).copy())


def answers(model, raw: Mapping, batch: Mapping[str, np.ndarray], pictures: list[int]) -> dict[str, np.ndarray]:
    """features [N, Q, D], logits, loss, and "grad/NAME" of all parameters."""
    model.zero_grad(set_to_none=True)
    texts = {name: torch.from_numpy(x).long() for name, x in batch.items() if name != "pixel_values"}
    where = torch.from_numpy(places(raw, batch["input_ids"]))
    pixels = shown(batch, pictures)
    result = model(pixel_values=pixels, image_embeds_position_mask=where, **texts)
    result.loss.backward()
    features = model.get_image_features(pixels).pooler_output
    out = {"features": features, "logits": result.logits, "loss": result.loss}
    out |= {f"grad/{name}": parameter.grad for name, parameter in model.named_parameters()}
    return {name: x.detach().numpy() for name, x in out.items()}


def generate(model, raw: Mapping, batch: Mapping[str, np.ndarray], pictures: list[int], **options) -> np.ndarray:
    """New tokens [B, T], row by row: their cached generation counts the padding on the left as positions, and their
    beams take the wrong picture where a row has two."""
    rows, lm = [], model.text_model
    with torch.no_grad():
        features = model.get_image_features(shown(batch, pictures)).pooler_output
        for row, count in enumerate(pictures):
            ids = batch["input_ids"][row][batch["attention_mask"][row] == 1]
            embeds = lm.model.embed_tokens(torch.from_numpy(ids).long()[None])
            own, features = features[:count], features[count:]
            embeds[0, torch.from_numpy(places(raw, ids[None])[0])] = own.reshape(-1, embeds.shape[-1])
            mask = torch.ones(1, len(ids), dtype=torch.long)
            options = {"num_beams": 1, "do_sample": False} | options
            rows.append(lm.generate(inputs_embeds=embeds, attention_mask=mask, **options)[0].numpy())
    longest = max(map(len, rows))
    fill = raw["text_config"]["pad_token_id"]
    return np.stack([np.pad(x, (0, longest - len(x)), constant_values=fill) for x in rows])
