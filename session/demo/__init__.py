"""The whole idea at work, in one run: `refold demo`.

The anthropic client, the sessions, the log, the killed process and the damaged file are real. The answers of the model
are not: they come from `session.testing`'s scripted API, on this machine, without a network or a key. `live` asks the
real API instead, with the same harmless tools.

`station` is what is talked about: tools and the scripted model. `steps` are what is shown, one function each. `killed`
is the program that is killed. `conversations` are three of our own making, in the format of the session SDKs.
"""

from session.demo.steps import STEPS, Stage, Step, staged

__all__ = ["STEPS", "Stage", "Step", "staged"]
