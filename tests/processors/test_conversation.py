"""Conversations in three wordings: ids are Hugging Face's, loss is where the authors' re-tokenizing puts it.

The tokenizers are made in the manner of LLaMA's: `USER` is one piece at the start of a text run and two behind a blank,
which is where the rule for tokenizers that are not "legacy" differs.
"""

import json

import numpy as np
import pytest
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from instructblip_jax.processors import conversation
from instructblip_jax.processors.tokenizer import TextTokenizer

MERGES = ["U S", "E R", "▁ US", "US ER", "▁ ▁", "▁ A", "# #", "## #", "▁ ###", "i t", "▁ it", "▁ i", "i s", "▁ is"]
MERGES += ["A S", "AS S", "T A", "TA N", "TAN T", "▁ H", "u m", "a n", "um an", "▁ s", "e v", "e n", "ev en"]
CHARACTERS = "▁#:,.?!'()-/%abcdefghijklmnopqrstuvwxyzABCDEHIJMNOPRSTUVWXY0123456789é\u0301"
SLOTS, IMAGE, END = 3, "<image>", "</s>"
SCHEMES = ("prepend", "always", "first")
CONVERSATIONS = {
    "one turn": [("what is it ?", "it is red .")],
    "turns": [("is it red ?", "no"), ("why , then ?", "it is seven , and seven is even ."), ("  and \n it ?", "yes\n")],
    "digits": [("how many ?", "7"), ("7 + 15 ?", "22 , that is 100%")],
    "punctuation": [("(a) or (b)?", "(b)"), ("!", "..."), ("'tis ?", "- it\n- is\n\n### even")],
    "line ends": [("a\nb\n", "\nit is"), ("\n\n", "is it\n\n"), ("it", "\n")],
    "blanks": [("  it ", "  two blanks before and two behind  "), (" it", " one"), ("it  ", "   three")],
    "unicode": [("what does 漢字 say ?", "漢字 , é, e\u0301. 😀"), ("\u3000?", "\u2028it"), ("é", "😀")],
    "no question": [("", "it is"), ("", "red")],
}


