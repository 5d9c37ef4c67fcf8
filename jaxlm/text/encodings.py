"""Guesses the encoding of text that is not UTF-8."""

import codecs
import io
import operator
import re

ENCODINGS = {
    "cp949": "Korean",
    "cp932": "Japanese, Shift-JIS",
    "euc-jp": "Japanese",
    "gb18030": "Chinese",
    "cp950": "Chinese, Big5",
    "windows-1251": "Cyrillic",
    "koi8-r": "Cyrillic",
    "cp866": "Cyrillic, DOS",
    "windows-1253": "Greek",
    "windows-1255": "Hebrew",
    "windows-1256": "Arabic",
    "cp874": "Thai",
    "windows-1252": "Western European",
    "windows-1250": "Central European",
    "iso8859-2": "Central European",
    "windows-1254": "Turkish",
    "windows-1257": "Baltic",
    "windows-1258": "Vietnamese",
    "cp850": "Western European, DOS",
    "mac-roman": "Western European, Mac",
}
"""Common encodings and their languages. If one contains another, only the larger is listed: cp949 for EUC-KR, gb18030
for GB2312 and GBK, windows-1252 for Latin-1."""

# French, Spanish, Portuguese, Italian, German, Dutch, Swedish and Finnish, Danish and Norwegian, Icelandic.
_WESTERN = "àâæçéèêëîïôœùûüÿ áéíñóúüïç áâãàçéêíóôõú àèéìíîòóùú äöüß éëïóöüèê åäöéà æøåéóòôü áéíóúýðþæö"
# Polish, Czech, Slovak, Hungarian, Romanian, Croatian and Slovene.
_CENTRAL = "ąćęłńóśźż áčďéěíňóřšťúůýž áäčďéíĺľňóôŕšťúýž áéíóöőúüű ăâîşţ čćđšž"
_ALPHABETS = {
    "windows-1252": _WESTERN,
    "windows-1250": _CENTRAL,
    "iso8859-2": _CENTRAL,
    "windows-1254": "çğıöşüâîû",
    # Lithuanian, Latvian, Estonian.
    "windows-1257": "ąčęėįšųūž āčēģīķļņšūž äöõüšž",
    # Tone marks are characters of their own.
    "windows-1258": "ăâđêôơưàáèéìíòóùúýãõñ\u0300\u0301\u0303\u0309\u0323",
    "cp850": _WESTERN,
    "mac-roman": _WESTERN,
}
"""Encodings of Latin script, the commonest first, and the letters beyond A to Z in each of their languages."""

_MARKS = frozenset("“”‘’„‚«»‹›–—…•€°§©¿¡ºª\N{NO-BREAK SPACE}\N{SOFT HYPHEN}")  # noqa: RUF001
"""Characters other than letters that occur in text of any language."""

_TELLING = {
    # Hangul syllables: nearly all of Korean.
    "cp949": (rb"[\xb0-\xc8][\xa1-\xfe]", 0.4),
    # Kana: half of Japanese.
    "cp932": (rb"\x82[\x9f-\xf1]|\x83[\x40-\x96]", 0.15),
    "euc-jp": (rb"[\xa4\xa5][\xa1-\xf6]", 0.15),
}
"""The commonest characters of a language, and their minimum number per non-ASCII byte."""

_CHINESE = ("gb18030", "cp950")
"""Encodings that charset-normalizer compares only by a text's oddities (`chaos`), not by its letters (`coherence`)."""

_SAMPLE = 16 * 1024
"""Bytes that are examined closely."""

_RARE = ("cp850", "mac-roman")
"""Old encodings, not mentioned if a newer one fits as well."""

_ENOUGH = 10
"""If two readings fit equally well but differ in this many characters, the commoner encoding is chosen."""


def guess_encoding(content: bytes, start: int) -> list[str]:
    """The encodings that text other than UTF-8 is probably in.

    charset-normalizer reliably distinguishes scripts from about 60 characters on, but neither the Latin encodings, nor
    a few words of Korean or Japanese from others; there, alphabets, hangul and kana decide.

    Args:
      content: the text.
      start: the position of its first byte that is not UTF-8.

    Returns:
      A single name if the guess is certain; several, the likeliest first, if it is not; none if there is no guess.
      The whole text can be decoded with each.
    """
    if wide := guess_wide(content):
        return [wide]
    sample = _telling_lines(content, start)
    names = _latin(sample) or _korean_or_japanese(sample) or _any_script(sample)
    return [name for name in names if _decodes(content, name)]


