"""What an engine imports as it starts, as it imports it: read once, for all those that `tests.warm` makes."""

from lorarlhf.starting import compiling_later

with compiling_later():
    import lorarlhf.engine.core
import lorarlhf.engine.server
import lorarlhf.engine.training  # noqa: F401
