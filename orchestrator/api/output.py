"""The output of a response as it grows: which items there are, over turns and attempts.

    begin(attempt) ─ delta* ─ result │ cut    then tool_result*, then the next attempt

Ids come from (response, step, attempt, index), so a replay of the log gives the same ones. What
an attempt streamed is open until the model's whole answer is in the log: `result` brings each item
to what the answer says and closes it, `cut` closes what is open as `incomplete`. A further attempt
of the same step replaces all items of the ones before.
"""

from __future__ import annotations

from orchestrator.api.mcp_items import McpCall, McpListTools, McpNames
from orchestrator.api.output_items import (
    ApprovalRequest,
    Emitted,
    FunctionCall,
    FunctionCallOutput,
    Message,
    OpenItem,
    Reasoning,
)
from orchestrator.loop.events import (
    ApprovalDecided,
    ApprovalRequested,
    CallReady,
    Item,
    ModelResult,
    OutputDelta,
    ToolProgress,
    ToolResult,
    ToolsListed,
    ToolsOffered,
)
from orchestrator.loop.mcp_calls import item_id
from orchestrator.loop.state import replies
from serving.reply import REPLY

Attempt = tuple[int, int]
"""Step and attempt."""
AnyCall = FunctionCall | McpCall
CallEvent = CallReady | ToolProgress | ApprovalRequested | ApprovalDecided | ToolResult


