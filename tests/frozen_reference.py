"""Frozen on PyTorch: NF-ResNet written out, and transformers' LLaMA over the vectors that it makes. Imports torch."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from reference import torch, transformers
from safetensors.numpy import load_file
from torch.nn import functional

GAMMA, ALPHA = 1.7139588594436646, 0.2


class Tower:
    """NF-ResNet over named parameters (``vision_model.*``)."""

    def __init__(self, parameters: Mapping, widths: list[int], depths: list[int]):
        self.p, self.widths, self.depths = parameters, widths, depths

    def conv(self, name, x, stride=1):
        weight = self.p[f"vision_model.{name}.weight"]
        rows = weight.flatten(1)
        variance, mean = torch.var_mean(rows, 1, unbiased=False)
        scale = self.p[f"vision_model.{name}.gain"] / torch.sqrt((variance * rows.shape[1]).clamp(min=1e-4))
        weight = ((rows - mean[:, None]) * scale[:, None]).reshape(weight.shape)
        return functional.conv2d(same(x, weight.shape[-1], stride), weight, self.p[f"vision_model.{name}.bias"], stride)

    def __call__(self, x):
        act = lambda t: torch.relu(t) * GAMMA
        x = self.conv("stem", x, 2)
        x = functional.max_pool2d(same(x, 3, 2, -math.inf), 3, 2)
        expected = 1.0
        for stage, depth in enumerate(self.depths):
            for n in range(depth):
                name, stride = f"blocks.{stage}.{n}", 2 if stage and not n else 1
                h = act(x) / math.sqrt(expected)
                beside = (
                    self.conv(f"{name}.shortcut", h, stride) if f"vision_model.{name}.shortcut.gain" in self.p else x
                )
                h = self.conv(f"{name}.conv1", act(self.conv(f"{name}.conv0", h)), stride)
                h = self.conv(f"{name}.conv2", act(h))
                x = beside + ALPHA * self.p[f"vision_model.{name}.skip_gain"] * h
                expected = (expected if n else 1.0) + ALPHA**2
        return act(x).mean((2, 3))


def same(x, size, stride, value=0.0):
    """Padding for ceil(side / stride) places, the odd one on the right and at the bottom."""
    pads = []
    for side in (x.shape[-1], x.shape[-2]):
        total = max((-(-side // stride) - 1) * stride + size - side, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads, value=value)


def answers(directory: Path, raw: dict, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Vectors, logits, loss and gradients ("grad/NAME") of a batch, by the tensors in a directory."""
    parameters = {name: torch.from_numpy(x) for name, x in load_file(directory / "model.safetensors").items()}
    trained = [name for name in parameters if not name.startswith("language_model.")]
    for name in trained:
        parameters[name].requires_grad_(True)
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**raw["text_config"], attn_implementation="eager")
    ).eval()
    state = {n.removeprefix("language_model."): x for n, x in parameters.items() if n.startswith("language_model.")}
    llama.load_state_dict(state)
    pixels = torch.from_numpy(np.moveaxis(batch["pixel_values"], -1, -3).copy())
    section = raw["vision_config"]
    pooled = Tower(parameters, section["widths"], section["depths"])(pixels.flatten(0, 1))
    vectors = functional.linear(pooled, parameters["prefix.weight"], parameters["prefix.bias"])
    vectors = vectors.reshape(*pixels.shape[:2], raw["prefix_vectors"], -1)
    ids, mask = torch.from_numpy(batch["input_ids"]).long(), torch.from_numpy(batch["attention_mask"]).long()
    places = ids == raw["image_token_id"]
    rows = []
    for row, here in enumerate(places):
        words = llama.get_input_embeddings()(ids[row].masked_fill(here, 0)).detach()
        order = here.cumsum(0) - 1
        rows.append(torch.where(here[:, None], vectors[row].flatten(0, 1)[order.clamp(min=0)], words))
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = llama(inputs_embeds=torch.stack(rows), attention_mask=mask, position_ids=positions).logits
    labels = torch.from_numpy(batch["labels"]).long()
    loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    grads = torch.autograd.grad(loss, [parameters[name] for name in trained])
    found = {"vectors": vectors, "logits": logits, "loss": loss}
    found |= {f"grad/{name}": grad for name, grad in zip(trained, grads, strict=True)}
    return {name: x.detach().numpy() for name, x in found.items()}
