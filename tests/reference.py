"""What PyTorch's transformers makes of a checkpoint directory. The only file of the tests that imports torch.

Answers are computed in float64: two float32 programs differ by the rounding of both, and on logits near 20 that of
transformers alone was seen to reach 2e-5, which is all that a test should allow.
"""

from collections.abc import Mapping
from pathlib import Path

import checkpoints
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the live reference is transformers on PyTorch, which is not installed")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)  # its threads wait for one another by spinning, which a busy machine pays for
CLASSES = {"instructblip": "InstructBlip", "instructblipvideo": "InstructBlipVideo", "blip-2": "Blip2"}
TRAINED = ("query_tokens", "qformer.", "language_projection.", "vision_model.post_layernorm.")
"""Prefixes of the tensors in our `original` trainable set; the default set is the first three."""


def load(directory: Path, dtype=torch.float64, attn_implementation: str | None = "eager"):
    """The model in evaluation mode. Fails when transformers finds a tensor missing, unexpected or mis-shaped."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = transformers.AutoConfig.from_pretrained(directory).model_type
    model, report = getattr(transformers, f"{CLASSES[kind]}ForConditionalGeneration").from_pretrained(
        directory, dtype=dtype, attn_implementation=attn_implementation, output_loading_info=True
    )
    wrong = {key: report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[key]}
    assert not wrong, wrong
    if dtype == torch.float64:
        for module in model.modules():
            if type(module).__name__ in ("T5LayerNorm", "LlamaRMSNorm"):  # means of squares in float32 in any type
                module.forward = _exact_norm.__get__(module)
    if decoder_only(model):
        model.language_model.register_forward_pre_hook(_with_positions, with_kwargs=True)
    return model.eval()


def decoder_only(model) -> bool:
    """Whether its language model is one stack that continues the prompt."""
    return not model.language_model.config.is_encoder_decoder


def _with_positions(language_model, args, kwargs):
    """Positions from the mask, as `generate` and OPT have them: LLaMA's forward alone would count padding."""
    if kwargs.get("position_ids") is None and language_model.config.model_type != "opt":
        positions = kwargs["attention_mask"].cumsum(-1) - 1
        kwargs["position_ids"] = positions.clamp(min=0)[:, -kwargs["inputs_embeds"].shape[1] :]
    return args, kwargs


def _exact_norm(self, x):
    return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))


def inputs(model, batch: Mapping[str, np.ndarray]) -> dict:
    """Our batch in their form: channels first, and placeholders for the visual prompt before the text."""
    out = {k: torch.from_numpy(v).long() for k, v in batch.items() if k != "pixel_values"}
    pixels = batch["pixel_values"]
    out["pixel_values"] = torch.from_numpy(np.moveaxis(pixels, -1, -3).copy()).to(model.dtype)
    video = pixels.ndim == 5
    queries = model.config.num_query_tokens * (pixels.shape[1] if video else 1)
    token = model.config.video_token_index if video else model.config.image_token_index
    image = torch.full((len(pixels), queries), token)
    out["input_ids"] = torch.cat([image, out["input_ids"]], 1)
    out["attention_mask"] = torch.cat([torch.ones_like(image), out["attention_mask"]], 1)
    if "labels" in out and decoder_only(model):
        out["labels"] = torch.cat([torch.full_like(image, -100), out["labels"]], 1)
    return out


def answers(model, theirs: dict, trained: tuple[str, ...] = TRAINED, **options) -> dict[str, np.ndarray]:
    """Inputs in their form -> vision, qformer (queries only), prefix, T5's encoder, logits (at the text positions, if
    decoder-only), loss, and "grad/NAME" for every tensor with a prefix in ``trained``, all as float32."""
    model.zero_grad(set_to_none=True)
    result = model(**theirs, **options)
    result.loss.backward()
    queries = result.qformer_outputs.last_hidden_state[:, : model.config.num_query_tokens]
    width = model.language_projection.out_features
    out = {
        "vision": result.vision_outputs.last_hidden_state,
        "qformer": queries,
        "prefix": model.language_projection(queries).reshape(len(theirs["input_ids"]), -1, width),
        "logits": result.logits,
        "loss": result.loss,
    }
    if decoder_only(model):
        out["logits"] = result.logits[:, out["prefix"].shape[1] :]
    else:
        out["encoder"] = result.language_model_outputs.encoder_last_hidden_state
    for name, parameter in model.named_parameters():
        if name.startswith(trained):
            out[f"grad/{name}"] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return {name: x.detach().float().numpy() for name, x in out.items()}


