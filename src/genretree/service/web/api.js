// The client of the service's HTTP interface.

const TOKEN_KEY = "genretree.token";
let pendingToken = null;
let askForToken = () => Promise.reject(new Problem({ kind: "unauthorized" }, 401));

export class Problem extends Error {
  constructor(problem, status = 0, wait = null) {
    super(problem.detail || problem.title || "");
    this.kind = problem.kind || "error";
    this.title = problem.title || "";
    this.detail = problem.detail || "";
    this.status = status;
    this.wait = wait; // seconds until the server allows a retry
  }
}

// Set the function (refused) -> promise of the token that asks the user for it.
export function setTokenQuestion(question) {
  askForToken = question;
}

// Links in responses begin with "/"; relative to the page's address they also work behind a proxy's prefix.
function address(path) {
  return new URL(path.replace(/^\//, ""), document.baseURI);
}

function headers() {
  const token = sessionStorage.getItem(TOKEN_KEY);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

function asProblem(text, status, wait) {
  try {
    return new Problem(JSON.parse(text), status, wait);
  } catch {
    return new Problem({ kind: status === 413 ? "too_large" : "error", title: `HTTP status ${status}` }, status, wait);
  }
}

// Send a request; if the server requires a token, ask for one and retry.
async function withToken(request) {
  for (;;) {
    const used = sessionStorage.getItem(TOKEN_KEY);
    try {
      return await request();
    } catch (error) {
      if (error.status !== 401) throw error;
      if (sessionStorage.getItem(TOKEN_KEY) !== used) continue; // another request got a new token meanwhile
      pendingToken ??= askForToken(used !== null).finally(() => {
        pendingToken = null;
      });
      sessionStorage.setItem(TOKEN_KEY, await pendingToken);
    }
  }
}

// Fetch; throws a Problem for any error.
export function call(path, options = {}) {
  return withToken(async () => {
    let response;
    try {
      response = await fetch(address(path), { ...options, headers: { ...options.headers, ...headers() } });
    } catch (error) {
      throw error.name === "AbortError" ? error : new Problem({ kind: "offline" });
    }
    if (response.ok) return response;
    throw asProblem(await response.text(), response.status, Number(response.headers.get("Retry-After")) || null);
  });
}

export async function json(path, options) {
  return (await call(path, options)).json();
}

// Fetch a picture or audio as a blob URL, because an <img> can't send the token.
export async function fetchBlobUrl(path, signal) {
  return makeBlobUrl(await (await call(path, { signal })).blob());
}

const blobs = new Map(); // by URL, because the page's policy forbids to fetch blob URLs

export function makeBlobUrl(blob) {
  const url = URL.createObjectURL(blob);
  blobs.set(url, blob);
  return url;
}

export const blobOf = (url) => blobs.get(url);

export function releaseBlobUrl(url) {
  URL.revokeObjectURL(url);
  blobs.delete(url);
}

// Upload a file with XMLHttpRequest, because fetch doesn't report progress. `onProgress` gets a number in [0, 1].
export function upload(path, file, onProgress, signal) {
  return withToken(
    () =>
      new Promise((resolve, reject) => {
        const request = new XMLHttpRequest();
        request.open("POST", address(path));
        for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
        request.upload.onprogress = (event) => {
          if (event.lengthComputable) onProgress(event.loaded / event.total);
        };
        request.onload = () => {
          if (request.status < 300) resolve(JSON.parse(request.responseText));
          else
            reject(
              asProblem(request.responseText, request.status, Number(request.getResponseHeader("Retry-After")) || null),
            );
        };
        request.onerror = () => reject(new Problem({ kind: "offline" }));
        request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
        if (signal.aborted) return request.onabort();
        signal.addEventListener("abort", () => request.abort(), { once: true });
        const form = new FormData();
        form.append("file", file, file.name);
        request.send(form);
      }),
  );
}

// Read server-sent events with fetch, because EventSource can't send the token. Yields [name, data].
export async function* readEvents(path, signal) {
  const response = await call(path, { signal, headers: { Accept: "text/event-stream" } });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer = (buffer + value).replaceAll("\r\n", "\n");
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const fields = block
        .split("\n")
        .map((line) => line.match(/^(\w+): ?(.*)$/))
        .filter(Boolean);
      const data = fields
        .filter((field) => field[1] === "data")
        .map((field) => field[2])
        .join("\n");
      if (data) yield [fields.find((field) => field[1] === "event")?.[2] ?? "message", JSON.parse(data)];
    }
  }
}