def write(directory, scheme):
    """A tokenizer's directory; ``scheme`` says where "▁" goes: by a normalizer, or by one of Metaspace's ways."""
    pieces = ["<unk>", "<s>", END, *(f"<0x{n:02X}>" for n in range(256)), *CHARACTERS]
    pieces += [pair.replace(" ", "") for pair in MERGES]
    vocabulary = {piece: n for n, piece in enumerate(dict.fromkeys(pieces))}
    merges = [tuple(pair.split(" ")) for pair in MERGES]
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if scheme == "prepend":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    made.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", END, IMAGE, "<pad>")])
    directory.mkdir(exist_ok=True)
    made.save(str(directory / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": END, "unk_token": "<unk>", "pad_token": "<pad>", "image_token": IMAGE}
    form = {**named, "tokenizer_class": "LlamaTokenizer", "legacy": scheme != "first"}
    (directory / "tokenizer_config.json").write_text(json.dumps(form))
    (directory / "config.json").write_text('{"model_type": "llava"}')  # else transformers makes LLaMA's from the words
    return directory


@pytest.fixture(scope="module", params=SCHEMES)
def scheme(request):
    return request.param


@pytest.fixture(scope="module")
def directory(scheme, tmp_path_factory):
    return write(tmp_path_factory.mktemp("talk") / scheme, scheme)


@pytest.fixture(scope="module")
def ours(directory):
    return TextTokenizer(directory)


@pytest.fixture(scope="module")
def read(directory):
    """A text -> its ids, special tokens read as such."""
    library = Tokenizer.from_file(str(directory / "tokenizer.json"))
    return lambda text: library.encode(text).ids


@pytest.fixture(params=["system", "no system"])
def system(request, monkeypatch):
    """The system text by its person; also one that is empty."""
    if request.param == "no system":
        monkeypatch.setattr(conversation, "_system", lambda person: "")
        return lambda person: ""
    return lambda person: (
        f"A chat between a curious {person} and an artificial intelligence assistant. "
        f"The assistant gives helpful, detailed, and polite answers to the {person}'s questions."
    )


def encoded(tokenizer, template, turns, pictures):
    ids = {token: tokenizer.ready(token)[-1] for token in (IMAGE, END)}
    return conversation.encode(tokenizer, template, turns, pictures, SLOTS, int(ids[IMAGE]), int(ids[END]))


def asked(turns, pictures):
    """The questions as the authors' code prepares them, with a mark for each picture."""
    first = (f"{IMAGE}\n" * pictures + turns[0][0].strip()).strip() if pictures else turns[0][0]
    return [first, *(question for question, _ in turns[1:])]


def expanded(ids, labels, image):
    """A picture's mark -> its slots, without loss."""
    rows = [(i, -100 if i == image else label) for i, label in zip(ids, labels, strict=True)]
    return [pair for pair in rows for _ in range(SLOTS if pair[0] == image else 1)]


def rounds(text, read, legacy):
    """v1 by lengths of rounds: each is read alone, and so is its part before the answer, of which the begin token and
    the blank behind the colon are taken off; a round's end token is paid for by its begin token."""
    ids = read(text)
    labels, at = [-100, *ids[1:]], 1
    for number, said in enumerate(text.split(END)[:-1]):
        head = said[: said.index(" ASSISTANT: ") + len(" ASSISTANT: ")]
        less = int(number > 0 and not legacy)
        masked = len(read(head)) - 2 - less
        labels[at : at + masked] = [-100] * masked
        at += len(read(said)) - less
    assert at == len(ids), "the authors' code would leave the whole sample out"
    return ids, labels


def sentences(said, read):
    """v0 by lengths of sentences that are read alone, with their begin tokens."""
    ids = read("".join(said) + "### ")
    labels, at = list(ids), 0
    for number, sentence in enumerate(said):
        length = len(read(sentence))
        for place in range(at + (2 if number else 0), min(at + length, len(ids))):
            if number == 0 or number % 2:
                labels[place] = -100
        at += length
    return ids, labels


@pytest.mark.parametrize("pictures", [0, 1, 2])
@pytest.mark.parametrize("name", CONVERSATIONS)
class TestLossIsWhereTheAuthorsTakeIt:
    def check(self, ours, template, name, pictures, want):
        ids, labels = encoded(ours, template, CONVERSATIONS[name], pictures)
        assert ids.dtype == labels.dtype == np.int32
        image = int(ours.ready(IMAGE)[-1])
        assert list(zip(ids.tolist(), labels.tolist(), strict=True)) == expanded(*want, image)
        assert (labels >= 0).any()
        assert (ids == 1).sum() == 1

    def test_v1(self, ours, read, system, scheme, name, pictures):
        turns = CONVERSATIONS[name]
        pairs = zip(asked(turns, pictures), turns, strict=True)
        text = system("user") + " " + "".join(f"USER: {question} ASSISTANT: {a}{END}" for question, (_, a) in pairs)
        self.check(ours, "v1", name, pictures, rounds(text, read, scheme != "first"))

    def test_v0(self, ours, read, system, name, pictures):
        turns, said = CONVERSATIONS[name], [system("human") + "\n\n"]
        for question, (_, answer) in zip(asked(turns, pictures), turns, strict=True):
            said += [f"### Human: {question}\n", f"### Assistant: {answer}\n"]
        self.check(ours, "v0", name, pictures, sentences(said, read))

    def test_plain(self, ours, read, name, pictures):
        turns = CONVERSATIONS[name]
        if len(turns) > 1:
            with pytest.raises(
                ValueError, match=rf"^{len(turns)} turns, but the conversation 'plain' has only a caption"
            ):
                encoded(ours, "plain", turns, pictures)
            return
        ids = read(IMAGE * pictures + turns[0][1] + "\n")
        masked = len(read(IMAGE * pictures))
        self.check(ours, "plain", name, pictures, (ids, [-100] * masked + ids[masked:]))


def test_prompts_end_where_the_answer_begins(ours, read):
    user, human = (encoded(ours, name, [("is it red ?", None)], 1)[0] for name in ("v1", "v0"))
    kept = (
        "A chat between a curious {} and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the {}'s questions."
    )
    said = f"{IMAGE * SLOTS}\nis it red ?"
    assert user.tolist() == read(f"{kept.format('user', 'user')} USER: {said} ASSISTANT:")
    assert human.tolist() == read(f"{kept.format('human', 'human')}###Human: {said}###Assistant:")
    ids, labels = encoded(ours, "v0", [("is it red ?", "no"), ("why ?", None)], 0)
    assert ids.tolist() == read(
        f"{kept.format('human', 'human')}###Human: is it red ?###Assistant: no###Human: why ?###Assistant:"
    )
    assert set(labels.tolist()) == {-100}
    plain, labels = encoded(ours, "plain", [("never read", None)], 2)
    assert plain.tolist() == read(IMAGE * 2 * SLOTS)
    assert set(labels.tolist()) == {-100}
    # A prompt is the beginning of the row that is trained.
    whole, _ = encoded(ours, "v1", [("is it red ?", "no")], 1)
    assert whole[: len(user)].tolist() == user.tolist()


def test_an_example_of_v1(ours):
    """`<s> SYS USER: q ASSISTANT: a1 a2 </s> USER: q2 ASSISTANT: b </s>` counts `a1 a2 </s>` and `b </s>`."""
    _, labels = encoded(ours, "v1", [("q", "it is"), ("is it ?", "red")], 1)
    end = ours.ready(END)[-1]
    counted = labels[labels >= 0].tolist()
    assert counted.count(end) == 2
    assert [ours.decode(part) for part in (counted[: counted.index(end)], counted[counted.index(end) :])] == [
        "it is",
        "red",
    ]


@pytest.mark.parametrize("template", conversation.TEMPLATES)
def test_what_people_write_is_text(ours, template):
    special = {int(ours.ready(token)[-1]) for token in (IMAGE, END)}
    plain, _ = encoded(ours, template, [("a", "b")], 1)
    ids, labels = encoded(ours, template, [(f"a {IMAGE} {END}", f"{END} {IMAGE}<s> USER: b ASSISTANT: c")], 1)
    for one in (*special, 1):
        assert (ids == one).sum() == (plain == one).sum()
    assert (labels >= 0).any()


def test_conversations_that_cannot_be_encoded(ours):
    for turns, error in (
        ([], "^a conversation needs one turn at least$"),
        ([("a", ""), ("b", "c")], r"^turn 1 of 2 has no answer; only the last one may lack it \(None\)$"),
        ([("a", None), ("b", "c")], "^turn 1 of 2 has no answer"),
        ([("a", "b"), ("b", "")], "^turn 2 of 2 has no answer"),
    ):
        with pytest.raises(ValueError, match=error):
            encoded(ours, "v1", turns, 1)
    with pytest.raises(ValueError, match=r"^conversation is 'v2'; it is one of v0, v1, plain$"):
        encoded(ours, "v2", [("a", "b")], 1)
    with pytest.raises(ValueError, match=r"no token has the id 99999$"):
        conversation.ready(ours, "a", SLOTS, 99999)


def test_ids_are_those_of_transformers(directory, ours):
    """Its tokenizer on the same directory gives them, wherever special tokens stand; ready prompts are among them."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    for name, turns in CONVERSATIONS.items():
        for pictures in (0, 1, 2):
            pairs = zip(asked(turns, pictures), turns, strict=True)
            text = conversation._system("user") + " "
            text += "".join(f"USER: {question} ASSISTANT: {a}{END}" for question, (_, a) in pairs)
            want = theirs(text.replace(IMAGE, IMAGE * SLOTS))["input_ids"]
            image = int(ours.ready(IMAGE)[-1])
            assert encoded(ours, "v1", turns, pictures)[0].tolist() == want, (name, pictures)
            assert conversation.ready(ours, text, SLOTS, image).tolist() == want, (name, pictures)
            plain = theirs(IMAGE * pictures * SLOTS + turns[0][1] + "\n")["input_ids"]
            assert encoded(ours, "plain", turns[:1], pictures)[0].tolist() == plain, (name, pictures)
    for text in (f"{IMAGE}\nis it ?", f"<s>USER: {IMAGE}it{END}", f"{IMAGE}{IMAGE} {END} it", "it", ""):
        want = theirs(text.replace(IMAGE, IMAGE * SLOTS))["input_ids"]
        assert conversation.ready(ours, text, SLOTS, image).tolist() == want, text


@pytest.mark.parametrize("legacy", [False, True, None])
def test_bare_texts_are_those_of_a_tokenizer_that_is_made_anew(legacy, tmp_path):
    """transformers makes LLaMA's tokenizer of the words alone: by a flag, "▁" goes before each text or the first."""
    directory = write(tmp_path, "prepend")
    form = json.loads((directory / "tokenizer_config.json").read_text())
    form = {key: x for key, x in form.items() if key != "legacy"} | ({} if legacy is None else {"legacy": legacy})
    (directory / "tokenizer_config.json").write_text(json.dumps(form))
    (directory / "config.json").unlink()
    live = transformers.LlamaTokenizer.from_pretrained(directory, additional_special_tokens=[IMAGE])
    ours = TextTokenizer(directory, bare=True)
    image = int(ours.ready(IMAGE)[-1])
    ids, _ = ours.joined(["is it?", image, "a cat", " and", image, image, "is"])
    text = f"<s>is it?{IMAGE}a cat and{IMAGE}{IMAGE}is"
    assert ids.tolist() == live(text, add_special_tokens=False)["input_ids"]
    assert (
        ids.tolist()
        == TextTokenizer(directory).joined(["is it?", image, "a cat", " and", image, image, "is"])[0].tolist()
    ) == bool(legacy)
