"""BLIP's forms in plain PyTorch, over the original's tensor names: a second statement of what they compute.

Nothing here is shared with the package. float64, no dropout; random numbers are inputs.
"""

import torch
from albef_reference import Reference, closed, drawn, soft
from torch.nn.functional import gelu, normalize

SMOOTHING = 0.1
ENCODER, DECODER = "text_encoder.", "text_decoder.bert."


TOWER = (
    ("vision_model.", "visual_encoder."),
    ("post_layernorm", "norm"),
    ("encoder.layers.", "blocks."),
    ("layer_norm", "norm"),
    ("self_attn.projection", "attn.proj"),
    ("self_attn.qkv", "attn.qkv"),
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embedding", "pos_embed"),
    ("embeddings.patch_embedding", "patch_embed.proj"),
)


def original(name):
    """Hugging Face's name of a tensor -> that in the original's file."""
    for theirs, other in TOWER if name.startswith("vision_model.") else ():
        name = name.replace(theirs, other)
    return name


class Blip(Reference):
    """One set of weights; ``sizes``: heads, vision_heads, dec (the id of [DEC]; [ENC] follows), merge."""

    def embedded(self, ids, text):
        x = self.w[f"{text}embeddings.word_embeddings.weight"][ids]
        x = x + self.w[f"{text}embeddings.position_embeddings.weight"][: ids.shape[1]]
        return self.norm(f"{text}embeddings.LayerNorm", x, 1e-12)

    def ffn(self, name, x):
        inner = self.dense(f"{name}.output.dense", gelu(self.dense(f"{name}.intermediate.dense", x)))
        return self.norm(f"{name}.output.LayerNorm", x + inner, 1e-12)

    def read(self, ids, mask, image=None):
        """States of texts, alone or with pictures."""
        x = self.embedded(ids, ENCODER)
        for n in range(self.depth("text_encoder.encoder.layer")):
            x = self.layer(f"text_encoder.encoder.layer.{n}", x, closed(mask), image)
        return x

    def written(self, ids, states, mask=None, shared=DECODER):
        """Logits of texts that continue; ``shared``: the stack that has all but self-attention."""
        x, later = self.embedded(ids, shared), ~torch.tril(torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool))
        for n in range(self.depth("text_decoder.bert.encoder.layer")):
            own, rest = f"{DECODER}encoder.layer.{n}", f"{shared}encoder.layer.{n}"
            x = self.attended(f"{own}.attention", x, x, later)
            x = self.attended(f"{rest}.crossattention", x, states, None if mask is None else closed(mask))
            x = self.ffn(rest, x)
        return self.words(x, "text_decoder.", shared)

    def answers(self, d):
        """Logits [B, To, V] at each label."""
        states = self.read(d["ids"], d["mask"], self.image(d["pixels"]))
        start = torch.full((len(d["labels"]), 1), self.sizes["dec"])
        return self.written(torch.cat([start, d["labels"][:, :-1].clamp(min=0)], 1), states, d["mask"])

    def classes(self, d):
        """Logits [B, 2] of sentences about two pictures."""
        first, second = self.image(d["pixels"][:, 0]), self.image(d["pixels"][:, 1])
        x = self.embedded(d["ids"], ENCODER)
        for n in range(self.depth("text_encoder.encoder.layer")):
            layer = f"text_encoder.encoder.layer.{n}"
            x = self.attended(f"{layer}.attention", x, x, closed(d["mask"]))
            name, found = f"{layer}.crossattention", []
            for number, source in enumerate((first, second)):
                q = self.dense(f"{name}.self{number}.query", x)
                k, v = (self.dense(f"{name}.self{number}.{part}", source) for part in ("key", "value"))
                found.append(self.dense(f"{name}.output.dense{number}", self.mix(q, k, v, self.sizes["heads"])))
            merged = f"{name}.output.merge_layer"
            both = (found[0] + found[1]) / 2 if n < self.sizes["merge"] else self.dense(merged, torch.cat(found, -1))
            x = self.ffn(layer, self.norm(f"{name}.output.LayerNorm", x + both, 1e-12))
        return self.dense("cls_head.2", self.dense("cls_head.0", x[:, 0]).relu())


def smoothed(logits, labels):
    """Each label's smoothed loss; 0 where there is none."""
    log = logits.log_softmax(-1)
    hit = -log.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return ((1 - SMOOTHING) * hit - SMOOTHING * log.mean(-1)) * (labels >= 0)


def pair_terms(own, copy, memory, d, alpha):
    """Terms by name, of pre-training or (with pictures in ``d``) of retrieval; and the copy's features."""
    ids, mask, n, retrieval = d["ids"], d["mask"], len(d["ids"]), "picture" in d
    temperature, seen = own.w["temp"].clamp(0.001, 0.5) if "temp" in own.w else 0.07, own.image(d["pixels"])

    def features(system, image):
        texts = system.read(ids, mask)[:, 0]
        return [normalize(system.dense(f"{k}_proj", x), dim=-1) for k, x in (("vision", image[:, 0]), ("text", texts))]

    (v, t), theirs = features(own, seen), [x.detach() for x in features(copy, copy.image(d["pixels"]))]
    images, texts = (torch.cat([x, memory[f"{q}_queue"]]) for x, q in zip(theirs, ("image", "text"), strict=True))
    same, hard = torch.eye(n, dtype=torch.bool), torch.eye(n, len(images), dtype=torch.double)
    if retrieval:
        same = d["picture"][:, None] == d["picture"]
        hard = (d["picture"][:, None] == torch.cat([d["picture"], memory["picture_queue"]])).double()
        hard = hard / hard.sum(1, keepdim=True)
    each, weights = [], []
    for student, teacher, candidates, other in ((v, theirs[0], texts, t), (t, theirs[1], images, v)):
        sim = student @ candidates.T / temperature
        target = alpha * (teacher @ candidates.T / temperature).softmax(1).detach() + (1 - alpha) * hard
        each.append(soft(sim, target).mean())
        likely = (student @ other.T / temperature).softmax(1) if retrieval else sim[:, :n].softmax(1) + 1e-4
        weights.append(likely.detach().masked_fill(same, 0.0))
    other_text, other_image = drawn(weights[0], d["for_images"]), drawn(weights[1], d["for_texts"])
    encoded = torch.cat([torch.full((n, 1), own.sizes["dec"] + 1), ids[:, 1:]], 1)
    pairs = [(encoded, mask, seen), (encoded, mask, seen[other_image]), (encoded[other_text], mask[other_text], seen)]
    itm = [own.dense("itm_head", own.read(*pair)[:, 0]).log_softmax(-1) for pair in pairs]
    terms = {"itc": sum(each) / 2, "itm": -(itm[0][:, 1] + itm[1][:, 0] + itm[2][:, 0]).mean() / 3}
    if not retrieval:
        decoded = torch.cat([torch.full((n, 1), own.sizes["dec"]), ids[:, 1:]], 1)
        labels = ids.masked_fill(mask == 0, -100)[:, 1:]
        lost = smoothed(own.written(decoded, seen, shared=ENCODER)[:, :-1], labels)
        terms["lm"] = lost.sum() / (labels >= 0).sum()
    return terms, theirs
