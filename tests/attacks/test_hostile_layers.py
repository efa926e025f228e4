"""Hostile layers of refinement, with right checksums: pieces that go with nothing before them."""

from dataclasses import replace

import torch

from summands.coding import Layout, encode_section, layout_of
from summands.container import read_prefix
from summands.container.header import PROGRESSIVE
from summands.errors import LimitError
from summands.forms import Dense, Form
from tests.attacks.forge import EXTENT, body_of, checksum, file_of, with_payload
from tests.attacks.refusal import refused
from tests.container.samples import dense, embedded, grid, low_rank, sparse, successive, total

SMALL = layout_of(dense((2,)))


def refined(*pieces: tuple[int, int, Layout], first: Layout, shared: tuple[Layout, ...] = ()) -> bytes:
    """One weight and one layer of one section with these pieces: weight, term, layout."""
    layer = [item for piece in pieces for item in piece]
    shared_items = (*shared, *EXTENT) if shared else ()
    body = body_of(1, "w", len(shared), *shared_items, 2, first, *EXTENT, 1, 1, len(pieces), *layer, *EXTENT, 0)
    return file_of(body, bytes(8 * (2 + bool(shared))), features=PROGRESSIVE)


def test_pieces_that_do_not_go_together():
    base = layout_of(sparse((9, 9)))
    many = replace(base, numbers=(80,))
    for piece in (
        (1, 0, base),
        (0, 2, base),
        (0, 0, many),
        (0, 0, layout_of(sparse((9, 8)))),
        (0, 0, layout_of(sparse((9, 9), dtype=torch.float16))),
        (0, 0, layout_of(sparse((9, 9), stored=torch.float32))),
        (0, 0, layout_of(grid((9, 9)))),
        (0, 1, layout_of(total(grid((9, 9)), grid((9, 9))))),
    ):
        refused(refined(piece, first=base), "piece|at most")
    refused(refined((0, 0, layout_of(dense((9,)))), first=layout_of(dense((9,)))), "do not go together")
    refused(refined((0, 0, layout_of(grid((9,)))), first=layout_of(grid((9,)))), "do not go together")
    ranks = layout_of(low_rank((6, 6)))
    refused(refined((0, 0, replace(ranks, numbers=(2, 3, 0))), first=ranks), "do not go together")
    refused(refined(*((0, k, base) for k in range(1, 80)), first=base), "terms")


def test_more_digits_than_a_level_has():
    form = grid((9,))
    layout, step = layout_of(form, [form.step]), layout_of(dense(()))
    refused(refined(*((0, 0, layout),) * 40, first=layout, shared=(step,)), "do not go together")


def test_planes_that_do_not_go_together():
    form = embedded((9, 9), planes=3)
    layout, shared = layout_of(form, [form.step, form.points]), (layout_of(dense(())), layout_of(points(3)))
    refused(refined(*((0, 0, layout),) * 3, first=layout, shared=shared), "do not go together")
    refused(refined((0, 0, layout_of(form)), first=layout_of(form)), "do not go together")
    refused(refined((0, 0, layout_of(form, [form.step])), first=layout, shared=shared), "do not go together")
    deeper = replace(layout, numbers=(4,))
    refused(refined((0, 0, deeper), first=layout, shared=shared), "shared tensor|do not go together")
    for planes in (0, 32, 2**40):
        wrong = replace(layout_of(form), numbers=(planes,))
        refused(file_of(body_of(1, "w", 0, 2, wrong, *EXTENT, 0), bytes(8)), "number of planes")


def points(planes: int) -> Form:
    values = torch.full((planes,), 128, dtype=torch.uint8)
    return Dense(shape=values.shape, dtype=values.dtype, values=values)


