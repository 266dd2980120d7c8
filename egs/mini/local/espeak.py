"""Speech from espeak-ng, with the library and voice data in the package espeakng-loader."""

from __future__ import annotations

import ctypes
import functools

import numpy as np

from whisper_recipe.errors import RecipeError

# speak_lib.h of espeak-ng
AUDIO_OUTPUT_SYNCHRONOUS = 2
RATE, VOLUME, PITCH, RANGE = 1, 2, 3, 4  # espeak_PARAMETER
POS_CHARACTER = 1
CHARS_UTF8 = 1
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """espeak-ng, loaded once per process, because its library keeps state in globals."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise RecipeError("espeakng-loader is missing", cure="pip install -r requirements.txt") from error
        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        self.library.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
        self.library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
        self.library.espeak_SetParameter.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int]
        self.library.espeak_SetSynthCallback.argtypes = [CALLBACK]
        self.library.espeak_SetSynthCallback.restype = None
        self.library.espeak_Synth.argtypes = [
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        data = str(espeakng_loader.get_data_path()).encode()
        self.sampling_rate = self.library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, data, 0)
        if self.sampling_rate <= 0:
            raise RecipeError("espeak-ng does not start", where=data.decode(), cure="reinstall espeakng-loader")
        self._pieces: list[np.ndarray] = []
        self._callback = CALLBACK(self._collect)  # kept: ctypes holds no reference
        self.library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: ctypes.Array, count: int, _events: int) -> int:
        if samples and count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, text: str, voice: str, rate: int, pitch: int, pitch_range: int) -> np.ndarray:
        """Return float32 samples in -1 .. 1 at `sampling_rate`, shape (n,).

        They depend slightly on what this process has synthesised before.

        Args:
            text: what to say.
            voice: language and variant, `en-us+f2`.
            rate: words per minute, 80 to 450.
            pitch: 0 to 99.
            pitch_range: 0 (monotone) to 99.
        """
        if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise RecipeError(f"espeak-ng has no voice {voice!r}", cure="see espeak-ng-data/voices in espeakng-loader")
        for parameter, value in ((RATE, rate), (VOLUME, 100), (PITCH, pitch), (RANGE, pitch_range)):
            self.library.espeak_SetParameter(parameter, value, 0)
        self._pieces.clear()
        encoded = text.encode() + b"\0"
        self.library.espeak_Synth(encoded, len(encoded), 0, POS_CHARACTER, 0, CHARS_UTF8, None, None)
        samples = np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.int16)
        return samples.astype(np.float32) / 32768


@functools.cache
def espeak() -> Espeak:
    """Return this process's espeak-ng."""
    return Espeak()
