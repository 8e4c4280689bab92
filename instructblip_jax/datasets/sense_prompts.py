"""Instruction templates for images, video, audio and point clouds, with the kinds and numbers of X-InstructBLIP's
(arXiv 2311.18799) in our own words: stubs that a caption continues, requests, questions, and frames of questions.

All are in lower case, as in that model's training; slot values are unchanged.
"""

from collections.abc import Sequence
from itertools import product

CAPTIONS = (
    "a short description of the {medium}:",
    "a caption for the {medium}:",
    "a {medium} of",
    "the {medium} in a few words:",
    "describe the {medium} briefly.",
    "describe in a sentence what the {medium} holds.",
    "say in a few words what you {sense} in the {medium}.",
    "write a short account of the {medium}.",
    "sum up the {medium}.",
    "tell someone who cannot {sense} the {medium} what it is like.",
    "what do you {sense} in the {medium}?",
    "what is the {medium} about?",
    "how would you describe the {medium}?",
)
QUESTIONS = (
    "question: {{question}} answer with the {medium}:",
    "about the {medium}: {{question}}",
    "{{question}} the {medium} tells that the answer is",
    "q: {{question}} a, by the {medium}:",
    "given the {medium}, what is the answer to {{question}}",
    "use the {medium} to answer briefly: {{question}}",
    "question about the {medium}: {{question}} short answer:",
    "what does the {medium} say to the question {{question}}",
    "answer this question about the {medium} in a few words. {{question}}",
    "look into the {medium} and reply: {{question}}",
    "the question is {{question}} by the {medium}, a short answer is",
    "from the {medium} alone, {{question}}",
    'reply to "{{question}}" with what the {medium} holds:',
)
PLAIN = "{question}"
CLASSES = (
    "name what you {sense} in the {medium}.",
    "what is the {medium} of?",
    "the {medium} is of",
    "which kind of thing do you {sense} in the {medium}?",
    "say in a word or two what the {medium} holds.",
    "classify the {medium}.",
    "a label for the {medium}:",
    "what would you call the {medium}?",
    "identify the {medium}.",
    "to which class does the {medium} belong?",
)
PICTURE = ("image", "photo", "picture", "photograph")
FILM = ("video", "clip")
SOUND = ("audio", "recording")
SHAPE = ("3d model", "shape", "3d object", "point cloud")


def spread(forms: Sequence[str], media: Sequence[str], sense: str, count: int) -> tuple[str, ...]:
    """The first ``count`` templates of all combinations of ``forms`` and words for the medium."""
    made = [form.format(medium=medium, sense=sense) for medium, form in product(media, forms)]
    return tuple(made[:count])


def _asked(media: Sequence[str], count: int) -> tuple[str, ...]:
    return (PLAIN, *spread(QUESTIONS, media, "", count - 1))


PICTURE_CAPTIONS, PICTURE_QUESTIONS = spread(CAPTIONS, PICTURE, "see", 50), _asked(PICTURE, 47)
FILM_CAPTIONS, FILM_QUESTIONS = spread(CAPTIONS, FILM, "see", 13), _asked(FILM, 21)
SOUND_CAPTIONS, SOUND_QUESTIONS = spread(CAPTIONS, SOUND, "hear", 24), _asked(SOUND, 26)
SHAPE_CAPTIONS, SHAPE_QUESTIONS = spread(CAPTIONS, SHAPE, "see", 45), _asked(SHAPE, 52)
SOUND_CLASSES, SHAPE_CLASSES = spread(CLASSES, SOUND, "hear", 13), spread(CLASSES, SHAPE, "see", 13)

_CAPTION, _ANSWER = "a short description", "Question: {question} Answer:"
_CHOICE = (
    "You are given two inputs. Select exactly one of the two by referece to its relative position (first or second, "
    "left or right) that best answers the question. question: {question} answer:"
)  # spelling of the model's authors

PROMPTS: dict[str, str] = {
    **dict.fromkeys(("audiocaps", "clotho", "msrvtt_caption", "msvd_caption", "vatex"), _CAPTION),
    **dict.fromkeys(("clotho_aqa", "music_avqa"), _ANSWER),
    "esc50": "describe the audio",
    "modelnet40": "describe the 3d model",
    "cap3d": "describe the 3d model",
    "cap3d_qa": "based on the given input respond to {question}",
    **dict.fromkeys(("discrn_av", "discrn_i3d"), _CHOICE),
}
"""Set -> the evaluation prompt of X-InstructBLIP's authors."""
TRAINING: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("audiocaps", "wavcaps", "clotho"), SOUND_CAPTIONS),
    **dict.fromkeys(("audiocaps_qa", "clotho_aqa"), SOUND_QUESTIONS),
    **dict.fromkeys(("audioset", "esc50"), SOUND_CLASSES),
    "cap3d": SHAPE_CAPTIONS,
    "cap3d_qa": SHAPE_QUESTIONS,
    "modelnet40": SHAPE_CLASSES,
    **dict.fromkeys(("msrvtt_caption", "msvd_caption", "vatex", "webvid"), FILM_CAPTIONS),
    "music_avqa": FILM_QUESTIONS,
    **{name: (PROMPTS[name],) for name in ("discrn_av", "discrn_i3d")},
}
"""Set -> its training templates."""
SENSES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("coco_caption", "capfilt", "vg_caption", "sbu", "cc12m"), PICTURE_CAPTIONS),
    **dict.fromkeys(("vqav2", "okvqa", "aokvqa", "ocrvqa", "vg_qa"), PICTURE_QUESTIONS),
    **dict.fromkeys(("msrvtt_qa", "msvd_qa"), FILM_QUESTIONS),
}
"""Set of images or videos on which other systems are also trained -> its templates for X-InstructBLIP."""
