"""What to spend where: budgets, and the allocation that meets them."""

from .allocate import Allocation, allocate, is_free
from .budget import Budget

__all__ = ["Allocation", "Budget", "allocate", "is_free"]
