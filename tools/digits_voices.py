"""Make the digits world's spoken digits: python tools/digits_voices.py [--assets instructblip_jax/assets]

espeak-ng speaks ten digits in ninety voices (formant variants, each with one English accent, at speeds and pitches
drawn by seed). Only this tool needs it: `pip install espeakng-loader` (the program is GPL-3, its output is not). All
clips are concatenated in one Opus file, each in a slot of one second; `datasets/digits/voices.py` reads it.
"""

import argparse
import ctypes
from pathlib import Path

import av
import espeakng_loader
import numpy as np

from instructblip_jax.datasets.digits.voices import FILE, RATE, SECONDS, VOICES

ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-us-nyc")
LEFT_OUT = ("whisper", "whisperf", "croak", "Demonic", "UniRobot", "anikaRobot", "AnxiousAndy", "fast")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SYNCHRONOUS, CHARACTERS, SPEED, PITCH = 2, 1, 1, 3  # constants of espeak-ng's interface
SLOWEST, FASTEST, QUICKER = 140, 200, 30  # words per minute; increment until a clip fits its second
SILENCE = 300  # of 32,768; threshold at the ends of a clip
LEAD = 0.02  # seconds at both ends of a clip's slot, because Opus shifts and smears a little
BITS = 14_000  # per second


class Speaker:
    """espeak-ng, through its C interface."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        self.rate = self.library.espeak_Initialize(SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self.heard: list[np.ndarray] = []

        def hear(samples, count, _):
            if samples and count:
                self.heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
            return 0

        self.callback = kind(hear)
        self.library.espeak_SetSynthCallback(self.callback)

    def say(self, text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
        """The samples int16 [N] at ``self.rate``, without the silence at their ends. Raises ValueError for an unknown
        voice."""
        if self.library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        self.library.espeak_SetParameter(SPEED, speed, 0)
        self.library.espeak_SetParameter(PITCH, pitch, 0)
        self.heard.clear()
        said = text.encode() + b"\0"
        self.library.espeak_Synth(said, len(said), 0, CHARACTERS, 0, CHARACTERS, None, None)
        self.library.espeak_Synchronize()
        samples = np.concatenate(self.heard)
        loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > SILENCE)
        return samples[loud[0] : loud[-1] + 1]


def clips(speaker: Speaker) -> np.ndarray:
    """All clips concatenated, int16 [N], at the speaker's rate: by voice, then by digit."""
    rng = np.random.default_rng(0)
    folder = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    names = sorted(path.name for path in folder.iterdir() if path.name not in LEFT_OUT)
    names = [str(name) for name in rng.permutation(names)][:VOICES]
    room, lead = round(SECONDS * speaker.rate), round(LEAD * speaker.rate)
    out = np.zeros((VOICES, len(DIGITS), room), np.int16)
    for n, name in enumerate(names):
        voice = f"{ACCENTS[int(rng.integers(len(ACCENTS)))]}+{name}"
        for digit, word in enumerate(DIGITS):
            speed, pitch = int(rng.integers(SLOWEST, FASTEST + 1)), int(rng.integers(20, 81))
            samples = speaker.say(word, voice, speed, pitch)
            while len(samples) > room - 2 * lead:
                speed += QUICKER
                samples = speaker.say(word, voice, speed, pitch)
            loudest = np.abs(samples.astype(np.float32)).max()
            out[n, digit, lead : lead + len(samples)] = np.rint(samples * (16_000 / loudest))
    return out.reshape(-1)


def write(path: Path, samples: np.ndarray, rate: int) -> None:
    """Write samples int16 [N] as Opus of `RATE`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=RATE, layout="mono", options={"vbr": "on", "application": "voip"})
        stream.bit_rate = BITS
        resampler = av.AudioResampler("s16", "mono", RATE)
        frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
        frame.sample_rate = rate
        for part in (frame, None):
            for resampled in resampler.resample(part):
                container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, default=Path("instructblip_jax/assets"))
    args = parser.parse_args()
    speaker = Speaker()
    path = args.assets / FILE
    write(path, clips(speaker), speaker.rate)
    print(f"wrote {path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