class Output:
    """The items of one response; every method returns the streaming events it gives rise to."""

    def __init__(self, response_id: str) -> None:
        self._id = response_id.removeprefix("resp_")
        self._items: list[OpenItem] = []
        self._replaced: set[str] = set()
        self._attempt: Attempt = (0, 0)
        self._of_attempt: list[Message | Reasoning | AnyCall] = []
        self._blank = ""
        self._answered: set[str] = set()
        self._decided: dict[str, ApprovalDecided] = {}
        self._names = McpNames()

    def items(self) -> list[Item]:
        """All items so far but those that a later attempt replaced."""
        return [item.as_item() for item in self._items if item.item_id not in self._replaced]

    def begin(self, attempt: Attempt) -> list[Emitted]:
        """A new attempt replaces all that earlier attempts of its step have streamed."""
        emitted = self.cut()
        if attempt[0] == self._attempt[0]:
            self._replaced.update(item.item_id for item in self._of_attempt)
        self._attempt = attempt
        self._of_attempt = []
        self._blank = ""
        return emitted

    def cut(self) -> list[Emitted]:
        """Close what is open: its attempt came to nothing, or left it unfinished."""
        still_open = [item for item in self._of_attempt if item.is_open]
        return [event for item in still_open for event in item.close("incomplete")]

    def end(self) -> list[Emitted]:
        """The response has ended: calls that never ran give nothing any more."""
        emitted = self.cut()
        waiting = (each for each in self._of_attempt if isinstance(each, McpCall))
        left = [call for call in waiting if call.awaits_result]
        return [*emitted, *(event for call in left for event in call.close("incomplete"))]

    def tools(self, event: ToolsListed | ToolsOffered) -> list[Emitted]:
        """What the request's MCP servers offer."""
        if isinstance(event, ToolsListed):
            self._names.listed(event)
            return []
        tools = self._names.offered(event)
        if tools is None:
            return []
        place = len(self._items)
        item = McpListTools(f"mcpl_{self._id}_{place}", place, event.server, tools)
        self._items.append(item)
        return item.show()

    def delta(self, event: OutputDelta) -> list[Emitted]:
        """A batch of streamed output; what a superseded attempt still wrote is not shown."""
        if (event.step, event.attempt) != self._attempt:
            return []
        if event.kind == "text":
            return self._text(event.text)
        if event.kind == "reasoning":
            return self._think(event.text)
        call = self._call(event.call_id)
        emitted: list[Emitted] = []
        if call is None:
            if event.kind != "call" or event.name == REPLY or self._names.asks(event.name):
                return []
            call, emitted = self._open_call(event.call_id, event.name)
        return [*emitted, *(call.grow(event.text) if event.text else [])]

    def _think(self, text: str) -> list[Emitted]:
        thinking, emitted = self._reasoning(), []
        if thinking is None:
            thinking = Reasoning(self._item_id("rs", len(self._of_attempt)), len(self._items))
            self._add(thinking)
            emitted = thinking.open()
        return [*emitted, *thinking.grow(text)]

    def _text(self, text: str) -> list[Emitted]:
        message = self._message()
        if message is not None:
            return message.grow(text)
        # Engines put blank lines before a call; they are kept back until there is text.
        self._blank += text
        if not self._blank.strip():
            return []
        text, self._blank = self._blank, ""
        message, emitted = self._open_message()
        return [*emitted, *message.grow(text)]

    def result(self, event: ModelResult) -> list[Emitted]:
        """The whole answer. A reply is shown as its text; calls beside it do not run."""
        if (event.step, event.attempt) != self._attempt:
            return []
        emitted: list[Emitted] = []
        if event.reasoning:
            thinking = self._reasoning()
            streamed = thinking.text if thinking is not None else ""
            if missing := event.reasoning[len(streamed) :]:
                emitted += self._think(missing)
            if (thinking := self._reasoning()) is not None:
                emitted += thinking.close("completed")
        if event.text.strip():
            message = self._message()
            if message is None or not event.text.startswith(message.text):
                emitted += self._withdraw(message)
                message, opened = self._open_message()
                emitted += opened
            emitted += _complete(message, event.text, _status(event))
        begun = {
            item.call_id
            for item in self._of_attempt
            if isinstance(item, AnyCall) and not item.is_open
        }
        wanted_calls = () if replies(event) else event.calls
        self._names.hold(wanted_calls)
        for wanted in wanted_calls:
            if wanted.name == REPLY or wanted.call_id in {*begun, *self._names.unseen}:
                continue
            call = self._call(wanted.call_id)
            if call is None or not wanted.arguments.startswith(call.text):
                emitted += self._withdraw(call)
                call, opened = self._open_call(wanted.call_id, wanted.name)
                emitted += opened
            emitted += _complete(call, wanted.arguments, "completed")
        # The answer does not hold it: half a call, or a reply that could not be used.
        for item in [item for item in self._of_attempt if item.is_open]:
            emitted += self._withdraw(item)
        return emitted

    def _withdraw(self, item: Message | Reasoning | AnyCall | None) -> list[Emitted]:
        # What was sent cannot be unsaid inside its item: another item takes its place.
        if item is None:
            return []
        self._replaced.add(item.item_id)
        return item.close("incomplete")

    def call_event(self, event: CallEvent) -> list[Emitted]:
        """Whatever became of a call."""
        match event:
            case CallReady():
                return self._call_ready(event)
            case ToolProgress():
                return self._progress(event)
            case ApprovalRequested():
                return self._approval(event)
            case ApprovalDecided():
                # Of a call of an earlier response, whose result comes in this one.
                self._decided[event.call_id] = event
                return []
            case ToolResult():
                return self._tool_result(event)

    def _tool_result(self, event: ToolResult) -> list[Emitted]:
        """What a call gave that the server ran; its place among the turn's calls makes its id."""
        if shown := self._mcp_calls(event.call_id):  # of which one may have taken another's place
            return next((each.result(event) for each in shown if each.awaits_result), [])
        if (held := self._names.unseen.pop(event.call_id, None)) is not None:
            return self._show_call(held.name, held.arguments, event)
        calls = [item for item in self._of_attempt if isinstance(item, FunctionCall)]
        for index, call in enumerate(calls):
            output_id = self._item_id("fco", index)
            if call.call_id == event.call_id and output_id not in self._answered:
                self._answered.add(output_id)
                place = len(self._items)
                output = FunctionCallOutput(output_id, place, event.call_id, event.output)
                self._items.append(output)
                return output.show()
        if event.call_id not in self._decided:
            return []
        decided = self._decided.pop(event.call_id)
        if decided.server:
            approval_id = decided.approval_id
            return self._show_call(decided.name, decided.arguments, event, approval_id)
        output_id = f"fco_{self._id}_{event.call_id}"
        output = FunctionCallOutput(output_id, len(self._items), event.call_id, event.output)
        self._items.append(output)
        return output.show()

    def _call_ready(self, event: CallReady) -> list[Emitted]:
        """A call is whole before its turn is: it runs already."""
        if (event.step, event.attempt) != self._attempt:
            return []
        call, opened = self._call(event.call.call_id), list[Emitted]()
        if call is None:
            call, opened = self._open_call(event.call.call_id, event.call.name)
        return [*opened, *_complete(call, event.call.arguments, "completed")]

    def _approval(self, event: ApprovalRequested) -> list[Emitted]:
        """A call waits for a person. One that was shown as running is in doubt."""
        self._names.unseen.pop(event.call_id, None)
        doubtful = [each for each in self._mcp_calls(event.call_id) if each.awaits_result]
        emitted = [told for call in doubtful for told in call.close("incomplete")]
        item = ApprovalRequest(event, len(self._items), self._whose(event))
        self._items.append(item)
        return [*emitted, *item.show()]

    def _whose(self, event: ApprovalRequested) -> tuple[str, str] | None:
        """The server that the call's request named, and its own name of the tool. What an agent
        asks that was itself asked as a tool may be called the same."""
        decided = self._decided.get(event.call_id)
        shown = (each for each in self._of_attempt if isinstance(each, FunctionCall))
        own = not decided.server if decided else any(x.call_id == event.call_id for x in shown)
        return None if own else self._names.find(event.name)

    def _show_call(
        self, name: str, arguments: str, event: ToolResult, approval_id: str = ""
    ) -> list[Emitted]:
        """A call of a request's server that a person was asked about, with what it gave."""
        server, tool = self._names.find(name) or ("", name)
        place = len(self._items)
        call_id = event.call_id
        call = McpCall(self._mcp_id(call_id), place, call_id, server, tool, approval_id)
        self._items.append(call)
        return call.show(arguments, event)

    def _mcp_calls(self, call_id: str) -> list[McpCall]:
        shown = (each for each in self._of_attempt if isinstance(each, McpCall))
        return [each for each in shown if each.call_id == call_id]

    def _mcp_id(self, call_id: str) -> str:
        shown = (each for each in self._items if isinstance(each, McpCall))
        return item_id(self._id, call_id, sum(each.call_id == call_id for each in shown))

    def _progress(self, event: ToolProgress) -> list[Emitted]:
        """What a running tool shows; an event of our own, beside OpenAI's."""
        calls = (item for item in self._of_attempt if isinstance(item, AnyCall))
        call = next((each for each in calls if each.call_id == event.call_id), None)
        if call is None:
            return []
        return [
            {
                "type": "warmloop:tool_progress",
                "item_id": call.item_id,
                "output_index": call.output_index,
                "call_id": event.call_id,
                "value": event.value,
            }
        ]

    def _item_id(self, prefix: str, index: int) -> str:
        step, attempt = self._attempt
        return f"{prefix}_{self._id}_{step}_{attempt}_{index}"

    def _open_message(self) -> tuple[Message, list[Emitted]]:
        message = Message(self._item_id("msg", len(self._of_attempt)), len(self._items))
        self._add(message)
        return message, message.open()

    def _open_call(self, call_id: str, name: str) -> tuple[AnyCall, list[Emitted]]:
        place = len(self._items)
        call: AnyCall
        if (found := self._names.find(name)) is not None:
            call = McpCall(self._mcp_id(call_id), place, call_id, *found)
        else:
            call = FunctionCall(self._item_id("fc", len(self._of_attempt)), place, call_id, name)
        self._add(call)
        return call, call.open()

    def _add(self, item: Message | Reasoning | AnyCall) -> None:
        self._items.append(item)
        self._of_attempt.append(item)

    def _message(self) -> Message | None:
        return next((x for x in self._of_attempt if isinstance(x, Message) and x.is_open), None)

    def _reasoning(self) -> Reasoning | None:
        return next((x for x in self._of_attempt if isinstance(x, Reasoning) and x.is_open), None)

    def _call(self, call_id: str) -> AnyCall | None:
        calls = (x for x in self._of_attempt if isinstance(x, AnyCall) and x.is_open)
        return next((call for call in calls if call.call_id == call_id), None)


def _complete(item: Message | AnyCall, whole: str, status: str) -> list[Emitted]:
    """Send what is still missing, then close."""
    missing = whole[len(item.text) :]
    return [*(item.grow(missing) if missing else []), *item.close(status)]


def _status(event: ModelResult) -> str:
    cut_short = event.finish_reason in ("length", "content_filter")
    return "incomplete" if cut_short else "completed"
