"""From a dump to a published Japanese language model, stage by stage."""

__version__ = "0.1.0"


class Fault(ValueError):
    """Something a user can cause and mend; shown as one message, without a traceback.

    The message says what was wrong, the value seen, where it came from and what to do.
    """
