"""What to spend where: budgets, and the allocation that meets them."""

from .allocate import Allocation, Limit, allocate, file_bytes, is_free, steadied
from .budget import Budget
from .flops import flops_limit, priced_by_flops
from .smallest import Tried, smallest

__all__ = [
    "Allocation",
    "Budget",
    "Limit",
    "Tried",
    "allocate",
    "file_bytes",
    "flops_limit",
    "is_free",
    "priced_by_flops",
    "smallest",
    "steadied",
]