def greedy_ids(model, batch: Mapping[str, np.ndarray], length: int) -> np.ndarray:
    """New tokens [B, T], filled with the pad id after the end token; T, at most ``length``, is the longest row's."""
    return generate(model, batch, max_new_tokens=length)


def generate(model, batch: Mapping[str, np.ndarray], *, do_sample: bool = False, **options) -> np.ndarray:
    """New tokens [B * num_return_sequences, T], without T5's start token or the prompt of a decoder-only model.

    A decoder-only model reads the text with its padding on the left, as their processor puts it, and the answers in it.
    """
    if decoder_only(model):
        batch = checkpoints.rearranged(dict(batch), "left", ("attention_mask",))
    prompt = {name: x for name, x in inputs(model, batch).items() if name != "labels"}
    known = prompt["input_ids"].shape[1] if decoder_only(model) else 1  # the start token
    with torch.no_grad():
        ids = model.generate(**prompt, do_sample=do_sample, **({"num_beams": 1} | options))
    return ids[:, known:].numpy()


def next_token_probabilities(model, batch: Mapping[str, np.ndarray], written: list[int], **options) -> np.ndarray:
    """What sampling with these options draws the token after ``written`` from: [V], for a batch of one row."""
    prompt = {name: x for name, x in inputs(model, batch).items() if name != "labels"}
    steps = len(written) + 1
    force = transformers.LogitsProcessorList([_Forced(written)])
    with torch.no_grad():
        result = model.generate(
            **prompt,
            do_sample=True,
            max_new_tokens=steps,
            min_new_tokens=steps,
            eos_token_id=10**6,
            logits_processor=force,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
    assert result.sequences[0, -steps:-1].tolist() == written
    return result.scores[-1][0].double().softmax(-1).numpy()


class _Forced(transformers.LogitsProcessor):
    """Makes the first tokens the ones that are given."""

    def __init__(self, ids: list[int]):
        self.ids, self.step = ids, 0

    def __call__(self, input_ids, scores):
        if self.step < len(self.ids):
            scores = torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([self.ids[self.step]]), 0.0)
        self.step += 1
        return scores


def label_log_probabilities(model, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """log-probability of every counted label of a batch of one row, in order."""
    theirs = inputs(model, batch)
    with torch.no_grad():
        logits = model(**theirs).logits[0].double()
    labels = theirs["labels"][0]
    if decoder_only(model):  # there logits are of the token after theirs
        logits, labels = logits[:-1], labels[1:]
    chosen = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[:, None])[:, 0]
    return chosen[labels != -100].numpy()


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


def cross_attention(model, batch: Mapping[str, np.ndarray], *, text: bool) -> np.ndarray:
    """The Q-Former's last cross-attention over image tokens, the mean over heads: [B * F, Q, P]; ``text``: the
    instruction of the batch is read."""
    pixels = torch.from_numpy(np.moveaxis(batch["pixel_values"], -1, -3).copy()).to(model.dtype)
    image = model.vision_model(pixels.reshape(-1, *pixels.shape[-3:])).last_hidden_state
    queries = model.query_tokens.expand(len(image), -1, -1)
    read: dict = {"query_embeds": queries, "encoder_hidden_states": image, "output_attentions": True}
    if text:
        frames = len(image) // len(pixels)
        ids, mask = (
            torch.from_numpy(batch[f"qformer_{name}"]).long().repeat_interleave(frames, 0)
            for name in ("input_ids", "attention_mask")
        )
        read |= {"input_ids": ids, "attention_mask": torch.cat([torch.ones(queries.shape[:2]).long(), mask], 1)}
    elif model.config.model_type != "blip-2":
        read |= {"input_ids": None, "attention_mask": torch.ones(queries.shape[:2]).long()}
    with torch.no_grad():
        return model.qformer(**read).cross_attentions[-1].mean(1).float().numpy()
