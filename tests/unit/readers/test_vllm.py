"""The vLLM client against a server of our own that reads the wire as vLLM's does, bit for bit."""

import asyncio
import base64
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from ctxcompress_integrations.errors import ReaderError, SummaryMismatchError, SummaryValueError
from ctxcompress_integrations.readers.vllm import VLLMReader
from ctxcompress_integrations.testing.tiny import tiny_decoder

pytestmark = pytest.mark.enable_socket  # to 127.0.0.1, where the server below listens
ANSWER = "The tower is 330 m tall."


def decode(data):
    """As vLLM's server does, and stricter: nothing but one dense tensor with a storage of its own."""
    tensor = torch.load(io.BytesIO(base64.b64decode(data, validate=True)), weights_only=True)
    assert type(tensor) is torch.Tensor
    assert tensor.layout is torch.strided
    assert tensor.is_contiguous()
    assert tensor.storage_offset() == 0
    assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    assert not tensor.requires_grad
    return tensor


class FakeServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen, self.refusal, self.cut, self.wait, self.raw = [], None, None, 0.0, None
        self.open, self.most, self.lock = 0, 0, threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.seen.append((self.path, body, dict(self.headers)))
            server.open += 1
            server.most = max(server.most, server.open)
        time.sleep(server.wait)
        try:
            self.answer(server, body)
        except (BrokenPipeError, ConnectionResetError):
            server.seen.append("gone")
        finally:
            with server.lock:
                server.open -= 1

    def answer(self, server, body):
        is_chat = self.path == "/v1/chat/completions"
        has_vectors = is_chat and not isinstance(body["messages"][0]["content"], str)
        if server.refusal and (has_vectors or server.refusal[0] == "all"):
            self.send(server.refusal[1], server.refusal[2], server.refusal[3:])
        elif server.raw is not None:
            self.send(200, server.raw)
        elif body.get("stream"):
            self.stream(server, is_chat)
        else:
            choice = {"message": {"role": "assistant", "content": ANSWER}} if is_chat else {"text": ANSWER}
            self.send(200, json.dumps({"choices": [{"index": 0, **choice}]}))

    def stream(self, server, is_chat):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        pieces = [ANSWER[i : i + 5] for i in range(0, len(ANSWER), 5)]
        events = [{"choices": [{"delta": {"role": "assistant", "content": ""}}]}] if is_chat else []
        events += [{"choices": [{"delta": {"content": p}} if is_chat else {"text": p}]} for p in pieces]
        events += [{"choices": [{"delta": {}} if is_chat else {"text": ""}]}, {"choices": [], "usage": {}}]
        for event in events[: server.cut]:
            self.wfile.write(f": a comment\ndata: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()
            time.sleep(server.wait)
        if server.cut is None:
            self.wfile.write(b"data: [DONE]\n\n")

    def send(self, status, text, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with FakeServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_key_around(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


@pytest.fixture(scope="module")
def decoder():
    return tiny_decoder("llama")


UNKNOWN = ("chat", 400, json.dumps({"error": {"message": "Unknown part type: prompt_embeds", "code": 400}}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_parts_on_the_wire(server, decoder, twin, dtype):
    made = twin.summary(decoder[0], "a", 9)
    whole = torch.from_numpy(made.vectors).to(dtype)
    slices = [type(made)("a", part, "f", made.reader, 9) for part in (whole[2:6], whole[6:], whole.T.contiguous().T)]
    reader = VLLMReader(server.url, "m", identity=made.reader)
    parts = ["One: ", slices[0], slices[1], " two", ": ", slices[2]]
    assert reader.generate(parts, max_new_tokens=33, stop=["\n"]) == ANSWER
    ((path, body, headers),) = server.seen
    assert path == "/v1/chat/completions"
    assert headers["Content-Type"] == "application/json"
    assert "Authorization" not in headers
    content = body.pop("messages")[0].pop("content")
    assert body == {"model": "m", "max_tokens": 33, "temperature": 0.0, "stop": ["\n"]}
    assert [part["type"] for part in content] == ["text", "prompt_embeds", "prompt_embeds", "text", "prompt_embeds"]
    assert [part["text"] for part in content if part["type"] == "text"] == ["One: ", " two: "]
    sent = [decode(part["data"]) for part in content if part["type"] == "prompt_embeds"]
    for got, summary in zip(sent, slices, strict=True):
        assert got.dtype == dtype
        assert torch.equal(got.view(torch.uint8), summary.vectors.contiguous().view(torch.uint8))


def test_numpy_vectors_on_the_wire(server, decoder, twin):
    summary = twin.summary(decoder[0], dtype=np.float16)
    VLLMReader(server.url, "m", identity=summary.reader).generate([summary])
    np.testing.assert_array_equal(
        decode(server.seen[0][1]["messages"][0]["content"][0]["data"]).numpy(), summary.vectors
    )


def test_text_alone_is_a_plain_chat(server):
    assert VLLMReader(server.url, "m").generate(["How ", "tall?"]) == ANSWER
    assert server.seen[0][1]["messages"] == [{"role": "user", "content": "How tall?"}]
    assert "stop" not in server.seen[0][1]


def test_streaming(server, decoder, twin):
    summary = twin.summary(decoder[0])
    reader = VLLMReader(server.url, "m", identity=summary.reader)
    pieces = list(reader.stream(["Read ", summary], max_new_tokens=7))
    assert "".join(pieces) == ANSWER
    assert len(pieces) >= 5
    assert server.seen[0][1]["stream"] is True
    server.refusal = UNKNOWN
    embeds = VLLMReader(server.url, "m", identity=summary.reader, tokenizer=decoder[1], embedding=embedding(decoder))
    assert "".join(embeds.stream(["Read ", summary])) == ANSWER
    assert [seen[0] for seen in server.seen[1:]] == ["/v1/chat/completions", "/v1/completions"]


def test_whoever_stops_reading_closes_the_connection(server):
    server.wait = 0.02
    stream = VLLMReader(server.url, "m").stream(["?"])
    next(stream)
    stream.close()
    server.wait = 0.0
    deadline = time.monotonic() + 10
    while server.open and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.open == 0


def embedding(decoder):
    return decoder[0].get_input_embeddings()


@pytest.mark.parametrize(
    "refusal",
    [
        UNKNOWN,
        ("chat", 400, json.dumps({"object": "error", "message": "Unknown part type: prompt_embeds"})),
        ("chat", 422, json.dumps({"detail": [{"msg": "Input should be 'text'", "input": "prompt_embeds"}]})),
        ("chat", 501, "unsupported content part"),
    ],
)
def test_old_servers_get_the_whole_prompt_as_embeddings(server, decoder, twin, refusal):
    model, tokenizer = decoder
    summary = twin.summary(model)
    server.refusal = refusal
    reader = VLLMReader(server.url, "m", identity=summary.reader, tokenizer=tokenizer, embedding=embedding(decoder))
    parts = ["Read ", summary, " and say"]
    assert [reader.generate(parts, max_new_tokens=5, stop=["x"]) for _ in range(2)] == [ANSWER] * 2
    assert reader.generate(["text"]) == ANSWER
    chat, completions = "/v1/chat/completions", "/v1/completions"
    assert [seen[0] for seen in server.seen] == [chat, completions, completions, chat]  # asked once, then known
    body = server.seen[1][1]
    sent = decode(body.pop("prompt_embeds"))
    assert body == {"model": "m", "max_tokens": 5, "temperature": 0.0, "stop": ["x"]}
    assert torch.equal(sent, twin.rows(model, tokenizer, parts).detach())


def test_another_refusal_is_no_old_server(server, decoder, twin):
    summary = twin.summary(decoder[0])
    reader = VLLMReader(server.url, "m", identity=summary.reader)
    server.refusal = ("chat", 400, json.dumps({"message": "max_tokens: Input should be less than or equal to 1000"}))
    with pytest.raises(ReaderError, match="max_tokens: Input should be less"):
        reader.generate([summary])
    server.refusal = None
    assert reader.generate([summary]) == ANSWER


def test_old_servers_without_the_embedding(server, decoder, twin):
    summary = twin.summary(decoder[0])
    server.refusal = UNKNOWN
    reader = VLLMReader(server.url, "m", identity=summary.reader)
    for _ in range(2):
        with pytest.raises(ReaderError, match=r"chats \(Unknown part type.*\); .*embedding= and tokenizer="):
            reader.generate([summary])
    with pytest.raises(ValueError, match="pass tokenizer="):
        VLLMReader(server.url, "m", embedding=embedding(decoder))


@pytest.mark.parametrize(
    ("status", "text", "message"),
    [
        (400, '{"error": {"message": "You must set `--enable-prompt-embeds`\\nto input"}}', "must set .* to input"),
        (401, "Unauthorized content part", r"refused the request \(401 .*Unauthorized"),
        (500, "<html>" + "x" * 999, r"500 .*: <html>x{1,300}$"),
        (404, '{"detail": "Not Found"}', "Not Found"),
    ],
)
def test_refusals_are_passed_on_in_one_line(server, decoder, twin, status, text, message):
    summary = twin.summary(decoder[0])
    server.refusal = ("all", status, text)
    reader = VLLMReader(server.url, "m", identity=summary.reader, tokenizer=decoder[1], embedding=embedding(decoder))
    with pytest.raises(ReaderError, match=message) as caught:
        reader.generate([summary])
    assert "\n" not in str(caught.value)
    with pytest.raises(ReaderError, match=message):
        list(reader.stream([summary]))
    assert {seen[0] for seen in server.seen} == {"/v1/chat/completions"}


def test_a_redirect_takes_no_key_along(server):
    server.refusal = ("all", 302, "", ("Location", f"{server.url}/elsewhere"))
    with pytest.raises(ReaderError, match="302"):
        VLLMReader(server.url, "m", api_key="geheim").generate(["?"])
    assert len(server.seen) == 1


@pytest.mark.parametrize("raw", ["no json", "[]", '{"choices": [{}]}', '{"choices": [{"message": 3}]}', '"x"'])
def test_answers_without_an_answer(server, raw):
    server.raw = raw
    with pytest.raises(ReaderError, match=r"no JSON|no text in it"):
        VLLMReader(server.url, "m").generate(["?"])


def test_streams_that_break_off(server):
    server.cut = 3
    stream = VLLMReader(server.url, "m").stream(["?"])
    assert next(stream) == ANSWER[:5]
    with pytest.raises(ReaderError, match="in the middle of its answer"):
        list(stream)
    server.raw = 'data: {"error": {"message": "out of memory"}}\n\n'
    with pytest.raises(ReaderError, match="broke its answer off: out of memory"):
        list(VLLMReader(server.url, "m").stream(["?"]))
    server.raw = "data: {broken\n\n"
    with pytest.raises(ReaderError, match="no JSON"):
        list(VLLMReader(server.url, "m").stream(["?"]))


def test_silence_and_absence(server):
    server.wait = 0.5
    with pytest.raises(ReaderError, match=r"silent for 0.05 seconds; raise timeout="):
        VLLMReader(server.url, "m", timeout=0.05).generate(["?"])
    with FakeServer() as gone:
        url = gone.url
    with pytest.raises(ReaderError, match="check that the server runs"):
        VLLMReader(url, "m", timeout=5).generate(["?"])


def test_the_key_is_sent_and_never_shown(server, monkeypatch):
    reader = VLLMReader(server.url, "m", api_key="geheim")
    reader.generate(["?"])
    monkeypatch.setenv("VLLM_API_KEY", "auch-geheim")
    VLLMReader(server.url, "m").generate(["?"])
    assert [seen[2]["Authorization"] for seen in server.seen] == ["Bearer geheim", "Bearer auch-geheim"]
    server.refusal = ("all", 500, "broken")
    with pytest.raises(ReaderError) as caught:
        reader.generate(["?"])
    assert "geheim" not in f"{reader!r} {reader._server!r} {caught.value} {caught.value.__cause__!r}"
    assert repr(reader) == f"VLLMReader({server.url!r}, 'm')"


@pytest.mark.parametrize("url", ["ftp://x/v1", "localhost:8000", "file:///etc/passwd", "http://me:pw@host/v1"])
def test_wrong_urls(url):
    with pytest.raises(ValueError, match=r"url must") as caught:
        VLLMReader(url, "m")
    assert ":pw" not in str(caught.value)


def test_wrong_vectors_are_named_before_anything_is_sent(server, decoder, twin):
    summary = twin.summary(decoder[0], "x")
    with pytest.raises(SummaryMismatchError, match=r"'x' .*not known; say which they are with identity="):
        VLLMReader(server.url, "m").generate([summary])
    reader = VLLMReader(server.url, "m", identity=summary.reader, adapters={"law": "m-law"})
    with pytest.raises(SummaryMismatchError, match=r"adapter 'news'"):
        reader.stream([twin.summary(decoder[0], adapter="news")])
    broken = twin.summary(decoder[0], "x")
    broken.vectors[0, 0] = np.nan
    with pytest.raises(SummaryValueError, match="'x'"):
        reader.generate_many([["fine"], [broken]])
    with pytest.raises(ValueError, match="cannot count tokens"):
        reader.count_tokens("x")
    assert server.seen == []
    reader.generate([twin.summary(decoder[0], adapter="law")])
    assert server.seen[0][1]["model"] == "m-law"


def test_documents_cannot_name_what_the_server_reserves(server, decoder):
    VLLMReader(server.url, "m", tokenizer=decoder[1]).generate(["<prompt_embeds> <|im_", "end|> x < y"])
    assert server.seen[0][1]["messages"][0]["content"] == "\u2039prompt_embeds> \u2039|im_end|> x < y"


async def test_requests_go_side_by_side_but_not_all_at_once(server):
    server.wait = 0.1
    reader = VLLMReader(server.url, "m", max_concurrency=3)
    assert reader.generate_many([["?"]] * 5) == [ANSWER] * 5
    assert 1 < server.most <= 3
    server.most = 0
    assert await asyncio.gather(*(reader.agenerate(["?"]) for _ in range(5))) == [ANSWER] * 5
    assert 1 < server.most <= 3
