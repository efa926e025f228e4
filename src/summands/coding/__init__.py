"""Symbols to bits and back."""


def estimated_bits(form) -> float:
    return form.paper_bits(set())
