"""The caption tokenizer against output of the Java program (both columns before punctuation is dropped)."""

import time

import pytest

from instructblip_jax.evals.ptb import DROPPED, tokenize, words

LINES = r"""
A man's dog isn't here, is it?
  a man 's dog is n't here , is it ?
The colour of the grey theatre is a well-known blue/green.
  the colour of the grey theatre is a well-known blue/green .
He cannot go; they're gonna leave at 10:30 a.m. for $1,000.50!
  he can not go ; they 're gon na leave at 10:30 a.m. for $ 1,000.50 !
Two cups (one red) on a "wooden" table...
  two cups -lrb- one red -rrb- on a `` wooden '' table ...
A U.S. flag & 50% off [sale] {new} #1 @home
  a u.s. flag & 50 % off -lsb- sale -rsb- -lcb- new -rcb- # 1 @home
T-shirt: size 1/2, 3.5 inches -- really?
  t-shirt : size 1/2 , 3.5 inches -- really ?
The boys' bikes; 'quoted' words
  the boys ' bikes ; ` quoted ' words
Mr. Smith's café – naïve … done.
  mr. smith 's café -- naïve ... done .
a sign reading STOP!!! on it .
  a sign reading stop !!! on it .
I'd've gone, we'll see; don't worry let's go
  i 'd 've gone , we 'll see ; do n't worry let 's go
a man w/ a hat e.g. a cap etc.
  a man w / a hat e.g. a cap etc.
the 1990's rock'n'roll 2nd o'clock 5'10"
  the 1990 's rock 'n' roll 2nd o'clock 5 ' 10 ''
I wanna gotta lemme gimme d'ye 'tis 'twas
  i wan na got ta lem me gim me d'ye 't is 't was
me@example.com http://example.org/a?b=1 :) &lt;b&gt;x&lt;/b&gt;
  me@example.com http://example.org/a?b=1 :-rrb- &lt;b&gt; x &lt;/b&gt;
one * two ~ three ^ four | five \ six = seven + eight _nine_
  one * two ~ three ^ four | five \ six = seven + eight _ nine _
A dog. A cat sits there.
  a dog . a cat sits there .
A dog.A cat,and a bird
  a dog.a cat , and a bird
It's a black-and-white 10-year-old e-mail sign.
  it 's a black-and-white 10-year-old e-mail sign .
Dr. Lee vs. Mr. Ray Jr. at St. Louis No. 5
  dr. lee vs. mr. ray jr. at st. louis no. 5
A 50's car, the '60s and 1980s
  a 50 's car , the '60s and 1980s
£3 €5 ¥7 20° ½ cup 5% 10x10 7-up #5
  # 3 $ 5 ¥ 7 20 ° 1/2 cup 5 % 10x10 7-up # 5
“curly” ‘single’ quote’s don’t
  `` curly '' ` single ' quote 's do n't
a 'stop' sign and a "go" sign
  a ` stop ' sign and a `` go '' sign
The U.S.A. and u.k. on t.v. at 5 p.m.
  the u.s.a. and u.k. on t.v. at 5 p.m.
A.B.C. co. inc. ltd. approx. 3 ft. tall
  a.b.c. co. inc. ltd. approx . 3 ft. tall
man's/woman's and/or he/she
  man 's / woman 's and/or he/she
A, B, and C & D
  a , b , and c & d
what? no! yes... wait.... ok?!
  what ? no ! yes ... wait ... ok ?!
the women's cats' toys are n't here
  the women 's cats ' toys are n't here
3:45pm 12/25/2010 1,234 .5 -3 +4 3-D
  3:45 pm 12/25/2010 1,234 .5 -3 +4 3-d
(a) [b] <c> a=b a+b a_b a@b
  -lrb- a -rrb- -lsb- b -rsb- <c> a = b a + b a_b a@b
I'm you're he's she'd it'll we've they'd can't won't shan't ain't cannot
  i 'm you 're he 's she 'd it 'll we 've they 'd ca n't wo n't sha n't ai n't can not
two dogs , one cat .
  two dogs , one cat .
over-the-top semi-circle co-operate x-ray
  over-the-top semi-circle co-operate x-ray
http://a.example.org www.example.org user@example.org
  http://a.example.org www.example.org user@example.org
leading and   double  spaces
  leading and double spaces
naïve Zürich 日本 🙂 ok
  naïve zürich 日本 ok
A teddy bear--big - small – sits
  a teddy bear -- big - small -- sits
Y'all ma'am o'clock rock-n-roll 'n' d'or
  y' all ma'am o'clock rock-n-roll 'n' d'or
$1.50 US$5 C$3 1st 2nd 3/4 100%
  $ 1.50 us$ 5 c$ 3 1st 2nd 3/4 100 %
""".strip("\n").split("\n")


@pytest.mark.parametrize(("line", "want"), list(zip(LINES[::2], LINES[1::2], strict=True)), ids=LINES[::2])
def test_the_lines_that_the_java_program_was_run_on(line, want):
    assert want.startswith("  ")
    assert " ".join(tokenize(line)) == want[2:]


@pytest.mark.parametrize(
    ("caption", "want"),
    [
        ('A man\'s dog: "one", two... four - five -- six; ok?', "a man 's dog one two four five six ok"),
        ("a dog (brown).", "a dog -lrb- brown -rrb-"),
        ("STOP!!! really?! yes!", "stop !!! really ?! yes"),
        ("‘a’ “b” `c`", "a b c"),
        ("line\nend\r\nand\ttab", "line end and tab"),
        ("no. 5 says no.", "no. 5 says no"),
        ("rock & roll at&t &amp; co.", "rock & roll at&t & co."),
        ("", ""),
        ("  ...  ", ""),
        ("...", ""),
    ],
)
def test_punctuation_is_dropped(caption, want):
    assert " ".join(words(caption)) == want
    assert not DROPPED & set(words(caption))


def test_nothing_but_white_space_gets_lost():
    """All other characters of ASCII captions come back, except for changed spellings."""
    for line in LINES[::2]:
        if line.isascii() and not set(line) & set('()[]{}"') and "..." not in line:
            assert "".join(tokenize(line)).replace("`", "'") == "".join(line.lower().split())


def test_a_caption_set_takes_seconds():
    """10,000 captions in which hardly any word occurs twice."""
    captions = [f"a{n} man's dog{n}, isn't n{n} on the 'street{n}'." for n in range(10_000)]
    started = time.process_time()
    count = sum(len(words(caption)) for caption in captions)
    assert count == 10 * len(captions)
    assert time.process_time() - started < 20
