"""State of simulators that live in Python: numbers, lists and arrays as a tensor of text, without pickle."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

ARRAY, TUPLE, RANDOM, GENERATOR = "<array>", "<tuple>", "<random state>", "<generator>"


def as_tensor(value: Any) -> Tensor:
    """The value as JSON in a tensor of bytes, (length,) uint8.

    Numbers, texts, None, lists, tuples, dictionaries with texts as keys, arrays, and NumPy's two kinds of generators;
    `from_tensor` gives it back to the last bit.

    Raises:
        TypeError: It holds something else.
    """
    text = json.dumps(_plain(value), separators=(",", ":"))
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def from_tensor(stored: Tensor) -> Any:
    """The value that `as_tensor` was given."""
    return _rebuilt(json.loads(stored.numpy().tobytes().decode()))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {ARRAY: [value.dtype.str, list(value.shape), value.ravel().tolist()]}
    if isinstance(value, np.generic):
        return _plain(np.asarray(value))
    if isinstance(value, np.random.RandomState):
        return {RANDOM: _plain(value.get_state(legacy=False))}
    if isinstance(value, np.random.Generator):
        return {GENERATOR: _plain(value.bit_generator.state)}
    if isinstance(value, tuple):
        return {TUPLE: [_plain(v) for v in value]}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("only dictionaries with texts as keys can be kept")
        return {key: _plain(v) for key, v in value.items()}
    return value


def _rebuilt(value: Any) -> Any:
    if isinstance(value, list):
        return [_rebuilt(v) for v in value]
    if not isinstance(value, dict):
        return value
    if ARRAY in value:
        dtype, shape, numbers = value[ARRAY]
        array = np.array(numbers, dtype=dtype).reshape(shape)
        return array if shape else array[()]
    if TUPLE in value:
        return tuple(_rebuilt(v) for v in value[TUPLE])
    if RANDOM in value:
        random = np.random.RandomState()
        random.set_state(_rebuilt(value[RANDOM]))
        return random
    if GENERATOR in value:
        state = _rebuilt(value[GENERATOR])
        bits = getattr(np.random, state["bit_generator"])()
        bits.state = state
        return np.random.Generator(bits)
    return {key: _rebuilt(v) for key, v in value.items()}
