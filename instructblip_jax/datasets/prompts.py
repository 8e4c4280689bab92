"""Instruction templates of the datasets: the published ones for training, and the evaluation prompts.

Templates are `str.format` texts over the slots that `datasets/readers/` fill; `data/templates.py` checks them. In sets
that require reading, the OCR words precede the template. For a turn of a dialogue the slot ``history`` contains the
earlier turns and a line end, or is empty.
"""

from instructblip_jax.datasets import sense_prompts
from instructblip_jax.datasets.digits.templates import TEMPLATES as DIGITS
from instructblip_jax.datasets.readers.fast_binding import NAMES as BINDING
from instructblip_jax.datasets.readers.scienceqa_reasons import FORMS

CAPTION = (
    "A short image caption:",
    "A short image description:",
    "A photo of",
    "An image that shows",
    "Write a short description for the image.",
    "Write a description for the photo.",
    "Provide a description of what is presented in the photo.",
    "Briefly describe the content of the image.",
    "Can you briefly explain what you see in the image?",
    "Could you use a few words to describe what you perceive in the photo?",
    "Please provide a short depiction of the picture.",
    "Using language, provide a short account of the image.",
    "Use a few words to illustrate what is happening in the picture.",
)
QUESTION = (
    "{question}",
    "Question: {question}",
    "{question} A short answer to the question is",
    "Q: {question} A:",
    "Question: {question} Short answer:",
    "Given the image, answer the following question with no more than three words. {question}",
    "Based on the image, respond to this question with a short answer: {question}. Answer:",
    "Use the provided image to answer the question: {question} Provide your answer as short as possible:",
    'What is the answer to the following question? "{question}"',
    'The question "{question}" can be answered using the image. A short answer is',
)
ANSWER = (
    "Given the image, generate a question whose answer is: {answer}. Question:",
    "Based on the image, provide a question with the answer: {answer}. Question:",
    'Given the visual representation, create a question for which the answer is "{answer}".',
    "From the image provided, craft a question that leads to the reply: {answer}. Question:",
    "Considering the picture, come up with a question where the answer is: {answer}.",
    "Taking the image into account, generate an question that has the answer: {answer}. Question:",  # as published
)
READ = "OCR tokens: {ocr}. "


