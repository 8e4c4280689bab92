"""ALBEF's forms in plain PyTorch, over the original's tensor names: a second statement of what they compute.

Nothing here is shared with the package. float64, no dropout; random numbers are inputs.
"""

import torch
from torch.nn.functional import gelu, layer_norm, normalize

CLS, MASK = 2, 4
TERMS = ("itc", "itm", "mlm")


class Reference:
    """One set of weights: original name -> float64 tensor. ``sizes``: heads, vision_heads, fusion."""

    def __init__(self, weights, sizes):
        self.w, self.sizes = weights, sizes
        self.text = (
            "text_encoder.bert." if any(n.startswith("text_encoder.bert.") for n in weights) else "text_encoder."
        )

    def dense(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, name, x, eps):
        return layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps)

    @staticmethod
    def mix(q, k, v, heads, hidden=None):
        """hidden: bool, broadcast to [B, heads, Tq, Tk], true where nothing is seen."""
        q, k, v = (x.reshape(len(x), x.shape[1], heads, -1).movedim(2, 1) for x in (q, k, v))
        scores = q @ k.mT / q.shape[-1] ** 0.5
        if hidden is not None:
            scores = scores.masked_fill(hidden, -1e30)
        return (scores.softmax(-1) @ v).movedim(1, 2).flatten(2)

    def image(self, pixels):
        w, side = self.w, self.w["visual_encoder.patch_embed.proj.weight"].shape[-1]
        x = torch.nn.functional.conv2d(
            pixels, w["visual_encoder.patch_embed.proj.weight"], w["visual_encoder.patch_embed.proj.bias"], stride=side
        )
        x = x.flatten(2).mT
        x = torch.cat([w["visual_encoder.cls_token"].expand(len(x), 1, -1), x], 1) + w["visual_encoder.pos_embed"]
        for n in range(self.depth("visual_encoder.blocks")):
            block = f"visual_encoder.blocks.{n}"
            q, k, v = self.dense(f"{block}.attn.qkv", self.norm(f"{block}.norm1", x, 1e-6)).chunk(3, -1)
            x = x + self.dense(f"{block}.attn.proj", self.mix(q, k, v, self.sizes["vision_heads"]))
            inner = gelu(self.dense(f"{block}.mlp.fc1", self.norm(f"{block}.norm2", x, 1e-6)))
            x = x + self.dense(f"{block}.mlp.fc2", inner)
        return self.norm("visual_encoder.norm", x, 1e-6)

    def depth(self, prefix):
        return 1 + max(int(name.removeprefix(f"{prefix}.").split(".")[0]) for name in self.w if name.startswith(prefix))

    def embedded(self, ids, text):
        rows = [self.w[f"{text}embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")]
        x = rows[0][ids] + rows[1][: ids.shape[1]] + rows[2][0]
        return self.norm(f"{text}embeddings.LayerNorm", x, 1e-12)

    def attended(self, name, x, source, hidden, shared=None):
        """shared: the block whose key and value projections are used."""
        q, k, v = (
            self.dense(f"{block}.self.{part}", y)
            for block, part, y in (
                (name, "query", x),
                (shared or name, "key", source),
                (shared or name, "value", source),
            )
        )
        mixed = self.dense(f"{name}.output.dense", self.mix(q, k, v, self.sizes["heads"], hidden))
        return self.norm(f"{name}.output.LayerNorm", x + mixed, 1e-12)

    def layer(self, name, x, hidden, context=None, context_hidden=None, shared=None):
        x = self.attended(f"{name}.attention", x, x, hidden)
        if context is not None:
            x = self.attended(f"{name}.crossattention", x, context, context_hidden, shared)
        inner = self.dense(f"{name}.output.dense", gelu(self.dense(f"{name}.intermediate.dense", x)))
        return self.norm(f"{name}.output.LayerNorm", x + inner, 1e-12)

    def read(self, ids, mask):
        x = self.embedded(ids, self.text)
        for n in range(self.sizes["fusion"]):
            x = self.layer(f"{self.text}encoder.layer.{n}", x, closed(mask))
        return x

    def fused(self, x, mask, image):
        for n in range(self.sizes["fusion"], self.depth(f"{self.text}encoder.layer")):
            x = self.layer(f"{self.text}encoder.layer.{n}", x, closed(mask), image)
        return x

    def fused_pairs(self, x, mask, images):
        start = self.sizes["fusion"]
        for n in range(start, self.depth(f"{self.text}encoder.layer")):
            shared = f"{self.text}encoder.layer.{n - (n - start) % 2}.crossattention"
            x = self.layer(f"{self.text}encoder.layer.{n}", x, closed(mask), images[:, (n - start) % 2], shared=shared)
        return x

    def words(self, x, coder, text):
        head = f"{coder}cls.predictions"
        x = self.norm(f"{head}.transform.LayerNorm", gelu(self.dense(f"{head}.transform.dense", x)), 1e-12)
        return x @ self.w[f"{text}embeddings.word_embeddings.weight"].T + self.w[f"{head}.bias"]

    def features(self, image, text):
        return [normalize(self.dense(f"{n}_proj", x[:, 0]), dim=-1) for n, x in (("vision", image), ("text", text))]

    def answer_logits(self, d):
        """Logits [B, To, V] at each label."""
        states = self.fused(self.read(d["ids"], d["mask"]), d["mask"], self.image(d["pixels"]))
        ids = torch.cat([torch.full((len(d["labels"]), 1), CLS), d["labels"][:, :-1].clamp(min=0)], 1)
        x, text = self.embedded(ids, "text_decoder.bert."), "text_decoder.bert."
        later = ~torch.tril(torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool))
        for n in range(self.depth(f"{text}encoder.layer")):
            x = self.layer(f"{text}encoder.layer.{n}", x, later, states, closed(d["mask"]))
        return self.words(x, "text_decoder.", text)

    def class_logits(self, d):
        pixels = d["pixels"]
        image = self.image(pixels.reshape(-1, *pixels.shape[-3:])).reshape(*pixels.shape[:-3], -1, self.width)
        x = self.read(d["ids"], d["mask"])
        x = self.fused_pairs(x, d["mask"], image) if image.ndim == 4 else self.fused(x, d["mask"], image)
        return self.dense("cls_head.2", self.dense("cls_head.0", x[:, 0]).relu())

    @property
    def width(self):
        return self.w["visual_encoder.pos_embed"].shape[-1]


