"""JSON of which two readers cannot think differently, and stored numbers that mean what they say. Without torch."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from .layout import Record

MAX_DEPTH = 64
KINDS = {
    "f64": "<f8", "f32": "<f4", "f16": "<f2", "bf16": "<u2", "i64": "<i8", "i32": "<i4", "i16": "<i2", "i8": "i1",
    "u64": "<u8", "u32": "<u4", "u16": "<u2", "u8": "u1",
}  # fmt: skip
INT32 = np.iinfo(np.int32)


def parse_json(raw: bytes) -> Any:
    """The value of a JSON text.

    **Raises** `ValueError` unless it is UTF-8 without a byte order mark, names no member twice, has only finite numbers
    and only text that UTF-8 can hold; `RecursionError` if it is nested very deep.
    """
    text = raw.decode("utf-8")
    value = json.loads(text, object_pairs_hook=_object, parse_float=_finite, parse_constant=_finite)
    if "\\u" in text:  # an escape may stand for half of a character
        json.dumps(value, ensure_ascii=False).encode()
    return value


def check_depth(members: dict[str, Any]) -> None:
    """**Raises** `ValueError` if lists and objects in a member are nested more than 64 deep."""
    level: list[Any] = [members]
    for _ in range(MAX_DEPTH + 1):
        inside = (each.values() if isinstance(each, dict) else each for each in level)
        level = [part for parts in inside for part in parts if isinstance(part, dict | list)]
    if level:
        raise ValueError(f"lists and objects nested more than {MAX_DEPTH} deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the member {twice!r} is there twice")
    return made


def _finite(text: str) -> float:
    number = float(text)
    if not abs(number) < float("inf"):
        raise ValueError(f"{text} is no finite number")
    return number


def check_fields(record: Record, parts: list[bytes]) -> None:
    """**Raises** `ValueError` unless fields are finite in fp32, scales are not 0, and zero points fit 32 bits."""
    for (name, field), data in zip(record.fields.items(), parts, strict=True):
        values = _numbers(data, field.dtype)
        if name == "zero_point":
            right = not values.size or (INT32.min <= int(values.min()) and int(values.max()) <= INT32.max)
        else:
            if field.dtype == "f64":
                with np.errstate(over="ignore"):
                    values = values.astype(np.float32)
            right = bool(np.isfinite(values).all()) and (name != "scale" or bool(values.all()))
        if not right:
            raise ValueError(f"{record.name}: {name} has entries that are 0, not finite or too large")


def check_codes(record: Record, parts: list[bytes], ends: tuple[int, int] | None) -> None:
    """**Raises** `ValueError` unless codes between these `ends` are levels of the codebook, and stay 32-bit integers
    when zero points are subtracted."""
    if ends is None:
        return
    low, high = ends
    if record.grid == "codebook" and not 0 <= low <= high < record.fields["values"].shape[-1]:
        raise ValueError(f"{record.name}: codes from {low} to {high} outside its codebook")
    if "zero_point" in record.fields:
        place = list(record.fields).index("zero_point")
        zero = _numbers(parts[place], record.fields["zero_point"].dtype)
        if low - int(zero.max()) < INT32.min or high - int(zero.min()) > INT32.max:
            raise ValueError(f"{record.name}: codes from {low} to {high} leave 32 bits with their zero points")


def check_bools(record: Record, data: bytes) -> None:
    """**Raises** `ValueError` if a kept tensor of truth values has a byte other than 0 and 1."""
    if record.stored == "bool" and data and max(data) > 1:
        raise ValueError(f"{record.name}: a bool that is {max(data)}")


def _numbers(data: bytes, dtype: str) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = np.frombuffer(data, KINDS[dtype])
    return (values.astype(np.uint32) << 16).view(np.float32) if dtype == "bf16" else values
