"""A device that a test steers message by message, over a WebSocket."""

from __future__ import annotations

from typing import Any

from aiohttp import ClientWebSocketResponse, WSMsgType
from aiohttp.test_utils import TestClient

from device_runtime.drafter import Drafter
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.errors import ErrorCode
from device_runtime.protocol.messages import Message, Refusal, decode, encode
from device_runtime.protocol.randomness import device_coins
from device_runtime.turn import Counts, Turn

SESSION_PATH = "/v1/session"


class EdgeClient:
    """One connection and the device's session on it."""

    def __init__(self, socket: ClientWebSocketResponse, session: DeviceSession) -> None:
        self.socket = socket
        self.session = session

    @classmethod
    async def connect(
        cls, client: TestClient[Any, Any], session: DeviceSession, token: str = ""
    ) -> EdgeClient:
        """Connect and shake hands; a session that has a resume token sends it."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        socket = await client.ws_connect(SESSION_PATH, headers=headers, compress=0)
        device = cls(socket, session)
        session.receive_welcome(await device.exchange(session.hello()))
        return device

    async def exchange(self, data: bytes) -> bytes:
        """One message up, one down."""
        await self.socket.send_bytes(data)
        return await self.receive()

    async def receive(self) -> bytes:
        """The next message; fails if the edge closed the connection."""
        message = await self.socket.receive(10)
        assert message.type is WSMsgType.BINARY, message
        data: bytes = message.data
        return data

    async def refusal(self, data: bytes | Message) -> ErrorCode:
        """Send something that must be refused; the code of the refusal."""
        answer = decode(await self.exchange(data if isinstance(data, bytes) else encode(data)))
        assert isinstance(answer, Refusal), answer
        return answer.code

    async def close_code(self) -> int | None:
        """Wait until the edge closes the connection; its close code."""
        message = await self.socket.receive(10)
        assert message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR), message
        return self.socket.close_code

    async def begin(self, generation: Generation) -> None:
        """Start a generation after the session's tokens."""
        self.session.receive_begun(await self.exchange(self.session.begin(generation)))

    async def write(
        self, drafter: Drafter, generation: Generation, gamma: int, num_tokens: int
    ) -> list[int]:
        """Begin and run rounds until num_tokens tokens stand; those tokens."""
        await self.begin(generation)
        counts = Counts()
        turn = Turn(self.session, drafter, generation, device_coins(3), counts)
        tokens: list[int] = []
        while len(tokens) < num_tokens:
            data: bytes | None = turn.draft(gamma)
            while data is not None:
                step = turn.receive(await self.exchange(data))
                tokens += [committed.token_id for committed in step.committed]
                data = step.send
        return tokens[:num_tokens]

    async def stream(self, num_tokens: int) -> list[int]:
        """The edge-only stream."""
        await self.socket.send_bytes(self.session.stream(num_tokens))
        tokens: list[int] = []
        last = False
        while not last:
            message = self.session.receive_tokens(await self.receive())
            tokens += message.ids
            last = message.last
        return tokens