def closed(mask):
    return (mask == 0)[:, None, None, :]


def soft(logits, target):
    """Cross-entropy with a distribution, one number a row or position."""
    return -(target * logits.log_softmax(-1)).sum(-1)


def distilled(logits, labels, taught, alpha):
    """Sum over the labelled positions of each row."""
    hard = -logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    each = (1 - alpha) * hard + alpha * soft(logits, taught.detach().softmax(-1))
    return (each * (labels >= 0)).sum(-1)


def drawn(weights, uniform):
    """The first column whose share of the row's weight, summed up to it, exceeds the row's number."""
    return torch.tensor(
        [
            next(j for j in range(len(row)) if row[: j + 1].sum() > u * row.sum())
            for row, u in zip(weights, uniform, strict=True)
        ]
    )


def pair_terms(own, copy, memory, d, alpha):
    """Terms by name, of pre-training or (with pictures in ``d``) of retrieval; and the copy's features."""
    ids, mask, n = d["ids"], d["mask"], len(d["ids"])
    temperature = own.w["temp"]
    image, text = own.image(d["pixels"]), own.read(ids, mask)
    copied = copy.image(d["pixels"]), copy.read(ids, mask)
    (v, t), theirs = own.features(image, text), [x.detach() for x in copy.features(*copied)]
    images, texts = (torch.cat([x, memory[f"{q}_queue"]]) for x, q in zip(theirs, ("image", "text"), strict=True))
    same = torch.eye(n, dtype=torch.bool)
    hard = torch.cat([torch.eye(n), torch.zeros(n, len(images) - n)], 1)
    if "picture" in d:
        same = d["picture"][:, None] == d["picture"]
        hard = (d["picture"][:, None] == torch.cat([d["picture"], memory["picture_queue"]])).double()
        hard = hard / hard.sum(1, keepdim=True)
    each, weights = [], []
    for student, teacher, candidates in ((v, theirs[0], texts), (t, theirs[1], images)):
        sim = student @ candidates.T / temperature
        target = alpha * (teacher @ candidates.T / temperature).softmax(1).detach() + (1 - alpha) * hard
        each.append(soft(sim, target).mean())
        weights.append(sim[:, :n].detach().softmax(1).masked_fill(same, 0.0))
    other_text, other_image = drawn(weights[0], d["text"]), drawn(weights[1], d["image"])
    pairs = [(text, mask, image), (text, mask, image[other_image]), (text[other_text], mask[other_text], image)]
    itm = [own.dense("itm_head", own.fused(*pair)[:, 0]).log_softmax(-1) for pair in pairs]
    terms = {"itc": sum(each) / 2, "itm": -(itm[0][:, 1] + itm[1][:, 0] + itm[2][:, 0]).mean() / 3}
    if "picture" not in d:
        guessed = (d["mask_"] < 0.15) & (mask == 1) & (ids != CLS)
        shown = torch.where(d["replace"] < 0.8, MASK, torch.where(d["random"] < 0.5, d["words"], ids))
        shown, labels = torch.where(guessed, shown, ids), torch.where(guessed, ids, -100)
        logits, taught = (
            x.words(x.fused(x.read(shown, mask), mask, seen), "text_encoder.", x.text)
            for x, seen in ((own, image), (copy, copied[0]))
        )
        terms["mlm"] = distilled(logits, labels, taught, alpha).sum() / guessed.sum()
    return terms, theirs
