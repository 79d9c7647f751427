"""Every error that longtake raises on purpose.

LongtakeError
├── SpecError        the storyboard cannot be rendered as written (also a ValueError)
├── ShapeError       a value that flows between acts has the wrong size (also a ValueError)
├── ActorLost        a process that the render needs has died; what is finished is kept
├── StartError       actors fail in the same way each time they start
├── PoisonError      the same chunk failed again and again; what is finished is kept
├── Cancelled        the render was asked to stop; what is finished is kept
├── CapacityError    something does not fit: tokens, pages or bytes
├── NumericsError    a stage computed values that are not numbers, or far too large; they are not kept
├── KernelError      an attention kernel does not run here, or returns a wrong log-sum-exp
├── JournalError     another process owns the take's journal, or the journal lacks what a resume needs
├── WeightsError     a checkpoint is missing, damaged or of another architecture
└── MediaError       a container or codec could not read or write what was asked

A message says what is wrong, with the numbers, and how to fix it.
"""


class LongtakeError(Exception):
    """Base of all errors raised on purpose; anything else that escapes is a bug."""


class SpecError(LongtakeError, ValueError):
    """What the user asked for is impossible or unclear. The message names the key, the value and the fix."""


class ShapeError(LongtakeError, ValueError):
    """A value was built with a size that disagrees with its span on the clock."""


class ActorLost(LongtakeError):  # noqa: N818 (the field's word for it, as in "node lost")
    """An actor of the render died."""


class StartError(LongtakeError):
    """The actors of a render fail in the same way each time they start, so another try would fail too."""


class PoisonError(LongtakeError):
    """One chunk of a take failed so many times in a row that it is not tried again."""


class Cancelled(LongtakeError):  # noqa: N818 (nothing went wrong)
    """The render was asked to stop, by `longtake cancel`."""


class CapacityError(LongtakeError):
    """Something is larger than the space that was planned for it."""


class NumericsError(LongtakeError):
    """A stage computed values that are not numbers or far out of range, such as after an overflow in float16."""


class KernelError(LongtakeError):
    """An attention kernel cannot be used for results that are merged."""


class JournalError(LongtakeError):
    """The journal of a take cannot be used as asked."""


class WeightsError(LongtakeError):
    """Weights could not be found, read, or matched to the architecture that asked for them."""


class MediaError(LongtakeError):
    """A media file could not be read or written as asked."""


class EncodingError(MediaError, SpecError):
    """A file was asked for in a form that its codec or container cannot have."""
