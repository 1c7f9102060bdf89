"""Laws and toys: what every method obeys, and a model small enough to check it on."""

from everlearn.testing.laws import check as check
