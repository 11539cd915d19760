"""Numbers, times and settings as the report writes them."""

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line shows numbers too, and not for the seconds that a record's imports take
    from animora_training.pipeline.record import Setting

NOTHING = "\N{EN DASH}"


def decimal(value: float | None) -> str:
    """A number with four decimals, or a dash."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.4f}"


def signed(value: float) -> str:
    """A difference with four decimals and its sign, or a dash."""
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else NOTHING


def duration(seconds: float) -> str:
    """Seconds in the units that a person would use."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def large(number: float) -> str:
    """A number of which three digits matter, in thousands (k), millions (M) or billions (G)."""
    for power, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= 0.9995 * power:
            return f"{number / power:#.3g}".removesuffix(".") + unit
    return f"{number:.3g}"


def compact(value: float | None) -> str:
    """A number with four digits that matter, or a dash."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.4g}"


def moment(time: datetime | None) -> str:
    """A time in UTC to the minute, or a dash."""
    if time is None:
        return NOTHING
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if time.tzinfo else f"{time:%Y-%m-%d %H:%M}"


def setting(value: "Setting") -> str:
    """A hyper-parameter as `--set` takes it."""
    if value is None:
        return NOTHING
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
