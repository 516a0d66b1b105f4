"""Options that are lists of words: numbers, percentages, and pairs of a mode and a percentage."""

from __future__ import annotations

__all__ = ["as_fractions", "as_mode_shares", "as_whole_numbers", "as_words"]


def as_words(text: str | None) -> tuple[str, ...] | None:
    """Split comma-separated words; None stays None.

    >>> as_words("a, b,")
    ('a', 'b')
    """
    if text is None:
        return None
    return tuple(word.strip() for word in text.split(",") if word.strip())


def as_fractions(text: str | None) -> tuple[float, ...] | None:
    """Parse comma-separated percentages as fractions.

    >>> as_fractions("10,2.5")
    (0.1, 0.025)
    """
    found = as_words(text)
    return None if found is None else tuple(_percent(word) for word in found)


def as_whole_numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """Parse comma-separated whole numbers.

    Raises:
        ValueError: one that is none; names the option.
    """
    found = as_words(text)
    if found is None:
        return None
    try:
        return tuple(int(word) for word in found)
    except ValueError:
        raise ValueError(f"{option} {text!r}: expected whole numbers, such as 0,1,2") from None


def as_mode_shares(option: str, text: str | None) -> tuple[tuple[str, float], ...] | None:
    """Parse pairs of a mode and a percentage, or ``none``.

    Raises:
        ValueError: something that is no such pair; names the option.

    >>> as_mode_shares("--mask-only", "roar:50"), as_mode_shares("--mask-only", "none")
    ((('roar', 0.5),), ())
    """
    if text is None:
        return None
    if text == "none":
        return ()
    pairs = []
    for word in as_words(text) or ():
        mode, colon, share = word.partition(":")
        if not colon:
            raise ValueError(f"{option} {word!r}: expected MODE:PERCENT, such as roar:50")
        pairs.append((mode, _percent(share)))
    return tuple(pairs)


def _percent(word: str) -> float:
    try:
        return round(float(word) / 100.0, 10)
    except ValueError:
        raise ValueError(
            f"fraction {word!r}: expected a number of percent, such as 10 in 10,30,50"
        ) from None
