"""The parts that each system can be assembled from. Read by `assemble --help`, so nothing here imports jax."""

from collections.abc import Collection
from typing import NamedTuple

PARTS = {
    "vision": "InstructBLIP or BLIP-2 model that provides the tower; for llava, flamingo, kosmos-1 and frozen a CLIP; "
    "for albef and blip also a ViT.",
    "language": "Plain T5, LLaMA (Vicuna) or OPT model, or InstructBLIP or BLIP-2 model that provides the language "
    "model; for llava LLaMA, or one of the LLaVA authors' repositories; for flamingo a plain LLaMA or OPT; for "
    "kosmos-1 a tokenizer, and a config.json of that model_type if the sizes are not the paper's.",
    "text": "Text encoder.",
    "image": "InstructBLIP or BLIP-2 model, of any stage, that provides tower and Q-Former for images; or "
    "X-InstructBLIP model that provides its trained image modality.",
    "video": "The same for video, which is initialised from images if it is not trained.",
    "audio": "BEATs file or model directory; or X-InstructBLIP model that provides its trained audio modality.",
    "pc": "ULIP-2 file or PointBERT directory; or X-InstructBLIP model that provides its trained point cloud modality.",
    "blip2": "BLIP-2 model: its vision tower, Q-Former, projection, and language model.",
    "bert": "BERT model (bert-base-uncased) with its tokenizer, to initialise a Q-Former or a text encoder; with "
    "--blip2 also a model of BLIP-2's first stage, which provides the text half.",
    "qformer": "InstructBLIP or BLIP-2 model, of any stage, that provides query tokens and Q-Former, without its text "
    "half, and its vision tower if no other is given.",
    "model": "Model of the same system, which provides the other parts.",
}
"""Part -> contents of its directory or hub id. Each is a flag of `assemble`."""

PROJECTORS = ("mlp", "linear")
"""Kinds of a new LLaVA projector, the default first: 1.5's two layers, and 1.0's linear map."""

TASKS: dict[str, tuple[str, ...]] = {
    "albef": ("pretraining", "retrieval", "question_answering", "reasoning", "entailment"),
    "blip": ("pretraining", "retrieval", "captioning", "question_answering", "reasoning"),
}
"""System -> the forms that can be made from another form of it (``--model``)."""


class Combination(NamedTuple):
    """Parts that together make a complete model."""

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
"""System (a model_type) -> the combinations of parts from which it can be assembled."""


def check(system: str, given: Collection[str]) -> None:
    """Raise ValueError, listing the possibilities, unless ``system`` can be assembled from the parts ``given``."""
    if system not in SYSTEMS:
        raise ValueError(f"no system {system!r} can be assembled; expected one of {', '.join(SYSTEMS)}")
    combinations = SYSTEMS[system]
    for required, optional in combinations:
        if set(required) <= set(given) <= {*required, *optional}:
            return
    flags = " ".join(f"--{name}" for name in given) or "no part"
    raise ValueError(f"{system} is assembled from {' or '.join(map(str, combinations))}; given: {flags}")


def check_projector(system: str, given: str | None) -> None:
    """Raise ValueError if a kind of projector is given for a system with only one kind."""
    if given is not None and system != "llava":
        raise ValueError(f"--projector is for llava; {system} has one kind")


def check_task(system: str, parts: Collection[str], given: str | None) -> None:
    """Raise ValueError unless a form is named exactly if a system with several forms is made from a model."""
    tasks = TASKS.get(system, ()) if "model" in parts else ()
    if given and not tasks:
        raise ValueError(f"--task is for --model of {', '.join(TASKS)}")
    if tasks and given not in tasks:
        raise ValueError(f"--task of {system} is one of {', '.join(tasks)}, not {given!r}")


def check_every(system: str, given: int | None) -> None:
    """Raise ValueError if a block interval is given for a system without cross-attention blocks."""
    if given is not None and system != "flamingo":
        raise ValueError(f"--every is for flamingo; {system} has no blocks between the layers of its language model")


def check_queries(system: str, parts: Collection[str], given: int | None) -> None:
    """Raise ValueError if a number of query tokens, latents or vectors per image is given but none are new."""
    bridge = system in ("blip-2", "instructblip") and not {"qformer", "blip2", "model"} & set(parts)
    apart = system == "x-instructblip" and not {"qformer", "image", "video"} & set(parts)
    new = bridge or apart or system in ("flamingo", "frozen")
    if given is not None and not new:
        raise ValueError(
            "--queries is for flamingo, frozen, a blip-2 or instructblip of --vision, and an x-instructblip without "
            "pictures and --qformer, whose query tokens are new"
        )


def takers(part: str) -> list[str]:
    """The systems that can use a part."""
    return [
        system
        for system, combinations in SYSTEMS.items()
        if any(part in (*one.required, *one.optional) for one in combinations)
    ]
