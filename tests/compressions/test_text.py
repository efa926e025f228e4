import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from summands.compressions import COMPRESSIONS, Additive, Keep
from summands.compressions.text import parse
from summands.errors import ArgumentError, PlanError

KEEPS = st.sampled_from([Keep(), Keep("float16"), Keep("bfloat16"), Keep("float32")])
SUMS = st.lists(KEEPS, min_size=1, max_size=5).map(lambda ks: ks[0] if len(ks) == 1 else Additive(tuple(ks)))


@given(SUMS)
def test_text_and_compression_are_inverse(compression):
    assert parse(str(compression)) == compression


@pytest.mark.parametrize(
    "text",
    [
        "Quantize(2)",
        'Quantize("auto", per="task", dtype="float16")',
        "Quantize(4, zero=True)",
        "Prune(keep=0.01)",
        'Prune(count=2662, per="task")',
        'Prune(keep="auto")',
        'LowRank(3, view="kernel")',
        'LowRank("auto")',
        'Quantize(2) + Prune(keep=0.01, dtype="float16") + LowRank(1)',
    ],
)
def test_what_a_plan_says_reads_as_it_was_written(text):
    assert str(parse(text)) == text


def test_nested_sums_in_parentheses_flatten():
    assert parse("Keep() + (Keep('float16') + Keep('bfloat16'))") == Keep() + Keep("float16") + Keep("bfloat16")
    assert parse(" (Keep()\n + Keep()) ") == Keep() + Keep()


def test_a_long_sum_does_not_overflow_the_stack():
    text = " + ".join(["Keep()"] * 900)
    try:
        assert len(parse(text).parts()) == 900
    except PlanError as error:  # where the interpreter's own parser gives up, the error is still ours
        assert "expression" in str(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Kepe()", "unknown compression 'Kepe'; did you mean 'Keep'?"),
        ("keep('float16')", "did you mean 'Keep'?"),
        ("Zzz()", "known: "),
        ("Keep", "Keep must be written with its arguments"),
        ("Keep(", "never closed"),
        ("", "must be an expression"),
        ("Keep() - Keep()", "joined by '+' alone"),
        ("2 * Keep()", "joined by '+' alone"),
        ("Keep() + 3", "a sum of calls"),
        ("-Keep()", "a sum of calls"),
        ("Keep(dtipe='float16')", "Keep has no argument 'dtipe'; did you mean 'dtype'?"),
        ("Keep('float16', dtype='float16')", "got it twice"),
        ("Keep('float16', 3)", "at most 1 unnamed arguments, got 2"),
        ("Keep(dtype='float16', dtype='float16')", "got it twice"),
        ("Quantize(2, 'task')", "at most 1 unnamed arguments, got 2; name the others: per=, dtype="),
        ("Quantize(per='task')", "Quantize needs its argument 'k'"),
        ("Keep(*[1])", "as an argument"),
        ("Keep(**{})", "without '**'"),
        ("Keep(Keep())", "as an argument"),
        ("Keep(x)", "as an argument"),
        ("Keep({})", "as an argument"),
        ("Keep(b'x')", "as an argument"),
        ("Keep(1j)", "as an argument"),
        ("Keep(f'{1}')", "as an argument"),
        ("Keep(--1)", "as an argument"),
        ("Keep(-True)", "as an argument"),
        ("Keep(2 ** 99)", "as an argument"),
        ("Keep(__import__('os'))", "as an argument"),
        ("__import__('os').system('true')", "a sum of calls"),
        ("(lambda: 0)()", "a sum of calls"),
        ("Keep.__class__()", "a sum of calls"),
        ("Keep()\x00", "must be an expression"),
        ("Keep(" + "9" * 5000 + ")", "must be an expression"),
        ("-" * 9000, "must be an expression"),
        ("Keep" + ".a" * 400 + "()", "a compression must be"),
        ("Keep" + ".a" * 4000 + "()", "a compression must be"),
        ("(" * 5000, "must be an expression"),
        ("Keep() +" * 5000, "at most 10000 characters"),
    ],
)
def test_anything_else_is_refused_with_a_reason(text, message):
    with pytest.raises(PlanError) as caught:
        parse(text)
    assert message in str(caught.value)


@given(st.text(alphabet="Kep() +-*'\",=dty[]{}.1e9:_ \n\x00", max_size=40))
def test_no_text_escapes_as_another_error(text):
    try:
        compression = parse(text)
    except ArgumentError:
        return
    assert parse(str(compression)) == compression


def test_what_is_no_text_is_refused():
    with pytest.raises(PlanError, match="must be a text like"):
        parse(3)


def test_arguments_outside_their_set_keep_their_error_and_name_the_text():
    with pytest.raises(
        ArgumentError, match=r"Keep\(dtype=...\) must be None or .* got 'int8' \(in \"Keep\('int8'\)\"\)"
    ):
        parse("Keep('int8')")


def test_wrong_types_are_refused_for_every_compression():
    wrong = ["(1, 2)", "'no such thing'", "[[None]]", "True", "-3", "1e999", "None"]
    for kind, value in itertools.product(COMPRESSIONS, wrong):
        try:
            parse(f"{kind.__name__}({value})")
        except ArgumentError:
            continue
