"""What users' objects do when they are asked: an exception, a result, a function whose every method raises."""

import dataclasses
import logging
import sys

import pytest
from hostile import BASE_KINDS, Frozen, all_bombs, exceptions, object_whose_everything_raises

from aiopool._faults import (
    describe,
    describe_error,
    describe_fields,
    drop_frame,
    is_kind,
    log_fault,
    set_context,
    traceback_of,
    type_name,
)

HOSTILE = exceptions()
kinds = pytest.mark.parametrize("kind", [ValueError, *BASE_KINDS])


def raised(make):
    """Return an exception that was raised, with its traceback."""
    try:
        raise make()
    except BaseException:
        return sys.exc_info()[1]


# -- describing ----------------------------------------------------------------------------------------------------


@kinds
def test_any_object_is_described(kind):
    """What cannot be printed is described by its type."""
    thing = object_whose_everything_raises(kind)
    assert describe(thing) == "<Hostile object, whose repr() fails>"
    assert type_name(thing) == "Hostile"
    error = type("Broken", (Exception,), all_bombs(kind))()
    assert describe_error(error) == "Broken: <its str() fails>"


def test_what_can_be_printed_is_printed():
    """An ordinary exception is described as a traceback does it."""
    assert describe([1, "x"]) == "[1, 'x']"
    assert describe_error(KeyError("x")) == "KeyError: 'x'"
    assert describe_error(ValueError()) == "ValueError"


def test_a_text_of_a_class_of_its_own_is_made_plain():
    """A `__str__` may return a str whose methods raise later."""
    text = type("Text", (str,), {"__format__": all_bombs(ValueError)["__format__"]})("hello")
    error = type("Error", (Exception,), {"__str__": lambda self: text})()
    assert describe_error(error) == "Error: hello"
    assert type(describe(type("Thing", (), {"__repr__": lambda self: text})())) is str


def test_a_record_is_printed_whatever_it_holds():
    """A dataclass of ours can be printed if a field of it cannot."""

    @dataclasses.dataclass(frozen=True)
    class Record:
        number: int
        thing: object

        __repr__ = describe_fields

    assert repr(Record(1, object_whose_everything_raises())).endswith(
        "Record(number=1, thing=<Hostile object, whose repr() fails>)"
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_any_exception_can_be_asked(name):
    """Its kind, its traceback and its words are had without a call of a method that may raise."""
    error = raised(HOSTILE[name])
    assert is_kind(error, BaseException)
    assert not is_kind(error, (SystemExit, KeyboardInterrupt))
    trace = traceback_of(error)
    assert trace is not None
    assert trace.tb_frame.f_code.co_name == "raised"
    assert drop_frame(error) is error
    assert traceback_of(error) is trace.tb_next
    assert describe_error(error)
    set_context(error, ValueError())


@pytest.mark.parametrize("name", HOSTILE)
def test_any_exception_can_be_logged(name, caplog, capsys):
    """A line is written, with the type and the place, and nothing raises; also with a chain."""
    error = raised(HOSTILE[name])
    set_context(error, raised(HOSTILE[name]))
    log_fault(logging.getLogger("aiopool.job"), "it failed: %s, %s", error, 3, error=error)
    (record,) = caplog.records
    assert record.getMessage().startswith("it failed: ")
    assert "in raised" in caplog.text
    assert type_name(error) in caplog.text
    assert "Logging error" not in capsys.readouterr().err


@kinds
def test_a_handler_that_raises_hides_nothing(kind, capsys):
    """The line, the fault and the handler's own fault go to stderr."""

    class Broken(logging.Handler):
        def emit(self, record):
            raise kind("the disk is full")

    logger = logging.getLogger("aiopool.test.broken")
    handler = Broken()
    logger.addHandler(handler)
    try:
        log_fault(logger, "it failed: %s", "x", error=raised(Frozen))
    finally:
        logger.removeHandler(handler)
    err = capsys.readouterr().err
    assert "it failed: x" in err
    assert "Frozen" in err
    assert "the disk is full" in err
