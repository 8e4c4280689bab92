"""The parts that each system can be assembled from. Read by `assemble --help`, so nothing here imports jax."""

from collections.abc import Collection
from typing import NamedTuple

PARTS = {
    "vision": "InstructBLIP or BLIP-2 model whose tower is taken; for llava, flamingo, kosmos-1 and frozen a CLIP; for "
    "albef and blip also a ViT.",
    "language": "Plain T5, LLaMA (Vicuna) or OPT model, or InstructBLIP or BLIP-2 model whose language model is taken; "
    "for llava LLaMA, or one of the LLaVA authors' repositories; for flamingo a plain LLaMA or OPT; for kosmos-1 a "
    "tokenizer, and a config.json of that model_type if the sizes are not the paper's.",
    "text": "Text encoder.",
    "image": "InstructBLIP or BLIP-2 model, of any stage, whose tower and Q-Former read pictures; or X-InstructBLIP "
    "model whose pictures are taken as trained.",
    "video": "The same for videos, which begin as pictures where they are not trained.",
    "audio": "BEATs file or model directory; or X-InstructBLIP model whose sounds are taken as trained.",
    "pc": "ULIP-2 file or PointBERT directory; or X-InstructBLIP model whose point clouds are taken as trained.",
    "blip2": "BLIP-2 model: its vision tower, Q-Former, projection, and language model.",
    "bert": "BERT model (bert-base-uncased) with its tokenizer, from which a Q-Former or a text encoder begins; beside "
    "--blip2 also a model of BLIP-2's first stage, whose text half is taken.",
    "qformer": "InstructBLIP or BLIP-2 model, of any stage, whose query tokens and Q-Former, without its text half, "
    "are taken, and its vision tower where no other is given.",
    "model": "Model of the same system, whose other parts are taken.",
}
"""Part -> what its directory, or hub id, holds. Each is a flag of `assemble`."""

PROJECTORS = ("mlp", "linear")
"""Kinds of a new LLaVA projector, the default first: 1.5's two layers, and 1.0's linear map."""

TASKS: dict[str, tuple[str, ...]] = {
    "albef": ("pretraining", "retrieval", "question_answering", "reasoning", "entailment"),
    "blip": ("pretraining", "retrieval", "captioning", "question_answering", "reasoning"),
}
"""System -> the forms that can be made of another form of it (``--model``)."""


class Combination(NamedTuple):
    """Parts that make a whole model together."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join([f"--{name}" for name in self.required] + [f"[--{name}]" for name in self.optional])


SYSTEMS: dict[str, tuple[Combination, ...]] = {
    "instructblip": (
        Combination(("blip2", "bert"), ("language",)),
        Combination(("vision", "bert", "language")),
        Combination(("model", "language")),
    ),
    "blip-2": (
        Combination(("vision", "bert")),
        Combination(("vision", "language"), ("bert",)),
        Combination(("qformer", "language"), ("vision",)),
    ),
    "llava": (Combination(("vision", "language")),),
    "flamingo": (Combination(("vision", "language")),),
    "kosmos-1": (Combination(("vision", "language")),),
    "frozen": (Combination(("language",), ("vision",)),),
    "x-instructblip": (Combination(("language",), ("image", "video", "audio", "pc", "bert", "qformer")),),
    "albef": (Combination(("vision", "bert")), Combination(("model",))),
    "blip": (Combination(("vision", "bert")), Combination(("model",))),
}
"""System (a model_type) -> the combinations of parts that it can be made of."""


def check(system: str, given: Collection[str]) -> None:
    """Raise ValueError, listing the possibilities, unless ``system`` can be made of the parts ``given``."""
    if system not in SYSTEMS:
        raise ValueError(f"no system {system!r} can be assembled; there are {', '.join(SYSTEMS)}")
    combinations = SYSTEMS[system]
    for required, optional in combinations:
        if set(required) <= set(given) <= {*required, *optional}:
            return
    flags = " ".join(f"--{name}" for name in given) or "no part"
    raise ValueError(f"{system} is assembled from {' or '.join(map(str, combinations))}; given: {flags}")


def check_projector(system: str, given: str | None) -> None:
    """Raise ValueError if a kind of projector is given for a system that has one kind alone."""
    if given is not None and system != "llava":
        raise ValueError(f"--projector is for llava; {system} has one kind")


def check_task(system: str, parts: Collection[str], given: str | None) -> None:
    """Raise ValueError unless a form is named just where a system that has several is made of a model."""
    tasks = TASKS.get(system, ()) if "model" in parts else ()
    if given and not tasks:
        raise ValueError(f"--task is for --model of {', '.join(TASKS)}")
    if tasks and given not in tasks:
        raise ValueError(f"--task of {system} is one of {', '.join(tasks)}, not {given!r}")


def check_every(system: str, given: int | None) -> None:
    """Raise ValueError if a distance of blocks is given for a system that has none between its layers."""
    if given is not None and system != "flamingo":
        raise ValueError(f"--every is for flamingo; {system} has no blocks between the layers of its language model")


def check_queries(system: str, parts: Collection[str], given: int | None) -> None:
    """Raise ValueError if a number of query tokens, latents or vectors of a picture is given where none are new."""
    bridge = system in ("blip-2", "instructblip") and not {"qformer", "blip2", "model"} & set(parts)
    apart = system == "x-instructblip" and not {"qformer", "image", "video"} & set(parts)
    new = bridge or apart or system in ("flamingo", "frozen")
    if given is not None and not new:
        raise ValueError(
            "--queries is for flamingo, frozen, a blip-2 or instructblip of --vision, and an x-instructblip without "
            "pictures and --qformer, whose query tokens are new"
        )


def takers(part: str) -> list[str]:
    """The systems that can take a part."""
    return [
        system
        for system, combinations in SYSTEMS.items()
        if any(part in (*one.required, *one.optional) for one in combinations)
    ]
