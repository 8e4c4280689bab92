"""X-InstructBLIP on PyTorch: prompts put together row by row, transformers' Q-Former and LLaMA. Imports torch.

The towers' outputs are given: they have references of their own.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from reference import torch, transformers
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from torch.nn import functional

TRAINED = re.compile("(image|video|audio|pc)_(ln|Qformer|query_tokens|llm_proj)")
CUES = {"image": " image: ", "pc": " 3d: ", "video": " video: ", "audio": " audio: "}


class Asked(NamedTuple):
    """A row: its media, (modality, the tower's tokens [(F,) P, D]) in reading order, and its texts."""

    media: Sequence[tuple[str, np.ndarray]]
    text: str
    answer: str


class Reference:
    """The model of a directory."""

    def __init__(self, directory: Path):
        self.raw = json.loads((directory / "config.json").read_text())
        self.p = {name: torch.from_numpy(x) for name, x in load_file(directory / "model.safetensors").items()}
        self.words = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.pieces = Tokenizer.from_file(str(directory / "qformer_tokenizer" / "tokenizer.json"))
        self.trained = [name for name in self.p if TRAINED.match(name)]
        for name in self.trained:
            self.p[name].requires_grad_(True)
        self.llama = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**self.raw["text_config"], attn_implementation="eager")
        ).eval()
        prefix = "language_model."
        self.llama.load_state_dict({n.removeprefix(prefix): x for n, x in self.p.items() if n.startswith(prefix)})
        self.llama.requires_grad_(False)

    def vectors(self, modality: str, tokens: np.ndarray, text: str) -> Any:
        """A medium's tokens -> what the language model reads of it, [n, D]."""
        x = torch.from_numpy(np.array(tokens, np.float32))
        x = x[None] if x.ndim == 2 else x
        gain, bias = self.p[f"{modality}_ln.weight"], self.p[f"{modality}_ln.bias"]
        x = functional.layer_norm(x, x.shape[-1:], gain, bias, 1e-5)
        sizes = {**self.raw["qformer_config"], "encoder_hidden_size": x.shape[-1]}
        former = transformers.InstructBlipQFormerModel(
            transformers.InstructBlipQFormerConfig(**sizes, attn_implementation="eager")
        ).eval()
        begin = f"{modality}_Qformer.bert."
        state = {hugging_face(n.removeprefix(begin)): x for n, x in self.p.items() if n.startswith(begin)}
        ids = torch.tensor([self.pieces.encode(text).ids] * len(x))
        queries = self.p[f"{modality}_query_tokens"].expand(len(x), -1, -1)
        seen = torch.ones(len(x), queries.shape[1] + ids.shape[1], dtype=torch.long)
        out = torch.func.functional_call(
            former,
            state,
            (ids,),
            {"attention_mask": seen, "query_embeds": queries, "encoder_hidden_states": x},
        ).last_hidden_state[:, : queries.shape[1]]
        out = functional.linear(out, self.p[f"{modality}_llm_proj.weight"], self.p[f"{modality}_llm_proj.bias"])
        return out.flatten(0, 1)

    def ids(self, text: str) -> list[int]:
        return self.words.encode(text, add_special_tokens=False).ids

    def prompt(self, asked: Asked) -> Any:
        """The language model's input [T, D] up to the answer."""
        form, begin = self.raw["prompt"], self.raw["text_config"]["bos_token_id"]
        table = self.llama.get_input_embeddings()
        found: list[Any] = []
        clean = form.get("clean", False)
        if clean:
            found.append([begin, *self.ids(form["prefix"])])
        for modality, tokens in asked.media:
            cue = CUES[modality]
            found.append(self.ids(cue[1:]) if clean else [begin, *self.ids(cue)])
            found.append(self.vectors(modality, tokens, asked.text))
        found.append(self.ids(asked.text + form["postfix"]) if clean else [begin, *self.ids(asked.text)])
        return torch.cat([x if isinstance(x, torch.Tensor) else table(torch.tensor(x)) for x in found])

    def answered(self, asked: Asked) -> tuple[Any, Any]:
        """Logits at the answer's tokens and the one before them, [1 + n, V], and the answer's ids with the end, [n]."""
        prompt = self.prompt(asked)
        answer = torch.tensor([*self.ids(asked.answer), self.raw["text_config"]["eos_token_id"]])
        embeds = torch.cat([prompt, self.llama.get_input_embeddings()(answer)])
        return self.llama(inputs_embeds=embeds[None]).logits[0, len(prompt) - 1 :], answer

    def loss(self, rows: Sequence[Asked]) -> Any:
        """The mean over all rows' answer tokens."""
        pairs = [self.answered(row) for row in rows]
        logits, answers = torch.cat([x[:-1] for x, _ in pairs]), torch.cat([ids for _, ids in pairs])
        return functional.cross_entropy(logits, answers)

    def generate(self, asked: Asked, **options: Any) -> list[int]:
        """The answer's tokens."""
        text = self.raw["text_config"]
        ends = {"eos_token_id": text["eos_token_id"], "pad_token_id": text["pad_token_id"], "do_sample": False}
        with torch.no_grad():
            return self.llama.generate(inputs_embeds=self.prompt(asked)[None], **ends, **options)[0].tolist()


def hugging_face(name: str) -> str:
    """A Q-Former's tensor by the original's name -> by transformers'."""
    return name.replace("attention.self.", "attention.attention.").replace(
        "embeddings.LayerNorm", "embeddings.layernorm"
    )
