"""An engine's answer to a turn with tools, on its way to the client: read, checked, written again.

    whole answer ─► tool_whole     ToolReader for each choice, the same answer with what may be seen
    stream       ─► tool_streams   each event through the reader

Both forms, Chat Completions and Messages. What is neither text nor call (reasoning, log
probabilities, usage) passes as it came. What calls that were made again cost is added to the usage.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from router.calls.forms import ChatForm
from router.calls.plan import ToolPlan
from router.calls.reader import Retry
from router.calls.shapes import Spent
from router.calls.streams import AnswerStream, ChatStream, MessagesStream
from router.turn import Decision, Dispatched
from serving.protocol import SseSplitter


class ToolAnswer:
    """A `Dispatched` around another one."""

    def __init__(
        self, answer: Dispatched, plan: ToolPlan, retry: Retry, spent: Spent, whole: bytes | None
    ) -> None:
        self.decision: Decision = answer.decision
        self.status = answer.status
        headers = dict(answer.headers)
        if plan.summary:
            headers["x-warmloop-tools"] = plan.summary
        self.headers: Mapping[str, str] = headers
        self._answer = answer
        self._whole = whole
        if whole is not None:
            headers["content-length"] = str(len(whole))
        else:
            headers.pop("content-length", None)
            chat = isinstance(plan.form, ChatForm)
            make: type[ChatStream | MessagesStream] = ChatStream if chat else MessagesStream
            self._stream: AnswerStream = make(plan, retry, spent)

    async def chunks(self) -> AsyncIterator[bytes]:
        if self._whole is not None:
            yield self._whole
            return
        splitter = SseSplitter()
        async for chunk in self._answer.chunks():
            # One by one: what is known must neither wait for a call that is made again, nor be
            # lost with it.
            for event in splitter.feed(chunk):
                if out := await self._stream.event(event):
                    yield out
        self._stream.over()
