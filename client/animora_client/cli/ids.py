"""Reads ids from the command line."""

from typer import BadParameter


def read_ids(text: str, option: str) -> tuple[int, ...]:
    """Ids between commas or white space.

    Raises:
        BadParameter: One is none; `option` is named as the place.
    """
    return tuple(read_id(word, option) for word in text.replace(",", " ").split())


def read_id(word: str, option: str) -> int:
    """A signed 64-bit id; raises as `read_ids`."""
    try:
        number = int(word)
    except ValueError:
        raise BadParameter(f"{word[:40]!r} is not an integer.", param_hint=option) from None
    if not -(2**63) <= number < 2**63:
        raise BadParameter(f"{word[:40]} does not fit 64 bits.", param_hint=option)
    return number


def read_user(word: str) -> int:
    """The id of `--user`; raises as `read_ids`."""
    return read_id(word, "--user")
