"""Sizes and durations: one rule for options, environment variables and commands, and for what is printed."""

import click
import numpy as np
import pytest

from ana import settings, units
from ana.cli import common

SIZES = {
    "0": 0,
    "17": 17,
    "3k": 3000,
    "3K": 3000,
    "2M": 2_000_000,
    "2G": 2 * 10**9,
    "2 GB": 2 * 10**9,
    "2GiB": 2 << 30,
    "2gi": 2 << 30,
    "1.5G": 1_500_000_000,
    "1.5Ki": 1536,
    "1T": 10**12,
    "1PiB": 1 << 50,
    "9007199254740993": 9007199254740993,
}
DURATIONS = {
    "10s": 10.0,
    "30m": 1800.0,
    "24h": 86400.0,
    "14d": 14 * 86400.0,
    "8w": 56 * 86400.0,
    "0.5": 0.5,
    "5 min": 300.0,
}
NO_SIZES = ("", "G", "1X", "-1", "1e3", "1,000", "lots", "1GG", "1 0", "٣")
NO_DURATIONS = ("", "d", "-1s", "1 month", "1e3", "soon", "nan", f"{'9' * 400}d")


@pytest.mark.parametrize("text", SIZES)
def test_a_size_means_the_same_everywhere(text, monkeypatch):
    """As an option, in the environment and on the command line: G is 10^9, Gi and GiB are 2^30."""
    found = SIZES[text]
    assert units.size_bytes(text) == found
    assert settings.checked({"keep_bytes": text}).keep_bytes == found
    assert common.SIZE(text) == found
    if found:
        monkeypatch.setenv("ANA_NODE_CACHE_BYTES", text)
        assert settings.NODE_CACHE_BYTES.value() == found


@pytest.mark.parametrize("text", DURATIONS)
def test_a_duration_means_the_same_everywhere(text, monkeypatch):
    """As an option, in the environment and on the command line, where it needs a unit."""
    found = DURATIONS[text]
    assert units.seconds(text) == found
    assert settings.checked({"recheck_seconds": text}).recheck_seconds == found
    monkeypatch.setenv("ANA_WAIT", text)
    assert settings.WAIT.value() == found
    if text[-1].isalpha():
        assert common.AGE(text) == found
    else:
        with pytest.raises(click.BadParameter, match="is not a time: use 90s"):
            common.AGE(text)


@pytest.mark.parametrize("text", NO_SIZES)
def test_what_is_no_size_is_refused(text, monkeypatch):
    """With the name of the option or variable, what it was set to, and an example."""
    with pytest.raises(ValueError, match=r'^keep_bytes must be .* "20G" .* "20GiB" .*, not '):
        settings.checked({"keep_bytes": text})
    with pytest.raises(click.BadParameter, match="is not a size: use 500k"):
        common.SIZE(text)
    if text:
        monkeypatch.setenv("ANA_NODE_CACHE_BYTES", text)
        with pytest.raises(settings.ANAError, match=r'ANA_NODE_CACHE_BYTES must be .* "20G" .*, not ') as raised:
            settings.NODE_CACHE_BYTES.value()
        assert repr(text) in str(raised.value)


@pytest.mark.parametrize("text", NO_DURATIONS)
def test_what_is_no_duration_is_refused(text, monkeypatch):
    """With the name of the option or variable, what it was set to, and an example."""
    with pytest.raises(ValueError, match=r'^recheck_seconds must be .* "14d", not '):
        settings.checked({"recheck_seconds": text})
    with pytest.raises(click.BadParameter, match="is not a time: use 90s"):
        common.AGE(text)
    if text:
        monkeypatch.setenv("ANA_WAIT", text)
        with pytest.raises(settings.ANAError, match=r'ANA_WAIT must be .* "14d", not '):
            settings.WAIT.value()


@pytest.mark.parametrize("number", [0, 7, np.int64(7), 2e9, np.float64(8)])
def test_numbers_are_bytes_or_seconds(number):
    """Python's and numpy's."""
    assert units.size_bytes(number) == number
    assert units.seconds(number) == number
    assert type(units.size_bytes(number)) is int


def test_a_number_without_end_is_refused_as_a_time():
    """As wrong, not by an error about floats: a size may be that large, and is too large later."""
    assert units.size_bytes(10**400) == 10**400
    with pytest.raises(ValueError):
        units.seconds(10**400)


@pytest.mark.parametrize("wrong", [True, None, [1], b"1G", 1j, float("nan"), -1])
def test_what_is_no_number_is_refused(wrong):
    """Booleans, which are Python's integers, too."""
    for parse in (units.size_bytes, units.seconds):
        with pytest.raises((TypeError, ValueError)):
            parse(wrong)


@pytest.mark.parametrize("size_bytes", [0, 1, 999, 1000, 1536, 2_000_000, 1 << 30, 5 * 10**12])
def test_what_is_printed_can_be_read_back(size_bytes):
    """A printed size means, by the same rule, the size to three digits."""
    assert units.size_bytes(units.size(size_bytes)) == pytest.approx(size_bytes, rel=0.005)


@pytest.mark.parametrize("seconds", [0, 45, 90, 3700, 86400 * 3])
def test_a_printed_time_can_be_read_back(seconds):
    """To two digits."""
    assert units.seconds(units.age(seconds)) == pytest.approx(seconds, rel=0.05)