def _read(templates: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(READ + template for template in templates)


_DESCRIBE, _SHORT = "A short image description:", "Question: {question} Short answer:"
_QCM = "Question: {question}\nContext: {context}\nOptions: {options}\nAnswer:"  # as ScienceQA is published

PAIRS = (
    *("coco_pretrain", "vg_caption", "sbu", "cc3m", "cc12m", "laion"),
    *("coco_retrieval", "flickr30k_retrieval"),
)
"""Image-text sets for pre-training and retrieval; systems that compare the two read no instruction."""
PROMPTS: dict[str, str] = {
    "coco_caption": _DESCRIBE,
    "textcaps": READ + _DESCRIBE,
    "vqav2": _SHORT,
    "okvqa": _SHORT,
    "aokvqa": _SHORT,
    "ocrvqa": READ + _SHORT,
    "vqav2_qg": ANSWER[0],
    "okvqa_qg": ANSWER[0],
    "aokvqa_qg": ANSWER[0],
    "nocaps": _DESCRIBE,
    "flickr30k": _DESCRIBE,
    "gqa": _SHORT,
    "vsr": 'Based on the image, is this statement true or false? "{statement}" Answer:',
    "iconqa": "Question: {question} Options: {options}. Short answer:",
    "textvqa": READ + _SHORT,
    "visdial": "Dialog history: {history}\n Question: {question} Short answer:",
    "hateful_memes": 'This is an image with: "{text}" written on it. Is it hateful? Answer:',
    "vizwiz": _SHORT,
    "scienceqa": "Context: {context} Question: {question} Options: {options}. Answer:",
    "msvd_qa": _SHORT,
    "msrvtt_qa": _SHORT,
    "ivqa": _SHORT,
    "coco_retrieval": _DESCRIBE,
    "flickr30k_retrieval": _DESCRIBE,
    "nlvr2": "{sentence}",
    "snli_ve": "{sentence}",
    **dict.fromkeys(FORMS, _QCM),
    **dict.fromkeys(BINDING, "{question}"),
    **sense_prompts.PROMPTS,
}
"""Set -> its evaluation prompt: the paper's for its held-out sets, similar ones for the others. iconqa's
``fill_in_blank`` has no options and is evaluated with vqav2's prompt."""

TRAINING: dict[str, tuple[str, ...]] = {
    "coco_caption": CAPTION,
    "capfilt": CAPTION,
    "textcaps": _read(CAPTION),
    "vqav2": QUESTION,
    "okvqa": QUESTION,
    "aokvqa": QUESTION,
    "ocrvqa": _read(QUESTION),
    "vqav2_qg": ANSWER,
    "okvqa_qg": ANSWER,
    "aokvqa_qg": ANSWER,
    "llava_detail": ("{question}",),
    "llava_conv": ("{history}{question}",),
    "llava_reason": ("{question}",),
    "nocaps": CAPTION,
    "flickr30k": CAPTION,
    "gqa": QUESTION,
    "textvqa": _read(QUESTION),
    "vizwiz": QUESTION,
    "msvd_qa": QUESTION,
    "msrvtt_qa": QUESTION,
    "ivqa": QUESTION,
    "llava_instruct_150k": ("{history}{question}",),
    "llava_cc3m_595k": ("{question}",),
    "llava_lcs_558k": ("{question}",),
    "llava_v1_5_mix665k": ("{history}{question}",),
    **dict.fromkeys(PAIRS, CAPTION),
    "vg_qa": QUESTION,
    **dict.fromkeys(("unnatural_instructions", "flan_v2"), ("{question}",)),
    **{
        name: (PROMPTS[name],)
        for name in ("nlvr2", "snli_ve", "vsr", "iconqa", "visdial", "hateful_memes", "scienceqa", *FORMS, *BINDING)
    },
    **sense_prompts.TRAINING,
}
"""Set -> its training templates. The first thirteen sets are the paper's mixture; LLaVA's conversations contain their
own questions."""


BY_TASK: dict[str, tuple[str, ...]] = {
    "task:caption": CAPTION,
    "task:vqa": QUESTION,
    "task:dialog": ("{history}{question}",),
    "task:open": ("{question}",),
}
"""Task -> templates, for unknown sets whose records have no instruction."""


BARE: dict[str, tuple[str, ...]] = {
    "nlvr2": ("{sentence}",),
    "snli_ve": ("{sentence}",),
    "task:caption": ("a picture of",),
    "task:vqa": ("{question}",),
}
"""Templates of models that were trained without instructions, such as ALBEF and BLIP: unchanged texts; generated
captions continue a fixed prompt."""


WHOLE: dict[str, tuple[str, ...]] = {"task:caption": ("",), "task:open": BY_TASK["task:open"]}
"""Captions without a prompt, as generated by a decoder-only model in BLIP-2's second stage (arXiv 2301.12597, section
3.2); also unchanged instructions (KOSMOS-1, arXiv 2302.14045, section 3.2)."""


CONTINUED: dict[str, tuple[str, ...]] = {"task:caption": ("{front}",)}
"""Captions in two parts: the first is read and the rest is generated, as by T5 in that stage (prefix language
modelling)."""


def training_templates() -> dict[str, tuple[str, ...]]:
    """Set -> training templates, for the digits and the public sets; "task:" and a task -> templates for other sets."""
    return {**DIGITS, **TRAINING, **BY_TASK}


def sense_templates() -> dict[str, tuple[str, ...]]:
    """`training_templates` as in X-InstructBLIP: one list per modality, including images."""
    return {**training_templates(), **sense_prompts.SENSES}


def evaluation_templates(name: str, prompt: str | None = None) -> dict[str, tuple[str, ...]]:
    """The evaluation templates of the set ``name``: ``prompt`` if given, else its own prompt, else those by task."""
    if prompt is None:
        prompt = PROMPTS.get(name) or next(iter(DIGITS.get(name, ())), None)
    return dict(BY_TASK) if prompt is None else {name: (prompt,)}