def test_runs_of_picks_that_do_not_go_together():
    [form] = successive((9, 9), count=80)
    layout, shared = layout_of(form, [form.scale]), (layout_of(dense(())),)
    for place, number in ((1, 90), (2, 1), (3, 1), (4, 7), (5, 9)):
        numbers = tuple(number if i == place else n for i, n in enumerate(layout.numbers))
        other = replace(layout, numbers=numbers)
        refused(refined((0, 0, other), first=layout, shared=shared), "do not go together|entries of a vector")
    refused(refined((0, 0, layout_of(form)), first=layout, shared=shared), "do not go together")
    refused(refined(*((0, 0, layout),) * 32, first=layout, shared=shared), "do not go together")


def test_runs_of_a_shared_sequence_that_do_not_go_together():
    first = layout_of(dense((9,)))
    events = Layout("Events", (80,), torch.int32, (81, 5), layout_of(successive((81,))[0]).stored[1:])
    refused(refined((1, 0, replace(events, numbers=(82, 5))), first=first, shared=(events,)), "do not go together")
    refused(refined((1, 0, first), first=first, shared=(events,)), "different kinds")
    refused(refined((1, 0, first), first=first, shared=(first,)), "do not go together")
    refused(refined((1, 1, events), first=first, shared=(events,)), "term 1 of a shared tensor")
    refused(refined((2, 0, events), first=first, shared=(events,)), "at most 1")
    refused(refined(*((1, 0, events),) * 32, first=first, shared=(events,)), "do not go together")


def test_events_declare_what_they_are():
    stored = layout_of(successive((81,))[0]).stored[1:]
    events = Layout("Events", (80,), torch.int32, (81, 5), stored)
    refused(file_of(body_of(1, "w", 0, 2, events, *EXTENT, 0), bytes(8)), "only a shared tensor")
    for wrong in (
        replace(events, numbers=(0, 5)),
        replace(events, numbers=(2**31, 5)),
        replace(events, shape=(8, 10)),
    ):
        refused(file_of(body_of(0, 1, wrong, *EXTENT, 0), bytes(8)), "entries of a vector")
    floats = replace(events, dtype=torch.float32, stored=(replace(stored[0], dtype=torch.float32),))
    refused(file_of(body_of(0, 1, floats, *EXTENT, 0), bytes(8)), "picks must be int32")
    huge = replace(events, shape=(2**40,))
    refused(file_of(body_of(0, 1, huge, *EXTENT, 0), bytes(8)), f"declares {2**42} bytes of memory", LimitError)


def test_runs_that_the_coder_cannot_have_made():
    """A later run is decoded after those before it: other bytes than theirs are refused."""
    forms = {"w": successive((40, 40), count=400)[0]}
    for change in (lambda payload: payload + b"\1", lambda payload: payload * 2):
        refused(with_payload(forms, change, layers=4), "weight 'w'", decodes=True)


def test_layers_without_anything_in_them():
    for empty in (body_of(0), body_of(1, 0), body_of(1, 1, 0)):
        body = body_of(1, "w", 0, 2, SMALL, *EXTENT) + empty + body_of(*EXTENT, 0)
        refused(file_of(body, bytes(16), features=PROGRESSIVE), "without anything")
    row_blocks = body_of(1, "w", 0, 5, SMALL, *EXTENT, SMALL, *EXTENT, 1, 1, 1, 0, 1, SMALL, *EXTENT, 0)
    refused(file_of(row_blocks, bytes(24), features=PROGRESSIVE), "cannot be")


def test_pieces_that_overlap():
    """Two pieces of a sparse term with the same positions."""
    form = sparse((9, 9))
    payload = encode_section([form]).payload
    extent = (len(payload), checksum(payload))
    layout = layout_of(form)
    body = body_of(1, "w", 0, 2, layout, *extent, 1, 1, 1, 0, 0, layout, *extent, 0)
    data = file_of(body, payload * 2, features=PROGRESSIVE)
    refused(data, "strictly increasing", decodes=True)
    assert read_prefix(data, layers=1).forms["w"].same(form)
