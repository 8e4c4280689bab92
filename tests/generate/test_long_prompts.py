"""Instructions of any length are read whole, as the reference reads them, up to the positions that a part has."""

import json
import shutil
import warnings

import families
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import instructblip_jax as ib

LENGTH = 12
POSITIONS = 1024
LONG = "how many people are there ? " + "a dog sits on the red bench , describe the picture in detail . " * 24
TABLES = ("qformer.embeddings.position_embeddings.weight", "language_model.model.decoder.embed_positions.weight")
CANDIDATES = ["yes", "a dog sits on the red bench"]


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 33, 3), np.uint8))


class Roomy:
    """A golden checkpoint with 1024 positions in Q-Former and OPT, and its model and processor."""

    def __init__(self, family: str, directory):
        self.directory = shutil.copytree(families.GOLDENS / family, directory / family)
        raw = json.loads((self.directory / "config.json").read_text())
        raw["qformer_config"]["max_position_embeddings"] = POSITIONS
        if raw["text_config"]["model_type"] == "opt":
            raw["text_config"]["max_position_embeddings"] = POSITIONS
        (self.directory / "config.json").write_text(json.dumps(raw))
        tensors, rng = load_file(self.directory / "model.safetensors"), np.random.default_rng(1)
        for name in tensors.keys() & set(TABLES):
            rows = POSITIONS + (2 if "decoder" in name else 0)
            tensors[name] = rng.normal(0, tensors[name].std(), (rows, tensors[name].shape[1])).astype(np.float32)
        save_file(tensors, self.directory / "model.safetensors", metadata={"format": "pt"})
        self.model = ib.InstructBlip.from_pretrained(self.directory, dtype="float32")
        self.processor = ib.Processor.from_pretrained(self.directory)


@pytest.fixture(scope="module", params=families.WITH_TOKENIZER)
def roomy(request, tmp_path_factory) -> Roomy:
    return Roomy(request.param, tmp_path_factory.mktemp("roomy"))


def test_a_long_prompt_gives_the_references_tokens(roomy):
    pytest.importorskip("torch", reason="the live reference is transformers on PyTorch, which is not installed")
    import reference

    theirs = reference.load(roomy.directory, dtype=reference.torch.float32)
    tokenizer = reference.transformers.AutoTokenizer.from_pretrained(roomy.directory)
    whole = tokenizer(LONG)["input_ids"]
    assert len(whole) > 290
    batch = roomy.processor([picture()], [LONG])
    assert batch["input_ids"][0].tolist() == whole
    if "qformer_input_ids" in batch:
        bert = reference.transformers.AutoTokenizer.from_pretrained(roomy.directory / "qformer_tokenizer")
        assert batch["qformer_input_ids"][0].tolist() == bert(LONG)["input_ids"]
    end = theirs.language_model.generation_config.eos_token_id
    options = {"max_new_tokens": LENGTH, "eos_token_id": end}
    want = reference.generate(theirs, batch, max_new_tokens=LENGTH)[0]
    assert ib.generate_ids(roomy.model, batch, **options)[0].tolist() == want.tolist()
    said = roomy.processor.decode(want[None])[0]
    assert ib.generate(roomy.model, roomy.processor, picture(), LONG, **options) == [said]
    assert "".join(ib.stream(roomy.model, roomy.processor, picture(), LONG, **options)) == said
    scores = ib.rank(roomy.model, roomy.processor, picture(), LONG, CANDIDATES)
    for score, candidate in zip(scores[0], CANDIDATES, strict=True):
        each = reference.label_log_probabilities(theirs, roomy.processor([picture()], [LONG], [candidate]))
        assert score == pytest.approx(each.sum(), abs=1e-3)


def test_the_beginning_of_a_long_prompt_counts(roomy):
    asked = (roomy.model, roomy.processor, picture())
    first, other = (ib.rank(*asked, text, CANDIDATES) for text in (LONG, LONG.replace("how many", "why are", 1)))
    assert np.abs(first - other).max() > 1e-4


def test_a_candidate_is_scored_whole():
    long = "a dog sits on the red bench . " * 40
    model, processor = families.model("llama"), ib.Processor.from_pretrained(families.directory("llama"))
    score, longer = ib.rank(model, processor, picture(), "what is it ?", [long, f"{long} yes"])[0]
    loss, aux = ib.loss(model, processor([picture()], ["what is it ?"], [long]))
    assert aux["tokens"] > 256
    assert score == pytest.approx(-float(loss) * int(aux["tokens"]), rel=1e-4)
    assert longer != score


def test_more_than_opt_has_positions_for_is_refused():
    asked = (families.model("opt"), ib.Processor.from_pretrained(families.directory("opt")), picture())
    with pytest.raises(ValueError, match=r"this OPT has 120: shorten the text or lower max_new_tokens"):
        ib.generate(*asked, LONG)
    with pytest.raises(ValueError, match=r"take \d+ positions; this OPT has 120"):
        ib.generate(*asked, "is it raining ?", max_new_tokens=200)
    with pytest.raises(ValueError, match=r"take \d+ positions; this OPT has 120"):
        ib.rank(*asked, "is it raining ?", ["a dog sits on the red bench . " * 15])


def test_the_qformer_reads_as_much_of_the_end_as_it_can_and_says_so_once():
    model = families.model("instructblip")
    processor = ib.Processor.from_pretrained(families.directory("instructblip"))
    options = {"max_new_tokens": LENGTH}
    with pytest.warns(UserWarning, match=r"\d+ tokens long, and the Q-Former has 40 positions: it reads the last 40"):
        (answer,) = ib.generate(model, processor, picture(), LONG, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "".join(ib.stream(model, processor, picture(), LONG, **options)) == answer
        batch = processor([picture()], [LONG])
    assert batch["qformer_input_ids"].shape == (1, 40)
    assert len(batch["input_ids"][0]) > 290
    assert processor.decode(ib.generate_ids(model, batch, **options)) == [answer]
