"""The course of the documentation: running its notebooks, and the style of their figures."""
