"""Numbers as people read them: the one place where a figure becomes text, for verdicts, pages and tables alike.

What rounds to zero has no sign, a minus is a minus sign, digits are grouped.
"""

from __future__ import annotations

import reprlib

_THIN = "\u202f"  # narrow no-break space: groups digits and never breaks a line
_DIGITS = 3


def joined(number: str, unit: str) -> str:
    """Join a number and its unit: `7.1×`, `12 ms`, `5`."""
    if not unit:
        return number
    return number + unit if unit == "×" else f"{number}\u00a0{unit}"


def decimals(value: float, digits: int = _DIGITS) -> int:
    """Return how many decimals show `digits` significant digits of the value (0 for large values).

    >>> decimals(0.351), decimals(2.44), decimals(1234.5)
    (3, 2, 0)
    """
    if value == 0:
        return digits - 1
    exponent = int(f"{abs(value):.{digits - 1}e}".partition("e")[2])
    return max(0, digits - 1 - exponent)


def fixed(value: float, places: int) -> str:
    """Write the value with that many decimals, grouped digits and a true minus sign; what rounds to zero has no sign.

    >>> fixed(-0.25, 2), fixed(-0.001, 2), fixed(1234567, 0)
    ('−0.25', '0.00', '1\u202f234\u202f567')
    """
    text = f"{value:,.{places}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace(",", _THIN).replace("-", "−")


def signed(value: float, places: int) -> str:
    """Write a difference as `fixed` does, with its sign where it has one.

    >>> signed(0.25, 2), signed(-0.25, 2), signed(-0.001, 2)
    ('+0.25', '−0.25', '0.00')
    """
    text = fixed(value, places)
    return f"+{text}" if value > 0 and text.strip("0.") else text


def number(value: float, digits: int = _DIGITS) -> str:
    """Write the value in `digits` significant digits; below one ten-thousandth in powers of ten.

    >>> number(0.3514), number(12.0), number(3.2e-7)
    ('0.351', '12.0', '3.20e−7')
    """
    if value != 0 and abs(value) < 1e-4:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    return fixed(value, decimals(value, digits))


def given(value: float) -> str:
    """Write a number that a person chose as it was given: no digits added.

    >>> given(0.5), given(8.0), given(-0.0)
    ('0.5', '8', '0')
    """
    return f"{value + 0.0:g}".replace("-", "−")


def short(value: float) -> str:
    """Write at most three significant digits, no zeros at the end.

    >>> short(0.6), short(0.12345), short(-0.0)
    ('0.6', '0.123', '0')
    """
    return given(float(f"{value:.3g}"))


def spanned(value: float, low: float, high: float, places: int | None = None) -> tuple[str, str, str]:
    """Write a value and the ends of its interval with the same decimals: those given, or as many as the interval's width makes meaningful.

    >>> spanned(0.0312, -0.0041, 0.0702), spanned(-0.001, -0.4, 0.4, places=2)
    (('0.031', '−0.004', '0.070'), ('0.00', '−0.40', '0.40'))
    """
    shown = _places(value, low, high) if places is None else places
    if low != high and fixed(low, shown) == fixed(high, shown):
        shown = decimals((high - low) / 2, 1)
    return fixed(value, shown), fixed(low, shown), fixed(high, shown)


def _places(value: float, low: float, high: float) -> int:
    """Return the decimals that show two digits of the interval's half width, and no more than three of the largest number."""
    most = decimals(max(abs(value), abs(low), abs(high)))
    return most if low == high else min(most, decimals((high - low) / 2, 2))


def counted(n: int, noun: str) -> str:
    """Write how many of something there are.

    >>> counted(1, "example"), counted(1200, "candidate")
    ('1 example', '1,200 candidates')
    """
    return f"{n:,} {noun}{'s' if n != 1 else ''}"


def percent(share: float) -> str:
    """Write a share of 0 to 1 in percent; what is not certain is never called 100 %, what is not impossible never 0 %.

    >>> percent(0.433), percent(0.0111), percent(0.9999), percent(0.0001), percent(1.0)
    ('43 %', '1.1 %', 'more than 99 %', 'less than 0.1 %', '100 %')
    """
    if 0 < share < 0.001:
        return "less than 0.1 %"
    if 0.99 < share < 1:
        return "more than 99 %"
    return f"{fixed(100 * share, 0 if share >= 0.1 or share == 0 else 1)} %"


def numerics(bits: int | None, precision: str) -> str:
    """Name what a model computes with: the integers it is rounded to (`bits` of them; None: to none), and its floats where these are not fp32.

    >>> numerics(8, "fp32"), numerics(8, "bf16"), numerics(None, "bf16")
    ('int8', 'int8 with bf16', 'bf16')
    """
    if bits is None:
        return precision
    return f"int{bits}" if precision == "fp32" else f"int{bits} with {precision}"


def shorten(value: object) -> str:
    """Write a value as Python does, in a hundred characters or so: what is in a message may come from a file, and be of any size or depth.

    >>> shorten("x" * 10_000), shorten([[[[[[[1]]]]]]])
    ("'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'", '[[[[...]]]]')
    """
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlevel = 4
