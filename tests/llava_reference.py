"""LLaVA as transformers has it on PyTorch: random checkpoints in its layouts, and what it answers. Imports torch."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import checkpoints
import numpy as np
from reference import torch, transformers
from safetensors.numpy import save_file


def published(name: str) -> str:
    """A name in memory (transformers 5) -> the name in llava-hf's files."""
    name = re.sub(r"^model\.language_model\.", "language_model.model.", name)
    name = re.sub(r"^lm_head\.", "language_model.lm_head.", name)
    name = re.sub(r"^model\.vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.", name)
    return name.removeprefix("model.") if name.startswith(("model.vision_tower.", "model.multi_modal")) else name


def fresh(name: str) -> str:
    """The name in a file that transformers 5 writes of a model that it did not load."""
    return published(name).replace("vision_tower.vision_model.", "vision_tower.")


def write(directory: Path, raw: dict, seed: int, spelled: Callable[[str], str] = published) -> Path:
    """``config.json`` and weights, whole: the tower's last layer and norm are among them, which LLaVA does not read."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(raw))
    model = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig.from_pretrained(directory))
    tensors = {}
    for name, x in model.state_dict().items():
        values = checkpoints.values(published(name), tuple(x.shape), seed)
        if published(name) == "multi_modal_projector.linear_2.weight" and raw["projector_hidden_act"] == "linear":
            values = np.eye(len(values), dtype=np.float32)
        tensors[spelled(name)] = values
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def load(directory: Path):
    """The model in float32 and evaluation mode. Fails when a tensor is missing, unexpected or mis-shaped."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model, report = transformers.LlavaForConditionalGeneration.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    wrong = {key: report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[key]}
    assert not wrong, wrong
    return model.eval()


def inputs(batch: Mapping[str, np.ndarray], pictures: list[int]) -> dict:
    """Our batch in their form: the pictures of all rows in one list, channels first; positions count real tokens."""
    theirs = {name: torch.from_numpy(x).long() for name, x in batch.items() if name != "pixel_values"}
    shown = [batch["pixel_values"][row, n] for row, count in enumerate(pictures) for n in range(count)]
    theirs["pixel_values"] = torch.from_numpy(np.moveaxis(np.stack(shown), -1, -3).copy())
    return theirs


def answers(model, theirs: dict) -> dict[str, np.ndarray]:
    """features [N, P, D], logits, loss, and "grad/NAME" by published names, of all that has a gradient."""
    model.zero_grad(set_to_none=True)
    positions = (theirs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    # Labels shifted here: a row padded on the left must not predict its first token from padding.
    result = model(**theirs, position_ids=positions)
    result.loss.backward()
    features = model.get_image_features(pixel_values=theirs["pixel_values"]).pooler_output
    out = {"features": torch.stack(list(features)), "logits": result.logits, "loss": result.loss}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            out[f"grad/{published(name)}"] = parameter.grad
    return {name: x.detach().numpy() for name, x in out.items()}


def generate(model, theirs: dict, **options) -> np.ndarray:
    """New tokens [B * num_return_sequences, T]; the prompts are padded on the left."""
    known = theirs["input_ids"].shape[1]
    with torch.no_grad():
        ids = model.generate(**theirs, do_sample=False, **({"num_beams": 1} | options))
    return ids[:, known:].numpy()
