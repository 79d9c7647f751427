"""What diffusers' blocks do with the arguments that travel through them to our attention processors."""

from functools import wraps


def record(monkeypatch, module):
    """The `AttendArgs` that `module` makes, and those that its processors receive: two lists that a pass fills."""
    made, received = [], []

    class Recorded(module.AttendArgs):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    call = module.ContextProcessor.__call__

    @wraps(call)  # diffusers reads the signature
    def recorded(self, *args, **kwargs):
        received.extend(each for each in (*args, *kwargs.values()) if isinstance(each, Recorded))
        return call(self, *args, **kwargs)

    monkeypatch.setattr(module, "AttendArgs", Recorded)
    monkeypatch.setattr(module.ContextProcessor, "__call__", recorded)
    return made, received
