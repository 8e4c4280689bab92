"""The published results of ALBEF (arXiv 2107.07651), BLIP (arXiv 2201.12086) and BLIP-2 (arXiv 2301.12597).

Quoted from the papers' tables where available; results for retrieval, and those repeated on other projects' pages, were
cross-checked.
"""

import statistics
from collections.abc import Mapping

Recalls = tuple[float, float, float, float, float, float]
COCO, FLICKR = "coco_retrieval", "flickr30k_retrieval"

RECALLED: Mapping[str, Mapping[str, Recalls]] = {
    # The models trained on 14 million images, fine-tuned on the set; directories made by `convert --original`.
    "albef-coco": {COCO: (77.6, 94.3, 97.2, 60.7, 84.3, 90.5), FLICKR: (94.1, 99.5, 99.7, 82.8, 96.3, 98.1)},
    "albef-flickr": {FLICKR: (95.9, 99.8, 100.0, 85.6, 97.5, 98.9)},
    "blip-itm-base-coco": {COCO: (81.9, 95.4, 97.8, 64.3, 85.7, 91.5), FLICKR: (96.0, 99.9, 100.0, 85.0, 96.8, 98.6)},
    "blip-itm-base-flickr": {FLICKR: (97.3, 99.9, 100.0, 87.3, 97.6, 98.9)},
    "blip-itm-large-coco": {COCO: (82.4, 95.4, 97.9, 65.1, 86.3, 91.8), FLICKR: (96.7, 100.0, 100.0, 86.7, 97.3, 98.7)},
    "blip-itm-large-flickr": {FLICKR: (97.4, 99.8, 99.9, 87.6, 97.7, 99.0)},
    "blip2-itm-vit-g-coco": {
        COCO: (85.4, 97.0, 98.5, 68.3, 87.7, 92.6),
        FLICKR: (97.6, 100.0, 100.0, 89.7, 98.1, 98.9),
    },
}
"""Model -> set -> text recall at 1, 5, 10, then image recall, in percent. A model fine-tuned on COCO is evaluated on
Flickr30K without further training."""

PAPER: dict[str, dict[str, float]] = {
    **{model: {name: statistics.fmean(recalls) for name, recalls in sets.items()} for model, sets in RECALLED.items()},
    "blip-image-captioning-base": {"coco_caption": 133.3, "nocaps": 109.6},
    "blip-image-captioning-large": {"coco_caption": 136.7, "nocaps": 113.2},
    "blip-nlvr2-base": {"nlvr2": 83.08},
    "albef-nlvr2": {"nlvr2": 83.14},
    "albef-snli-ve": {"snli_ve": 80.91},
}
"""Model -> set -> the paper's number, times 100: the mean of the six recalls, CIDEr, or accuracy on test-P and test.
VQA was scored on its server's test splits, so there is no number to compare with."""
