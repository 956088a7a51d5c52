"""Property tests of this folder have no time limit, because machines differ in speed."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
