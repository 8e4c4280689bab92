"""What PyTorch's transformers makes of a checkpoint directory. The only file of the tests that imports torch.

Answers are computed in float64: two float32 programs differ by the rounding of both, and on logits near 20 that of
transformers alone was seen to reach 2e-5, which is all that a test should allow.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the live reference is transformers on PyTorch, which is not installed")
transformers = pytest.importorskip("transformers")
CLASSES = {"instructblip": "InstructBlipForConditionalGeneration", "blip-2": "Blip2ForConditionalGeneration"}
TRAINED = ("query_tokens", "qformer.", "language_projection.", "vision_model.post_layernorm.")
"""Prefixes of the tensors in our `original` trainable set; the default set is the first three."""


def load(directory: Path, dtype=torch.float64, attn_implementation: str | None = "eager"):
    """The model in evaluation mode. Fails when transformers finds a tensor missing, unexpected or mis-shaped."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = transformers.AutoConfig.from_pretrained(directory).model_type
    model, report = getattr(transformers, CLASSES[kind]).from_pretrained(
        directory, dtype=dtype, attn_implementation=attn_implementation, output_loading_info=True
    )
    wrong = {key: report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[key]}
    assert not wrong, wrong
    if dtype == torch.float64:
        for module in model.modules():
            if type(module).__name__ == "T5LayerNorm":  # takes its mean of squares in float32 whatever the type
                module.forward = _exact_norm.__get__(module)
    return model.eval()


def _exact_norm(self, x):
    return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))


def inputs(model, batch: Mapping[str, np.ndarray]) -> dict:
    """Our batch in their form: channels first, and placeholders for the visual prompt before the text."""
    rows, queries = len(batch["input_ids"]), model.config.num_query_tokens
    out = {k: torch.from_numpy(v).long() for k, v in batch.items() if k != "pixel_values"}
    out["pixel_values"] = torch.from_numpy(batch["pixel_values"].transpose(0, 3, 1, 2).copy()).to(model.dtype)
    image = torch.full((rows, queries), model.config.image_token_index)
    out["input_ids"] = torch.cat([image, out["input_ids"]], 1)
    out["attention_mask"] = torch.cat([torch.ones_like(image), out["attention_mask"]], 1)
    return out


def answers(model, theirs: dict) -> dict[str, np.ndarray]:
    """Inputs in their form -> vision, qformer (queries only), prefix, encoder, logits, loss, and "grad/NAME" for every
    tensor of the `original` trainable set, all as float32."""
    model.zero_grad(set_to_none=True)
    result = model(**theirs)
    result.loss.backward()
    queries = result.qformer_outputs.last_hidden_state[:, : model.config.num_query_tokens]
    out = {
        "vision": result.vision_outputs.last_hidden_state,
        "qformer": queries,
        "prefix": model.language_projection(queries),
        "encoder": result.language_model_outputs.encoder_last_hidden_state,
        "logits": result.logits,
        "loss": result.loss,
    }
    for name, parameter in model.named_parameters():
        if name.startswith(TRAINED):
            out[f"grad/{name}"] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return {name: x.detach().float().numpy() for name, x in out.items()}


def greedy_ids(model, batch: Mapping[str, np.ndarray], length: int) -> np.ndarray:
    """New tokens [B, T], filled with the pad id after the end token; T, at most ``length``, is the longest row's."""
    prompt = {name: x for name, x in inputs(model, batch).items() if name != "labels"}
    with torch.no_grad():
        return model.generate(**prompt, do_sample=False, num_beams=1, max_new_tokens=length)[:, 1:].numpy()


def freeze(model) -> dict:
    """Only Q-Former, query tokens and projection take gradients any more: these parameters by name."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED[:3]))
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def adamw(trained: dict, optim):
    """AdamW with the settings of an `OptimConfig`; vectors (biases and norms) do not decay."""
    groups = [
        {"params": [p for p in trained.values() if p.ndim > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in trained.values() if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optim.learning_rate, betas=(optim.beta1, optim.beta2), eps=optim.epsilon)


def train_step(model, optimizer, theirs: dict, clip_norm: float = 0.0) -> tuple[float, float]:
    """One step on inputs in their form: the loss, and the gradient's norm before clipping (0 without)."""
    optimizer.zero_grad(set_to_none=True)
    loss = model(**theirs).loss
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm).item() if clip_norm else 0.0
    optimizer.step()
    return loss.item(), norm
