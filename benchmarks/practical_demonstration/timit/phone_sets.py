"""TIMIT's phones and speakers: the folding 61 -> 48 -> 39, the core test set, a development set."""

from __future__ import annotations

SILENCE = "sil"
# What stands for silence in files whose phones are not TIMIT's; a cell without text is silence too.
SILENCES = frozenset({"", "sil", "sp", "silence", "pau", "h#", "#h", "#", "<p:>", "<sil>"})


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# The 48 phones that keep their name, after Lee and Hon 1989 (IEEE Trans. ASSP 37, 1641-1648).
_KEPT = _words(
    "aa ae ah ao aw ax ay b ch d dh dx eh el en epi er ey f g hh ih ix iy jh k l m n ng ow oy p r "
    "s sh t th uh uw v w y z zh"
)
_TO_48 = {
    **{phone: phone for phone in _KEPT},
    **{"ax-h": "ax", "axr": "er", "em": "m", "eng": "ng", "hv": "hh", "nx": "n", "ux": "uw"},
    **dict.fromkeys(("bcl", "dcl", "gcl"), "vcl"),
    **dict.fromkeys(("kcl", "pcl", "tcl"), "cl"),
    **dict.fromkeys(("h#", "pau"), SILENCE),
}
_TO_39 = {
    **{"ao": "aa", "ax": "ah", "el": "l", "en": "n", "ix": "ih", "zh": "sh"},
    **dict.fromkeys(("cl", "epi", "vcl"), SILENCE),
}
# The glottal stop is no phone of the 48; its span goes to the phone before it.
GLOTTAL_STOP = "q"

PHONES_61 = tuple(sorted([*_TO_48, GLOTTAL_STOP]))
PHONES_48 = tuple(sorted(set(_TO_48.values())))
PHONES_39 = tuple(sorted({_TO_39.get(phone, phone) for phone in PHONES_48}))

# 24 speakers, two men and a woman of each dialect region; documented with the corpus.
CORE_TEST = frozenset(
    _words(
        "mdab0 mwbt0 felc0 mtas1 mwew0 fpas0 mjmp0 mlnt0 fpkt0 mlll0 mtls0 fjlm0 mbpm0 mklt0 fnlp0 "
        "mcmj0 mjdh0 fmgd0 mgrt0 mnjm0 fdhc0 mjln0 mpam0 fmld0"
    )
)
# 50 speakers of TEST outside the core test set, by which training stops (Halberstadt 1998).
DEVELOPMENT = frozenset(
    _words(
        "faks0 fdac1 fjem0 mgwt0 mjar0 mmdb1 mmdm2 mpdf0 fcmh0 fkms0 mbdg0 mbwm0 mcsh0 fadg0 fdms0 "
        "fedw0 mgjf0 mglb0 mrtk0 mtaa0 mtdt0 mthc0 mwjg0 fnmr0 frew0 fsem0 mbns0 mmjr0 mdls0 mdlf0 "
        "mdvc0 mers0 fmah0 fdrw0 mrcs0 mrjm4 fcal1 mmwh0 fjsj0 majc0 mjsw0 mreb0 fgjd0 fjmg0 mroa0 "
        "mteb0 mjfc0 mrjr0 fmml0 mrws1"
    )
)


def fold_48(phone: str) -> str | None:
    """The phone of 61 among the 48 that models learn; None for the glottal stop, which has none.

    >>> fold_48("hv"), fold_48("pcl"), fold_48("h#"), fold_48("q")
    ('hh', 'cl', 'sil', None)
    """
    return None if phone == GLOTTAL_STOP else _TO_48[phone]


def fold_39(phone: str) -> str:
    """The phone of 48 among the 39 that are scored.

    >>> fold_39("ix"), fold_39("vcl"), fold_39("s")
    ('ih', 'sil', 's')
    """
    return _TO_39.get(phone, phone)
