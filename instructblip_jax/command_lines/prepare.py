"""Convert a dataset to ArrayRecord (a TFDS dataset): instructblip prepare NAME --source DIR --out DIR [--json FILE]

NAME is digits, the embedded world (all its task sets, generated from scikit-learn's scans, without a --source); one of
the known datasets, whose official files are in --source, and their images there or in --images; or custom, your own
files. A set that exists is kept, and refused if its annotation files or the flags that determine its contents have
changed; --overwrite prepares it again. The same command continues an interrupted preparation. Rows that cannot be read
are left out and reported: in a table, in report.json and skipped.jsonl next to the records, and with --json.

With --make_questions=T5, a language model generates the questions of audiocaps_qa, cap3d_qa, discrn_av or discrn_i3d
from the captions in --source. Their files are written to --out, which is the --source of a second command that
prepares them.
"""

from collections.abc import Sequence
from difflib import get_close_matches

from absl import flags

from instructblip_jax import files
from instructblip_jax.datasets.media.load import FRAMES
from instructblip_jax.datasets.readers.releases import RELEASES

FLAGS = flags.FLAGS
MADE = ("audiocaps_qa", "cap3d_qa", "discrn_av", "discrn_i3d")
"""Datasets whose questions a language model generates."""
CUSTOM = ("name", "format", "encoding", "validation")
"""Flags that are passed to the reader of the user's own files."""


def define_flags(argv: Sequence[str]) -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("out", None, "Directory of the prepared sets.")
    flags.DEFINE_string("source", None, "Directory of the dataset's official files; for custom, a file or directory.")
    flags.DEFINE_multi_string(
        "images", [], "Directory of images or videos; may be repeated. Default: the official location."
    )
    flags.DEFINE_integer("frames", FRAMES, "Number of frames per video.", lower_bound=1, upper_bound=256)
    flags.DEFINE_float(
        "max_skipped", 1.0, "Fraction of rows that may be skipped; above it, no set is written.", 0.0, 1.0
    )
    flags.DEFINE_integer("workers", None, "Number of worker processes. Default: one per core.", lower_bound=1)
    flags.DEFINE_string(
        "beam",
        None,
        "Write with Apache Beam and these pipeline options: --beam='--runner=…'. Its workers unpickle rows from --out, "
        "so anyone with write access there can run code as them: use it only where nobody else has.",
    )
    flags.DEFINE_string("name", None, "custom: the set's name. Default: the source's.")
    flags.DEFINE_string("format", None, "custom: the format of the files. Default: detected.")
    flags.DEFINE_string("encoding", None, "custom: encoding of the text. Default: UTF-8.")
    flags.DEFINE_float("validation", 0.0, "custom: fraction of the images held out for validation.", 0.0, 0.9)
    flags.DEFINE_bool("overwrite", False, "Prepare an existing set again; it stays until the new one is complete.")
    flags.DEFINE_bool("inspect", False, "Report what the source holds, and write nothing; --out is not needed.")
    flags.DEFINE_string(
        "make_questions",
        None,
        "Directory of a T5 or FlanT5, which generates the dataset's questions from the captions in --source.",
    )
    flags.DEFINE_string("json", None, "Also write the report here as JSON.")


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    names = ["digits", "custom", *RELEASES]
    if len(args) != 1:
        raise ValueError(f"one NAME is needed, of {', '.join(names)}; not {' '.join(args) or 'none'}")
    if args[0] not in names:
        near = get_close_matches(args[0], names)
        known = f"{' or '.join(near)}?" if near else f"there are {', '.join(names)}"
        raise ValueError(f"there is no dataset {args[0]!r}; {known} (custom prepares your own files)")
    if not FLAGS.out and not FLAGS.inspect:
        raise ValueError("--out is needed")
    if args[0] == "digits" and FLAGS.source:
        raise ValueError("digits is generated, and takes no --source")
    if args[0] == "digits" and FLAGS.overwrite:
        raise ValueError("digits is generated, always the same, and takes no --overwrite")
    files.check_json(FLAGS.json)
    if args[0] != "digits" and not FLAGS.source:
        raise ValueError(f"--source is needed: the directory with the files of {args[0]}")
    if FLAGS.make_questions and (args[0] not in MADE or FLAGS.inspect or FLAGS.beam is not None):
        raise ValueError(f"--make_questions is only for {', '.join(MADE)}, without --inspect and --beam")
    foreign = [name for name in CUSTOM if FLAGS[name].present]
    if args[0] != "custom" and foreign:
        raise ValueError(f"--{foreign[0]} is only for custom datasets")
