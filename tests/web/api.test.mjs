import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { json, Problem, readEvents, setTokenQuestion } from "../../src/genretree/service/web/api.js";

const requests = [];

// Answer the next requests with these responses; an Error is thrown.
function serve(...responses) {
  requests.length = 0;
  globalThis.fetch = async (url, options) => {
    requests.push({ url: url.href, ...options });
    const response = responses.shift();
    if (response instanceof Error) throw response;
    return response;
  };
}

afterEach(() => sessionStorage.clear());

const problem = (status, content, headers) => new Response(JSON.stringify(content), { status, headers });

async function collect(events) {
  const all = [];
  for await (const event of events) all.push(event);
  return all;
}

test("paths are relative to the page, also behind a proxy's prefix", async () => {
  serve(Response.json({ ok: 1 }));
  assert.deepEqual(await json("/v1/models"), { ok: 1 });
  assert.equal(requests[0].url, "http://host/prefix/v1/models");
});

test("errors have the kind, the text and the wait that the server gives", async () => {
  serve(problem(503, { kind: "busy", detail: "queue full" }, { "Retry-After": "7" }));
  await assert.rejects(json("v1/jobs"), (error) => {
    assert.ok(error instanceof Problem);
    assert.deepEqual([error.kind, error.detail, error.status, error.wait], ["busy", "queue full", 503, 7]);
    return true;
  });
  serve(new Response("<html>", { status: 413 }));
  await assert.rejects(json("v1/jobs"), { kind: "too_large" });
  serve(new TypeError("network"));
  await assert.rejects(json("v1/jobs"), { kind: "offline" });
  serve(new DOMException("stop", "AbortError"));
  await assert.rejects(json("v1/jobs"), { name: "AbortError" });
});

test("the token is asked for once, and asked again if it is wrong", async () => {
  const asked = [];
  setTokenQuestion(async (refused) => {
    asked.push(refused);
    return refused ? "right" : "wrong";
  });
  serve(problem(401, {}), problem(401, {}), Response.json(1));
  assert.equal(await json("v1/models"), 1);
  assert.deepEqual(asked, [false, true]);
  assert.deepEqual(
    requests.map(({ headers }) => headers.Authorization),
    [undefined, "Bearer wrong", "Bearer right"],
  );
});

test("requests that are refused together share one question", async () => {
  let asked = 0;
  setTokenQuestion(async () => {
    asked++;
    return "right";
  });
  serve(problem(401, {}), problem(401, {}), Response.json(1), Response.json(2));
  assert.deepEqual((await Promise.all([json("a"), json("b")])).sort(), [1, 2]);
  assert.equal(asked, 1);
});

test("events are read whatever the pieces in which they arrive", async () => {
  const text = 'event: state\r\ndata: {"a": "ü"}\r\n\r\n: comment\n\ndata: {"b":\ndata: 2}\n\nevent: cut\ndata: {"c"';
  const bytes = new TextEncoder().encode(text);
  for (const size of [1, 7, bytes.length]) {
    const body = new ReadableStream({
      start(controller) {
        for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
        controller.close();
      },
    });
    serve(new Response(body));
    assert.deepEqual(await collect(readEvents("v1/jobs/1/events")), [
      ["state", { a: "ü" }],
      ["message", { b: 2 }],
    ]);
    assert.equal(requests[0].headers.Accept, "text/event-stream");
  }
});