def guess_wide(content: bytes) -> str | None:
    """The encoding of text that is UTF-16 without a byte order mark; None for any other content."""
    if len(content) % 2 or content.count(0) * 200 < len(content):
        return None
    for encoding in ("utf-16-le", "utf-16-be"):
        text = content.decode(encoding, "replace")
        # With its bytes swapped, white space is an unassigned or rare character.
        spaces, bad = len(re.findall(r"[ \n]", text)), count_controls(text) + text.count("\N{REPLACEMENT CHARACTER}")
        if max(1, 100 * bad) <= len(text) <= 100 * spaces:
            return encoding
    return None


def count_controls(text: str) -> int:
    """How many of a text's characters are control characters other than white space."""
    return len(re.findall(r"[\0-\x08\x0e-\x1f\x7f]", text))


def _telling_lines(content: bytes, start: int) -> bytes:
    """Lines that are not all ASCII, from about position `start` on; no character is split, in any encoding."""
    # These bytes are never part of a longer character, as letters and digits are in some encodings.
    ends = b"\n\r ."
    file = io.BytesIO(content)
    file.seek(1 + max(content.rfind(end, 0, start) for end in ends))
    lines = bytearray()
    for line in file:
        if not line.isascii():
            lines += line
        if len(lines) > _SAMPLE:
            if cut := 1 + max(lines.rfind(end, 0, _SAMPLE) for end in ends):
                return bytes(lines[:cut])
            # A single line without spaces: the cut that most encodings can decode is between characters.
            cuts = (bytes(lines[:cut]) for cut in range(_SAMPLE, _SAMPLE + 4))
            return max(cuts, key=lambda part: sum(_decodes(part, name) for name in ENCODINGS))
    return bytes(lines)


def _latin(sample: bytes) -> list[str]:
    """The encodings in which a sample reads as one of their languages, if it is in Latin script."""
    fits: dict[str, float] = {}
    names: dict[str, str] = {}
    for name, alphabets in _ALPHABETS.items():
        try:
            text = sample.decode(name)
        except UnicodeDecodeError:
            continue
        fits[text] = max(_fit(text, alphabets), fits.get(text, 0.0))
        names.setdefault(text, name)  # Of encodings that read alike, the commonest.
    best = max(fits.values(), default=0.0)
    if best < 0.9:
        return []
    first, *others = (text for text, fit in fits.items() if fit == best)
    rivals = (text for text in others if sum(map(operator.ne, first, text)) < _ENOUGH)
    return [names[first], *(names[text] for text in rivals if names[text] not in _RARE)]


def _fit(text: str, alphabets: str) -> float:
    """The share of characters beyond ASCII that are in one of the alphabets, or marks; 0 if ASCII letters are few."""
    strange = [(text[i - 1 : i], character) for i, character in enumerate(text) if not character.isascii()]
    if len(strange) > len(re.findall("[A-Za-z]", text)):
        return 0.0
    # A capital or an opening quotation mark within a word is another encoding's letter.
    likely = [
        character.lower()
        for before, character in strange
        if not (before.islower() and (character.isupper() or character in "„‚"))  # noqa: RUF001
    ]
    fitting = [sum(letter in alphabet or letter in _MARKS for letter in likely) for alphabet in alphabets.split()]
    return max(fitting) / len(strange)


def _korean_or_japanese(sample: bytes) -> list[str]:
    """The encoding in which a sample has the common characters of Korean or Japanese, if any."""
    strange = sum(byte >= 0x80 for byte in sample)
    return [name for name, (common, least) in _TELLING.items() if len(re.findall(common, sample)) > least * strange]


def _any_script(sample: bytes) -> list[str]:
    """The guesses of charset-normalizer: the best, and those that are about as good."""
    import charset_normalizer  # Slow to import, and rarely needed.

    matches = charset_normalizer.from_bytes(
        sample,
        steps=1,
        chunk_size=len(sample),
        threshold=0.3,
        cp_isolation=list(ENCODINGS),
        preemptive_behaviour=False,
        enable_fallback=False,
    )
    names = {codecs.lookup(name).name: name for name in ENCODINGS}
    guesses = [(names[codecs.lookup(match.encoding).name], match.chaos, match.coherence) for match in matches]
    return [
        name
        for name, chaos, coherence in guesses
        if chaos < guesses[0][1] + 0.03 and (name in _CHINESE or coherence > guesses[0][2] - 0.1)
    ]


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
